"""Receptive-field rules for operations that move numbers unchanged: reshapes, permutations, slices, joins, expansions."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np

from harness.graph.form import Dim, Operation, Ref, Shape
from harness.structure.fields import AXES, Axes, Axis, AxisField, FieldMap, least_certain
from harness.structure.traced_values import (
    Arguments,
    Rule,
    TracedValues,
    UnknownReadsError,
    followed,
    is_spatial,
    map_size,
    normalised_dim,
    normalised_dims,
)

# Replaces the batch size where sizes are multiplied; a prime that is no size in any layer.
_BATCH = 1_000_003
_MAP_DIMS = 4


def _concatenated(values: TracedValues, operation: Operation, arguments: Arguments) -> FieldMap:
    refs = _names(arguments["tensors"])
    position = normalised_dim(arguments.get("dim", 0), len(operation.shape))
    pieces = [values.maps[ref] for ref in refs if ref in values.maps]
    axis = pieces[0].axis_of(position)
    if axis is None:
        return values.as_channels(refs, operation.shape)
    if len(pieces) != len(refs) or any(len(piece.paths) != 1 for piece in pieces):
        reason = "the operation joins along rows or columns, and several or no paths lead from the image to an operand"
        raise UnknownReadsError(reason)
    first = pieces[0].paths[0]
    across: Axis = "W" if axis == "H" else "H"
    if any(not np.array_equal(piece.paths[0].along(across).mask, first.along(across).mask) for piece in pieces):
        reason = "the operation joins along rows or columns, and the operands' fields differ along the other axis"
        raise UnknownReadsError(reason)
    fields = [piece.paths[0].along(axis) for piece in pieces]
    joined = AxisField(
        mask=np.concatenate([field.mask for field in fields]),
        low=tuple(value for field in fields for value in field.low),
        high=tuple(value for field in fields for value in field.high),
        jump=None,
    )
    return replace(least_certain(pieces), paths=(first.replaced(axis, joined),))


def _stacked(values: TracedValues, operation: Operation, arguments: Arguments) -> FieldMap:
    position = normalised_dim(arguments.get("dim", 0), len(operation.shape))
    without = operation.shape[:position] + operation.shape[position + 1 :]
    joined = values.as_channels(_names(arguments["tensors"]), without)
    return replace(joined, axes=(*joined.axes[:position], ("C",), *joined.axes[position:]))


def _reshaped(values: TracedValues, operation: Operation, arguments: Arguments) -> FieldMap:
    field_map, source = values.map_of(arguments["self"]), values.shape_of(arguments["self"])
    axes = _regrouped(field_map, source, operation.shape)
    if axes is None:
        before, after = ("x".join(str(dim) for dim in shape) for shape in (source, operation.shape))
        reason = (
            f"the reshape from {before} to {after} splits rows or columns, or merges the batch with rows or columns"
        )
        raise UnknownReadsError(reason)
    return replace(field_map, axes=axes)


def _regrouped(field_map: FieldMap, source: Shape, target: Shape) -> tuple[Axes, ...] | None:
    """The image axes of each dimension after a reshape from ``source`` to ``target``.

    None if the reshape splits rows, columns or the batch, or merges the batch with rows or columns.
    """
    pieces: list[tuple[str, int]] = []
    for axes, dim in zip(field_map.axes, source, strict=True):
        size = _number(dim)
        sizes: dict[str, int] = {axis: field_map.positions(axis) for axis in AXES if axis in axes}
        rest = [axis for axis in axes if axis not in sizes]
        known = math.prod(sizes.values())
        if len(rest) > 1:
            return None
        pieces.extend((axis, sizes.get(axis, size // known)) for axis in axes)
        if not axes and size > 1:
            pieces.append(("C", size))
    result: list[Axes] = []
    index = 0
    left = pieces[0][1] if pieces else 1
    for dim in target:
        wanted = _number(dim)
        taken: list[str] = []
        product = 1
        while product < wanted:
            while index < len(pieces) and left == 1:
                index += 1
                left = pieces[index][1] if index < len(pieces) else 1
            if index >= len(pieces):
                return None
            axis = pieces[index][0]
            need = wanted // product
            if wanted % product == 0 and need % left == 0:
                product, left = product * left, 1
            elif axis == "C" and left % need == 0:
                product, left = product * need, left // need
            else:
                return None
            if not taken or taken[-1] != axis:
                taken.append(axis)
        if "N" in taken and len(taken) > 1 and is_spatial(tuple(taken)):
            return None
        result.append(tuple(taken))
    return tuple(result)


def _number(dim: Dim) -> int:
    """The numerical value of a size such as ``16*B``, with `_BATCH` for the batch size; -1 for other expressions."""
    if isinstance(dim, int):
        return dim
    product = 1
    for factor in dim.replace("(", "").replace(")", "").split("*"):
        if factor == "B":
            product *= _BATCH
        elif factor.isdigit():
            product *= int(factor)
        else:
            return -1
    return product


def _permuted(values: TracedValues, operation: Operation, arguments: Arguments) -> FieldMap:
    field_map = values.map_of(arguments["self"])
    count = len(field_map.axes)
    order = list(range(count))
    match operation.kind.name:
        case "permute":
            dims = arguments["dims"]
            order = [dim % count for dim in dims if isinstance(dim, int)] if isinstance(dims, tuple) else order
        case "movedim":
            reason = "no rule exists for movedim"
            raise UnknownReadsError(reason)
        case "t":
            order.reverse()
        case _:
            first, second = (arguments[key] for key in ("dim0", "dim1"))
            if isinstance(first, int) and isinstance(second, int):
                order[first % count], order[second % count] = order[second % count], order[first % count]
    return replace(field_map, axes=tuple(field_map.axes[dim] for dim in order))


def _unsqueezed(values: TracedValues, operation: Operation, arguments: Arguments) -> FieldMap:
    field_map = values.map_of(arguments["self"])
    position = normalised_dim(arguments["dim"], len(operation.shape))
    return replace(field_map, axes=(*field_map.axes[:position], (), *field_map.axes[position:]))


def _squeezed(values: TracedValues, _operation: Operation, arguments: Arguments) -> FieldMap:
    field_map, shape = values.map_of(arguments["self"]), values.shape_of(arguments["self"])
    dims = normalised_dims(arguments.get("dim"), len(shape))
    kept = tuple(axes for i, axes in enumerate(field_map.axes) if i not in dims or shape[i] != 1)
    return replace(field_map, axes=kept)


def _expanded(values: TracedValues, operation: Operation, arguments: Arguments) -> FieldMap:
    field_map, source = values.map_of(arguments["self"]), values.shape_of(arguments["self"])
    axes = ((),) * (len(operation.shape) - len(field_map.axes)) + field_map.axes
    if len(operation.shape) == _MAP_DIMS and source[-2:] == (1, 1) and operation.shape[-2:] != (1, 1):
        height, width = map_size(operation)
        field_map = field_map.map_axis("H", lambda field: field.broadcast(height))
        field_map = field_map.map_axis("W", lambda field: field.broadcast(width))
        axes = (*axes[:-2], ("H",), ("W",))
    return replace(field_map, axes=axes)


def _sliced(values: TracedValues, operation: Operation, arguments: Arguments) -> FieldMap:
    field_map = values.map_of(arguments["self"])
    position = normalised_dim(arguments.get("dim", 0), len(field_map.axes))
    axis = field_map.axis_of(position)
    selects = operation.kind.name == "select"
    if axis is not None:
        size = field_map.positions(axis)
        step = arguments.get("step", 1)
        if selects:
            taps = [[normalised_dim(arguments["index"], size)]]
        else:
            limits = (arguments.get("start"), arguments.get("end"), step)
            chosen = slice(*(value if isinstance(value, int) else None for value in limits))
            taps = [[index] for index in range(size)[chosen]]
        field_map = field_map.through(axis, taps, stride=Fraction(step) if isinstance(step, int) else None)
    elif is_spatial(field_map.axes[position]):
        reason = "the operation selects a part of a dimension in which rows or columns are flattened"
        raise UnknownReadsError(reason)
    elif selects or operation.shape[position] != values.shape_of(arguments["self"])[position]:
        field_map = field_map.some_channels()
    return _without_dim(field_map, position) if selects else field_map


def _split(values: TracedValues, operation: Operation, arguments: Arguments) -> FieldMap:
    field_map = values.map_of(arguments["self"])
    position = normalised_dim(arguments.get("dim", 0), len(field_map.axes))
    axis = field_map.axis_of(position)
    unbinds = operation.kind.name == "unbind"
    parts = []
    offset = 0
    for meta in operation.outputs:
        if axis is not None:
            size = 1 if unbinds else followed(meta.shape[position])
            part = field_map.through(axis, [[offset + index] for index in range(size)])
            offset += size
        elif is_spatial(field_map.axes[position]):
            reason = "the operation splits a dimension in which rows or columns are flattened"
            raise UnknownReadsError(reason)
        else:
            part = field_map.some_channels()
        parts.append(_without_dim(part, position) if unbinds else part)
    values.parts[operation.name] = parts
    return field_map


def _flipped(values: TracedValues, _operation: Operation, arguments: Arguments) -> FieldMap:
    field_map = values.map_of(arguments["self"])
    for dim in normalised_dims(arguments.get("dims"), len(field_map.axes)):
        field_map = field_map.map_axes_of(
            dim, lambda field: field.through([[i] for i in reversed(range(field.positions))], stride=None)
        )
    return field_map


def _without_dim(field_map: FieldMap, position: int) -> FieldMap:
    return replace(field_map, axes=(*field_map.axes[:position], *field_map.axes[position + 1 :]))


def _names(tensors: object) -> list[str]:
    return [item.name for item in tensors if isinstance(item, Ref)] if isinstance(tensors, tuple) else []


SHAPE_RULES: dict[str, Rule] = {
    "cat": _concatenated,
    "chunk": _split,
    "expand": _expanded,
    "expand_as": _expanded,
    "flatten": _reshaped,
    "flip": _flipped,
    "movedim": _permuted,
    "permute": _permuted,
    "reshape": _reshaped,
    "select": _sliced,
    "slice": _sliced,
    "split": _split,
    "split_with_sizes": _split,
    "squeeze": _squeezed,
    "stack": _stacked,
    "t": _permuted,
    "transpose": _permuted,
    "unbind": _split,
    "unflatten": _reshaped,
    "unsqueeze": _unsqueezed,
    "view": _reshaped,
    "view_as": _reshaped,
}
