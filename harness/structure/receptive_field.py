"""The size, jump and start of a value's receptive field, and a table of receptive fields.

Conventions, after Araujo, Norris and Sim, "Computing receptive fields of convolutional neural networks" (Distill, 2019):
*size* is the number of input pixels, along one axis, that one position would depend on if the input were unbounded; *jump*
is the distance in input pixels between the fields of neighbouring positions; *start* is the first input pixel of position 0
(negative inside padding). The size counts pixels beyond the input; ``clipped`` is the part of the size inside the input.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from harness.graph.form import Argument, Graph, Operation, Ref, bind
from harness.structure.fields import AxisField, Certainty, FieldMap, extents
from harness.structure.layers import operation_title

_WINDOWS = frozenset({"avg_pool2d", "conv2d", "conv_transpose2d", "max_pool2d"})


@dataclass(frozen=True, kw_only=True)
class AxisExtent:
    """The receptive field of a value along one axis, in the conventions of this module.

    ``positions`` is the number of positions; ``size`` and ``clipped`` are the largest over all positions; ``jump`` is None
    if the distances differ; ``intervals`` are the first and last input pixel of the field of every position, unclipped.
    """

    positions: int
    size: int
    clipped: int
    jump: Fraction | None
    start: int
    intervals: tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True)
class ReceptiveField:
    """The receptive field of one value along rows and columns; ``note`` says why the certainty is not ``exact``."""

    rows: AxisExtent
    columns: AxisExtent
    certainty: Certainty
    note: str

    @property
    def size(self) -> int:
        """The smaller of the receptive field's two sizes, along rows and along columns, in pixels."""
        return min(self.rows.size, self.columns.size)

    @property
    def clipped(self) -> int:
        """The smaller of the two sizes, along rows and along columns, of the part inside the input, in pixels."""
        return min(self.rows.clipped, self.columns.clipped)


def field_of(field_map: FieldMap) -> ReceptiveField:
    """Compute sizes, jumps and intervals of the receptive field from a value's field map."""
    return ReceptiveField(
        rows=_extent([path.rows for path in field_map.paths]),
        columns=_extent([path.columns for path in field_map.paths]),
        certainty=field_map.certainty,
        note=field_map.note,
    )


def _extent(fields: list[AxisField]) -> AxisExtent:
    low, high = extents(fields)
    seen = [np.flatnonzero(row) for row in np.logical_or.reduce([field.mask for field in fields])]
    clipped = max((int(pixels[-1] - pixels[0]) + 1 for pixels in seen if len(pixels)), default=0)
    size = max(last - first + 1 for first, last in zip(low, high, strict=True))
    jumps = {field.jump for field in fields}
    return AxisExtent(
        positions=fields[0].positions,
        size=size,
        # With circular or reflecting padding, a position can depend on pixels at the opposite end of the map.
        clipped=min(clipped, size),
        jump=jumps.pop() if len(jumps) == 1 else None,
        start=low[0],
        intervals=tuple(zip(low, high, strict=True)),
    )


@dataclass(frozen=True, kw_only=True)
class FieldRow:
    """A row of the receptive-field table: an operation with a sliding window, or one that changes the receptive field.

    ``value`` is the name of the operation's result. ``kernel`` and ``stride`` count positions of the operand; both, and
    ``padding``, are empty if there is no window. ``positions_in`` and ``jump_in`` describe the operand, ``positions_out``,
    ``jump_out`` and ``field`` the result; a jump is in input pixels, None if the distances differ. Texts contain one
    number if rows and columns are equal, and else two, such as ``3x5``.
    """

    title: str
    module: str
    value: str
    kernel: str
    stride: str
    padding: str
    positions_in: str
    positions_out: str
    jump_in: Fraction | None
    jump_out: Fraction | None
    field: ReceptiveField

    @property
    def size(self) -> str:
        """The size of the receptive field on an unbounded input, as text."""
        return _both(self.field.rows.size, self.field.columns.size)

    @property
    def clipped(self) -> str:
        """The size of the part of the receptive field that lies inside the input, as text."""
        return _both(self.field.rows.clipped, self.field.columns.clipped)

    @property
    def certainty(self) -> Certainty:
        """Whether the receptive field is exact, an upper bound, or unknown."""
        return self.field.certainty


def field_table(graph: Graph, field_maps: Mapping[str, FieldMap]) -> tuple[FieldRow, ...]:
    """The receptive-field table of a graph's evaluation program, in order; ``field_maps`` are the program's field maps."""
    rows = []
    for operation in graph.evaluate.operations:
        sources = [ref for ref in dict.fromkeys(operation.refs()) if ref in field_maps]
        if operation.name not in field_maps or not sources:
            continue
        after, before = field_of(field_maps[operation.name]), field_of(field_maps[sources[0]])
        windowed = operation.kind.name in _WINDOWS
        if not windowed and _figures(after) == _figures(before):
            continue
        kernel, stride, padding = _window(operation, graph) if windowed else _whole(before, after)
        rows.append(
            FieldRow(
                title=operation_title(operation),
                module=operation.module,
                value=operation.name,
                kernel=kernel,
                stride=stride,
                padding=padding,
                positions_in=_both(before.rows.positions, before.columns.positions),
                positions_out=_both(after.rows.positions, after.columns.positions),
                jump_in=_jump(before),
                jump_out=_jump(after),
                field=after,
            )
        )
    return tuple(rows)


def _figures(field: ReceptiveField) -> list[object]:
    return [(axis.positions, axis.size, axis.jump, axis.intervals) for axis in (field.rows, field.columns)]


def _window(operation: Operation, graph: Graph) -> tuple[str, str, str]:
    bound = bind(operation)
    weight = bound.get("weight")
    if isinstance(weight, Ref):
        spec = graph.tensor(weight.name)
        kernel: Argument = spec.shape[2:] if spec is not None else ()
    else:
        kernel = bound.get("kernel_size")
    stride = bound.get("stride") or kernel
    padding = bound.get("padding")
    return _pair_words(kernel), _pair_words(stride), padding if isinstance(padding, str) else _pair_words(padding)


def _whole(before: ReceptiveField, after: ReceptiveField) -> tuple[str, str, str]:
    """Kernel, stride and padding, as text, of an operation without a window.

    An operation that reduces a map to one position has a kernel of the map's size; for others the texts are empty.
    """
    if (after.rows.positions, after.columns.positions) == (1, 1) and before.rows.positions > 1:
        size = _both(before.rows.positions, before.columns.positions)
        return size, size, "0"
    return "", "", ""


def _jump(field: ReceptiveField) -> Fraction | None:
    return field.rows.jump if field.rows.jump == field.columns.jump else None


def _both(rows: int, columns: int) -> str:
    return str(rows) if rows == columns else f"{rows}x{columns}"


def _pair_words(value: Argument) -> str:
    if isinstance(value, tuple) and value:
        return str(value[0]) if len(set(value)) == 1 else "x".join(str(item) for item in value)
    return str(value)
