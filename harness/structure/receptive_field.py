"""The receptive field of a value in the figures that textbooks use.

Conventions, after Araujo, Norris and Sim, "Computing receptive fields of convolutional neural networks" (Distill, 2019):
*size* is the extent in input pixels that one position would see on an unbounded input, *jump* the distance in input pixels
between the fields of neighbouring positions, *start* the first input pixel of position 0 (negative inside padding). Pixels
beyond the input are counted; ``clipped`` is the part of the size inside the input.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from harness.structure.fields import AxisField, Certainty, FieldMap, extents


@dataclass(frozen=True, kw_only=True)
class AxisExtent:
    """The receptive field along one axis, see the module's conventions.

    Args:
        positions: how many positions the value has.
        size: extent seen by one position on an unbounded input (the largest over positions).
        clipped: the same inside the input.
        jump: input pixels between neighbouring fields; None where no single figure holds.
        start: first input pixel of position 0.
        intervals: first and last input pixel of every position, unclipped.
    """

    positions: int
    size: int
    clipped: int
    jump: Fraction | None
    start: int
    intervals: tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True)
class ReceptiveField:
    """The receptive field of one value."""

    rows: AxisExtent
    columns: AxisExtent
    certainty: Certainty
    note: str

    @property
    def size(self) -> int:
        """The smaller of the two sizes: a field of N means N in both directions."""
        return min(self.rows.size, self.columns.size)

    @property
    def clipped(self) -> int:
        """The smaller of the two sizes inside the input."""
        return min(self.rows.clipped, self.columns.clipped)


def field_of(field_map: FieldMap) -> ReceptiveField:
    """The receptive field of the value that a field map describes."""
    return ReceptiveField(
        rows=_extent([path.rows for path in field_map.paths]),
        columns=_extent([path.columns for path in field_map.paths]),
        certainty=field_map.certainty,
        note=field_map.note,
    )


def _extent(fields: list[AxisField]) -> AxisExtent:
    low, high = extents(fields)
    clipped = 0
    for row in np.logical_or.reduce([field.mask for field in fields]):
        indices = np.flatnonzero(row)
        if len(indices):
            clipped = max(clipped, int(indices[-1] - indices[0]) + 1)
    jumps = {field.jump for field in fields}
    return AxisExtent(
        positions=fields[0].positions,
        size=max(last - first + 1 for first, last in zip(low, high, strict=True)),
        clipped=clipped,
        jump=jumps.pop() if len(jumps) == 1 else None,
        start=low[0],
        intervals=tuple(zip(low, high, strict=True)),
    )
