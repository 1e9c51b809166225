"""The receptive-field table: one row for each operation that moves a window or joins two ways."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from harness.graph.form import Argument, Operation, Ref, bind
from harness.structure.fields import Certainty
from harness.structure.layers import operation_title
from harness.structure.receptive_field import AxisExtent, ReceptiveField, field_of
from harness.structure.structure import Structure

_WINDOWS = frozenset({"avg_pool2d", "conv2d", "conv_transpose2d", "max_pool2d"})


@dataclass(frozen=True, kw_only=True)
class FieldRow:
    """One row of the table; figures are for rows and columns, one number where both agree.

    Args:
        title: the operation.
        module: the submodule it runs in.
        value: the name of its result.
        kernel: size of the window in positions of the map before; empty where there is no window.
        stride: step of the window; empty where there is no window.
        padding: zeros around the map; empty where there is no window.
        positions_in: size of the map before.
        positions_out: size of the map after.
        jump_in: input pixels between neighbouring positions before; None where no single figure holds.
        jump_out: the same after.
        field: the receptive field after.
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
        """The field's size on an unbounded input."""
        return _both(self.field.rows.size, self.field.columns.size)

    @property
    def clipped(self) -> str:
        """The part of it inside the input."""
        return _both(self.field.rows.clipped, self.field.columns.clipped)

    @property
    def certainty(self) -> Certainty:
        """Whether the field is exact, a bound, or unknown."""
        return self.field.certainty


def field_table(structure: Structure) -> tuple[FieldRow, ...]:
    """The rows for one model, in the order of evaluation."""
    field_maps = structure.field_maps
    rows = []
    for operation in structure.graph.evaluate.operations:
        sources = [ref for ref in dict.fromkeys(operation.refs()) if ref in field_maps]
        if operation.name not in field_maps or not sources:
            continue
        after, before = field_of(field_maps[operation.name]), field_of(field_maps[sources[0]])
        windowed = operation.kind.name in _WINDOWS
        if not windowed and _figures(after) == _figures(before):
            continue
        kernel, stride, padding = _window(operation, structure) if windowed else _whole(before, after)
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


def _figures(field: ReceptiveField) -> tuple[object, ...]:
    def of(axis: AxisExtent) -> tuple[object, ...]:
        return axis.positions, axis.size, axis.jump, axis.intervals

    return of(field.rows), of(field.columns)


def _window(operation: Operation, structure: Structure) -> tuple[str, str, str]:
    bound = bind(operation)
    weight = bound.get("weight")
    if isinstance(weight, Ref):
        spec = structure.graph.tensor(weight.name)
        kernel: Argument = spec.shape[2:] if spec is not None else ()
    else:
        kernel = bound.get("kernel_size")
    stride = bound.get("stride") or kernel
    padding = bound.get("padding")
    return _pair_words(kernel), _pair_words(stride), padding if isinstance(padding, str) else _pair_words(padding)


def _whole(before: ReceptiveField, after: ReceptiveField) -> tuple[str, str, str]:
    """A mean over the whole map is a window of the map's size; a resize or a join has none."""
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
