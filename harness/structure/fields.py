"""Receptive fields as data, and how operations change receptive fields.

The receptive field of a position of a value is the set of input pixels that the position depends on.

Along one axis an operation is described by its *taps*: for each output position, the list of input positions that the
operation reads. A convolution, a pooling, a resize, a slice and a global mean differ only in their taps. The receptive
field of a value is a union of rectangles, one `FieldPath` for each path from the image to the value (a skip connection adds a
second path). A rectangle is stored as one `AxisField` for the rows and one for the columns, which saves memory.

A position depends on each pixel that its computation reads, also if the pixel is multiplied by a weight of zero. Pixel indices
below zero or beyond the last pixel, which padding adds, are kept.
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
# The image axes that are merged into a dimension of a value, in order; () for a dimension of size one without an image axis.
Axes = tuple[str, ...]

# If more paths than this lead to a value, one rectangle around the fields of all paths describes the value.
_MAX_PATHS = 16
_RANK = {"exact": 0, "bound": 1, "unknown": 2}


@dataclass(frozen=True, kw_only=True)
class AxisField:
    """The receptive field of one path along one axis: the input pixels that each position of a value depends on.

    ``mask`` is ``(positions, input size)``, true where the position depends on the pixel; ``low`` and ``high`` are the first
    and last pixel that each position depends on if the input is unbounded; ``jump`` is the distance in input pixels between
    the fields of neighbouring positions, None if the distances differ. ``collapsed`` names the operation that reduced the
    axis to one position, such as ``average``, and is empty if none did; ``collapsed_from`` is the number of positions
    before the reduction.
    """

    mask: Mask
    low: tuple[int, ...]
    high: tuple[int, ...]
    jump: Fraction | None
    collapsed: str = ""
    collapsed_from: int = 1

    @classmethod
    def identity(cls, size: int) -> AxisField:
        """The field along an axis of the image, of ``size`` pixels: every position depends on the pixel at its index."""
        pixels = tuple(range(size))
        return cls(mask=np.eye(size, dtype=np.bool_), low=pixels, high=pixels, jump=Fraction(1))

    @property
    def positions(self) -> int:
        """Number of positions of the value along this axis."""
        return len(self.low)

    def at(self, position: int) -> tuple[int, int]:
        """First and last pixel that a position depends on; positions in the padding continue with the same jump."""
        inside = min(max(position, 0), self.positions - 1)
        offset = math.floor((position - inside) * (self.jump or 0))
        return self.low[inside] + offset, self.high[inside] + offset

    def through(
        self, taps: Taps, *, stride: Fraction | None = Fraction(1), how: str = "other", unbounded: Taps | None = None
    ) -> AxisField:
        """The field of the result of an operation with the given taps.

        The jump is multiplied by ``stride``, which is None if the taps are not evenly spaced. ``how`` names the operation,
        such as ``average``, and is stored if the axis is reduced to one position. ``unbounded`` are the taps on an
        unbounded input, if different.
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
        """The field after the only position is repeated ``positions`` times; unchanged if there are as many positions."""
        if self.positions == positions:
            return self
        return replace(self.through([[0]] * positions, stride=None), collapsed="", collapsed_from=1)

    def whole(self, *, how: str = "other") -> AxisField:
        """The field of a single position that depends on every pixel that any position of this field depends on."""
        return self.through([list(range(self.positions))], how=how)

    def whole_everywhere(self) -> AxisField:
        """A field with as many positions, each of which depends on every pixel that any position depends on."""
        return self.whole().broadcast(self.positions)

    def within(self, other: AxisField) -> bool:
        """Whether, at each position, this field is contained in the field ``other``."""
        return (
            not bool((self.mask & ~other.mask).any())
            and all(a >= b for a, b in zip(self.low, other.low, strict=True))
            and all(a <= b for a, b in zip(self.high, other.high, strict=True))
        )


@dataclass(frozen=True, kw_only=True)
class FieldPath:
    """The receptive field of a value along one path from the image: the field along the rows and along the columns."""

    rows: AxisField
    columns: AxisField

    def along(self, axis: Axis) -> AxisField:
        """The field along one axis."""
        return self.rows if axis == "H" else self.columns

    def replaced(self, axis: Axis, field: AxisField) -> FieldPath:
        """A copy of the path with the given field along one axis."""
        return replace(self, rows=field) if axis == "H" else replace(self, columns=field)


@dataclass(frozen=True, kw_only=True)
class FieldMap:
    """The receptive field of one value.

    ``axes`` lists, for each dimension of the value, the image axes merged into the dimension, from ``N``, ``C``, ``H``,
    ``W``. The receptive field is the union of ``paths``. A certainty of ``bound`` means that the true field is contained in
    the union; ``note`` says why the field is not exact; ``mixed`` means that channels may have different fields.
    """

    axes: tuple[Axes, ...]
    paths: tuple[FieldPath, ...]
    certainty: Certainty = "exact"
    note: str = ""
    mixed: bool = False

    def map_axis(self, axis: Axis, change: Callable[[AxisField], AxisField]) -> FieldMap:
        """A copy in which the function ``change`` was applied to every path's field along one axis."""
        return replace(self, paths=tuple(path.replaced(axis, change(path.along(axis))) for path in self.paths))

    def map_axes_of(self, dim: int, change: Callable[[AxisField], AxisField]) -> FieldMap:
        """A copy in which ``change`` was applied to the fields along the image axes of the dimension ``dim``."""
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
        """The field map of the result of an operation with the given taps along one axis; see `AxisField.through`."""
        return self.map_axis(axis, lambda field: field.through(taps, stride=stride, how=how, unbounded=unbounded))

    def axis_of(self, dim: int) -> Axis | None:
        """The image axis, rows or columns, that is the only axis of the dimension ``dim``; None if there is none."""
        return next((axis for axis in AXES if self.axes[dim] == (axis,)), None)

    def positions(self, axis: Axis) -> int:
        """Number of positions of the value along an axis."""
        return self.paths[0].along(axis).positions

    def weakened(self, certainty: Certainty, note: str) -> FieldMap:
        """A copy with the given certainty and note; unchanged if the certainty is already as low or lower."""
        weaker = _RANK[certainty] > _RANK[self.certainty]
        return replace(self, certainty=certainty, note=note) if weaker else self

    def some_channels(self) -> FieldMap:
        """The field map of a subset of the value's channels, which is only a bound if channels may have different fields."""
        return (
            self.weakened("bound", "some channels are selected, and channels have different receptive fields")
            if self.mixed
            else self
        )

    def same_paths(self, other: FieldMap) -> bool:
        """Whether both field maps have equal receptive fields at every position."""
        same_size = all(self.positions(axis) == other.positions(axis) for axis in AXES)
        return same_size and _covered(self.paths, other.paths) and _covered(other.paths, self.paths)

    def pruned(self) -> FieldMap:
        """A copy without paths whose field another path contains; if more than 16 remain, one rectangle replaces them."""
        kept: list[FieldPath] = []
        for index, path in enumerate(self.paths):
            if not _covered([path], [*kept, *self.paths[index + 1 :]]):
                kept.append(path)
        if len(kept) <= _MAX_PATHS:
            return replace(self, paths=tuple(kept))
        around = FieldPath(rows=_around([path.rows for path in kept]), columns=_around([path.columns for path in kept]))
        note = (
            f"more than {_MAX_PATHS} paths lead to a value, and the rectangle around the fields of all paths is given"
        )
        return replace(self, paths=(around,)).weakened("bound", note)

    def seen(self) -> Mask:
        """A mask ``(rows, columns, input rows, input columns)``, true where the position depends on the pixel."""
        masks = [np.einsum("ip,jq->ijpq", path.rows.mask, path.columns.mask) for path in self.paths]
        union: Mask = np.logical_or.reduce(masks)
        return union


def least_certain(maps: Iterable[FieldMap]) -> FieldMap:
    """The field map with the lowest certainty; of several with the same certainty, the first."""
    return max(maps, key=lambda field_map: _RANK[field_map.certainty])


def extents(fields: Sequence[AxisField]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """First and last pixel that each position depends on over the fields of several paths along one axis.

    A field whose last pixel comes before its first is empty and left out, unless all are empty.
    """
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
