"""Receptive fields as data: which input pixels each position of a value sees, and how operations change this.

Along one axis an operation is described by its *taps*: for each output position the input positions that it reads. A
convolution, a pooling, a resize, a slice and a global mean differ only in their taps. What a value sees is a union of
rectangles, one `FieldPath` for each path that leads to it (a skip connection adds a second), and a rectangle is one
`AxisField` for the rows and one for the columns, which saves memory.

"Sees" means that the operation reads the pixel: a pixel read with weight zero counts. Positions before the first pixel and
after the last one, which padding adds, are kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

import numpy as np
import numpy.typing as npt

Axis = Literal["H", "W"]
AXES: tuple[Axis, Axis] = ("H", "W")
Certainty = Literal["exact", "bound", "unknown"]
Mask = npt.NDArray[np.bool_]
Taps = list[list[int]]
# What a dimension of a value stands for: axes merged into it, in order. () is a dimension of size one that stands for nothing.
Axes = tuple[str, ...]

# A value reached by more paths than this is described by the rectangle around all of them.
_MAX_PATHS = 16
_RANK = {"exact": 0, "bound": 1, "unknown": 2}


@dataclass(frozen=True, kw_only=True)
class AxisField:
    """The field of one path along one axis: the input positions that each position sees.

    ``mask`` is ``(positions, input size)``, true where the position sees the pixel; ``low`` and ``high`` are the first and last
    pixel each position sees on an unbounded input; ``jump`` the input pixels between the fields of neighbouring positions, None
    where it is not uniform. ``collapsed`` says how the axis was reduced to one position, such as ``average``, and is
    empty while it has not been; ``collapsed_from`` is how many positions it had before.
    """

    mask: Mask
    low: tuple[int, ...]
    high: tuple[int, ...]
    jump: Fraction | None
    collapsed: str = ""
    collapsed_from: int = 1

    @classmethod
    def identity(cls, size: int) -> AxisField:
        """The field along an axis of the image itself: every position sees one pixel."""
        pixels = tuple(range(size))
        return cls(mask=np.eye(size, dtype=np.bool_), low=pixels, high=pixels, jump=Fraction(1))

    @property
    def positions(self) -> int:
        """Number of positions of the value along this axis."""
        return len(self.low)

    def at(self, position: int) -> tuple[int, int]:
        """First and last pixel seen by a position, which may lie in the padding."""
        inside = min(max(position, 0), self.positions - 1)
        offset = math.floor((position - inside) * (self.jump or 0))
        return self.low[inside] + offset, self.high[inside] + offset

    def through(
        self, taps: Taps, *, stride: Fraction | None = Fraction(1), how: str = "other", unbounded: Taps | None = None
    ) -> AxisField:
        """The field after an operation with these taps.

        The jump is multiplied by ``stride``, None if it is not uniform. ``how`` says what the operation does with what
        it reads, kept if the axis is reduced to one position. ``unbounded`` are the taps for an unbounded input.
        """
        mask = np.zeros((len(taps), self.mask.shape[1]), dtype=np.bool_)
        low, high = [], []
        for row, reads in enumerate(taps):
            inside = [position for position in reads if 0 <= position < self.positions]
            if inside:
                mask[row] = self.mask[inside].any(axis=0)
        for reads in taps if unbounded is None else unbounded:
            ends = [(first, last) for first, last in map(self.at, reads) if first <= last]
            low.append(min((first for first, _ in ends), default=0))
            high.append(max((last for _, last in ends), default=-1))
        collapses = len(taps) == 1 and self.positions > 1
        return AxisField(
            mask=mask,
            low=tuple(low),
            high=tuple(high),
            jump=self.jump * stride if self.jump is not None and stride is not None else None,
            collapsed=how if collapses else self.collapsed,
            collapsed_from=self.positions if collapses else self.collapsed_from,
        )

    def broadcast(self, positions: int) -> AxisField:
        """The field of a single position repeated for several; unchanged if it already has as many."""
        if self.positions == positions:
            return self
        return replace(self.through([[0]] * positions, stride=None), collapsed="", collapsed_from=1)

    def whole(self, *, how: str = "other") -> AxisField:
        """A single position that sees the union of what all positions see."""
        return self.through([list(range(self.positions))], how=how)

    def whole_everywhere(self) -> AxisField:
        """The same number of positions, each of which sees the union of what all see."""
        return self.whole().broadcast(self.positions)

    def within(self, other: AxisField) -> bool:
        """Whether each position sees a subset of what the same position of the other field sees."""
        return (
            not bool((self.mask & ~other.mask).any())
            and all(a >= b for a, b in zip(self.low, other.low, strict=True))
            and all(a <= b for a, b in zip(self.high, other.high, strict=True))
        )


@dataclass(frozen=True, kw_only=True)
class FieldPath:
    """One path from the image to a value: the field along the rows and the field along the columns."""

    rows: AxisField
    columns: AxisField

    def along(self, axis: Axis) -> AxisField:
        """The field along one axis."""
        return self.rows if axis == "H" else self.columns

    def replaced(self, axis: Axis, field: AxisField) -> FieldPath:
        """The same path with another field along one axis."""
        return replace(self, rows=field) if axis == "H" else replace(self, columns=field)


@dataclass(frozen=True, kw_only=True)
class FieldMap:
    """The receptive field of one value.

    ``axes`` lists the image axes of each dimension, from ``N``, ``C``, ``H``, ``W``; ``paths`` start at the image.
    A certainty of ``bound`` means that it sees no more than this; ``note`` says why it is not exact; ``mixed`` means
    that its channels may see different parts of what it sees as a whole.
    """

    axes: tuple[Axes, ...]
    paths: tuple[FieldPath, ...]
    certainty: Certainty = "exact"
    note: str = ""
    mixed: bool = False

    def map_axis(self, axis: Axis, change: Callable[[AxisField], AxisField]) -> FieldMap:
        """Apply a function to every path's field along one axis."""
        return replace(self, paths=tuple(path.replaced(axis, change(path.along(axis))) for path in self.paths))

    def map_axes_of(self, dim: int, change: Callable[[AxisField], AxisField]) -> FieldMap:
        """Apply a function to the fields along the axes that one dimension stands for."""
        changed = self
        for axis in AXES:
            if axis in self.axes[dim]:
                changed = changed.map_axis(axis, change)
        return changed

    def through(
        self,
        axis: Axis,
        taps: Taps,
        *,
        stride: Fraction | None = Fraction(1),
        how: str = "other",
        unbounded: Taps | None = None,
    ) -> FieldMap:
        """The field map after an operation with these taps along one axis; see `AxisField.through`."""
        return self.map_axis(axis, lambda field: field.through(taps, stride=stride, how=how, unbounded=unbounded))

    def axis_of(self, dim: int) -> Axis | None:
        """The axis of the image that a dimension stands for alone; None where it stands for something else."""
        return next((axis for axis in AXES if self.axes[dim] == (axis,)), None)

    def positions(self, axis: Axis) -> int:
        """Number of positions along an axis."""
        return self.paths[0].along(axis).positions

    def weakened(self, certainty: Certainty, note: str) -> FieldMap:
        """A copy whose certainty is limited to at most the given one."""
        weaker = _RANK[certainty] > _RANK[self.certainty]
        return replace(self, certainty=certainty, note=note) if weaker else self

    def some_channels(self) -> FieldMap:
        """The field map of a subset of channels: a bound if channels see different parts."""
        return (
            self.weakened("bound", "it takes some of the channels, which see different parts") if self.mixed else self
        )

    def same_paths(self, other: FieldMap) -> bool:
        """Whether both field maps see the same pixels."""
        same_size = all(self.positions(axis) == other.positions(axis) for axis in AXES)
        return same_size and _covered(self.paths, other.paths) and _covered(other.paths, self.paths)

    def pruned(self) -> FieldMap:
        """A copy without paths that others cover; if too many are left, one rectangle replaces them."""
        kept: list[FieldPath] = []
        for index, path in enumerate(self.paths):
            if not _covered([path], [*kept, *self.paths[index + 1 :]]):
                kept.append(path)
        if len(kept) <= _MAX_PATHS:
            return replace(self, paths=tuple(kept))
        around = FieldPath(rows=_around([path.rows for path in kept]), columns=_around([path.columns for path in kept]))
        note = f"reached by more than {_MAX_PATHS} paths; the figure is the rectangle around them"
        return replace(self, paths=(around,)).weakened("bound", note)

    def seen(self) -> Mask:
        """Which pixels each position sees: ``(rows, columns, input rows, input columns)``, true where seen."""
        masks = [np.einsum("ip,jq->ijpq", path.rows.mask, path.columns.mask) for path in self.paths]
        union: Mask = np.logical_or.reduce(masks)
        return union


def least_certain(maps: Iterable[FieldMap]) -> FieldMap:
    """The field map with the lowest certainty; the first of several."""
    return max(maps, key=lambda field_map: _RANK[field_map.certainty])


def extents(fields: Sequence[AxisField]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """First and last pixel of each position over several paths, without paths that see nothing (last before first)."""
    low, high = [], []
    for position in range(fields[0].positions):
        ends = [(field.low[position], field.high[position]) for field in fields]
        ends = [(first, last) for first, last in ends if first <= last] or ends[:1]
        low.append(min(first for first, _ in ends))
        high.append(max(last for _, last in ends))
    return tuple(low), tuple(high)


def _covered(paths: Iterable[FieldPath], others: Sequence[FieldPath]) -> bool:
    return all(any(path.rows.within(o.rows) and path.columns.within(o.columns) for o in others) for path in paths)


def _around(fields: Sequence[AxisField]) -> AxisField:
    low, high = extents(fields)
    return AxisField(mask=np.logical_or.reduce([field.mask for field in fields]), low=low, high=high, jump=None)
