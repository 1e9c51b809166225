"""Global average poolings in a program, as a layer or as other operations with the same result."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from harness.graph.form import Operation, Program, bind
from harness.structure.dataflow import DataFlow
from harness.structure.fields import AXES, FieldMap
from harness.structure.layers import by_x, operation_title

_AVERAGES = frozenset({"adaptive_avg_pool2d", "avg_pool2d", "mean"})
_MAP_DIMS = 4


@dataclass(frozen=True, kw_only=True)
class GlobalPool:
    """A global average pooling.

    Args:
        value: name of the average, which is the result of the pooling.
        before: name of the feature map that is averaged.
        module: path of the submodule whose forward runs the pooling.
        map_size: number of rows and of columns of the feature map.
        feeds_head: whether every path from the images to the output passes through the average.
    """

    value: str
    before: str
    module: str
    map_size: tuple[int, int]
    feeds_head: bool


def find_global_pools(flow: DataFlow, field_maps: Mapping[str, FieldMap]) -> tuple[GlobalPool, ...]:
    """The global average poolings on which the output depends, in order."""
    averages = global_averages(flow.program, field_maps)
    return tuple(
        GlobalPool(
            value=operation.name,
            before=averages[operation.name],
            module=operation.module,
            map_size=(
                field_maps[averages[operation.name]].positions("H"),
                field_maps[averages[operation.name]].positions("W"),
            ),
            feeds_head=flow.only_through(operation.name),
        )
        for operation in flow.on_path
        if operation.name in averages
    )


def other_averages(flow: DataFlow, field_maps: Mapping[str, FieldMap]) -> tuple[str, ...]:
    """For each average or average pooling before the output that is not global, a sentence that says why."""
    by_name = {operation.name: operation for operation in flow.program.operations}
    averages = global_averages(flow.program, field_maps)
    sentences = []
    for operation in flow.on_path:
        before = _source(operation, field_maps)
        if operation.kind.name not in _AVERAGES or operation.name in averages or before is None:
            continue
        size, after = ([field_maps[name].positions(axis) for axis in AXES] for name in (before, operation.name))
        words = f"{operation_title(operation)} {operation.module}".strip()
        kernel = bind(operation).get("kernel_size")
        if size == [1, 1]:
            if len(flow.shapes[before]) == len(field_maps[before].axes) == _MAP_DIMS:
                sentences.append(f"{words} averages a map of 1x1, which already has one value per channel")
        elif is_part(before, by_name, field_maps):
            sentences.append(f"{words} averages a map of {by_x(size)} that is cropped from a larger map")
        elif after == [1, 1] and isinstance(kernel, tuple):
            sentences.append(f"{words} averages only {by_x((kernel * 2)[:2])} positions of a map of {by_x(size)}")
        elif after != [1, 1]:
            sentences.append(f"{words} returns a map of {by_x(after)}, not one value per channel")
    return tuple(sentences)


def global_averages(program: Program, field_maps: Mapping[str, FieldMap]) -> dict[str, str]:
    """Map the name of each value that is the average of a whole feature map to the name of the feature map.

    A pooling in several steps, such as a mean over columns and then over rows, or a sum and a division by the number of
    positions, counts once, under the name of the last result. Averages over a part of a map are excluded.
    """
    by_name = {operation.name: operation for operation in program.operations}
    found: dict[str, str] = {}
    for operation in program.operations:
        field_map = field_maps.get(operation.name)
        if field_map is None:
            continue
        if _collapsed(field_map) == {"average"}:
            if any(ref in field_maps and _collapsed(field_maps[ref]) == {"average"} for ref in operation.refs()):
                continue
            before = _map_before(operation, by_name, field_maps)
        elif _collapsed(field_map) <= {"average", "sum"}:
            before = _map_before_sum(operation, by_name, field_maps, found)
        else:
            continue
        if before is not None and not is_part(before, by_name, field_maps):
            found[operation.name] = unflattened(before, by_name, field_maps)
    return found


def _collapsed(field_map: FieldMap) -> set[str]:
    return {field.collapsed for path in field_map.paths for field in (path.rows, path.columns)}


def _is_map(field_map: FieldMap) -> bool:
    return not any(path.rows.collapsed or path.columns.collapsed for path in field_map.paths)


def _source(operation: Operation, field_maps: Mapping[str, FieldMap]) -> str | None:
    return next((ref for ref in operation.refs() if ref in field_maps), None)


def _map_before(
    operation: Operation, by_name: Mapping[str, Operation], field_maps: Mapping[str, FieldMap]
) -> str | None:
    """The feature map that ``operation``, the last step of a pooling, averages; None if there is none.

    The feature map is the last value before the pooling whose rows and columns are not reduced to one position.
    """
    step: Operation | None = operation
    while step is not None:
        name = _source(step, field_maps)
        if name is None or _is_map(field_maps[name]):
            return name
        step = by_name.get(name)
    return None


def _map_before_sum(
    operation: Operation, by_name: Mapping[str, Operation], field_maps: Mapping[str, FieldMap], found: Mapping[str, str]
) -> str | None:
    """The feature map that a sum and a division by the number of positions average; None if there is no such map."""
    pairs = [(path.rows, path.columns) for path in field_maps[operation.name].paths]
    counts = {math.prod(field.collapsed_from for field in pair if field.collapsed == "sum") for pair in pairs}
    scale = float(max(counts)) if len(counts) == 1 else math.nan
    name: str | None = operation.name
    while name is not None and name not in found:
        is_map = _is_map(field_maps[name])
        if is_map and math.isclose(scale, 1, rel_tol=1e-6):
            return name
        step = by_name.get(name)
        factor = _factor(step) if step is not None else None
        if step is None:
            return None
        passes = _only_reshapes(step) or step.kind.name in ("mean", "sum")
        if factor is None and (is_map or not passes):
            return None
        scale *= 1 if factor is None else factor
        name = _source(step, field_maps)
    return None


def unflattened(name: str, by_name: Mapping[str, Operation], field_maps: Mapping[str, FieldMap]) -> str:
    """The value before a flattening or permutation of the map ``name``, with rows and columns as last two dimensions.

    If there is no such value, ``name`` is returned.
    """
    before = name
    while field_maps[before].axes[-2:] != (("H",), ("W",)):
        operation = by_name.get(before)
        if operation is None or not (_only_reshapes(operation) or operation.kind.family == "permutation"):
            return name
        source = _source(operation, field_maps)
        if source is None:
            return name
        before = source
    return before


def _only_reshapes(operation: Operation) -> bool:
    """Whether an operation keeps all numbers of its operand and their order."""
    return operation.kind.family in ("copy", "reshape")


def _factor(operation: Operation) -> float | None:
    """The constant by which an operation multiplies its operand; None if the operation does anything else."""
    bound = bind(operation)
    other = bound.get("other")
    if not isinstance(other, int | float) or other == 0 or bound.get("rounding_mode") is not None:
        return None
    match operation.kind.name:
        case "mul":
            return float(other)
        case "div":
            return 1 / other
        case _:
            return None


def is_part(name: str, by_name: Mapping[str, Operation], field_maps: Mapping[str, FieldMap]) -> bool:
    """Whether a map was cropped from a larger map, and operations after the crop left the receptive fields unchanged."""
    operation = by_name.get(name)
    while operation is not None:
        sources = {ref for ref in operation.refs() if ref in field_maps}
        if len(sources) != 1:
            return False
        field_map, source = field_maps[operation.name], field_maps[sources.pop()]
        # Only crops are found: the result of a pooling or a convolution counts as a whole map.
        if operation.kind.family in ("padding", "slicing"):
            if any(field_map.positions(axis) < source.positions(axis) for axis in AXES):
                return True
        elif not field_map.same_paths(source):
            return False
        operation = by_name.get(_source(operation, field_maps) or "")
    return False
