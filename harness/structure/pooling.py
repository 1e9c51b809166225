"""Global average poolings in a program, however they are written."""

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
        value: name of the pooled value.
        before: name of the map it pools.
        module: path of the submodule it runs in.
        map_size: rows and columns of the map.
        feeds_head: whether the images reach the output only through it.
    """

    value: str
    before: str
    module: str
    map_size: tuple[int, int]
    feeds_head: bool


def find_global_pools(flow: DataFlow, field_maps: Mapping[str, FieldMap]) -> tuple[GlobalPool, ...]:
    """Global average poolings on the way to the output."""
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
    """For each other average before the output, why it is not global pooling."""
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
                sentences.append(f"{words} averages a map of 1x1, which holds one value a channel already")
        elif is_part(before, by_name, field_maps):
            sentences.append(f"{words} averages {by_x(size)}, part of a map")
        elif after == [1, 1] and isinstance(kernel, tuple):
            sentences.append(f"{words} averages {by_x((kernel * 2)[:2])} of {by_x(size)}")
        elif after != [1, 1]:
            sentences.append(f"{words} gives {by_x(after)}, not one value a channel")
    return tuple(sentences)


def global_averages(program: Program, field_maps: Mapping[str, FieldMap]) -> dict[str, str]:
    """Values that are the plain average of a whole map, each with the map that it averages.

    A pooling in several steps, such as a mean over columns and then over rows, or a sum and a division by the number of
    positions, counts once, under its last value. Averages over part of a map are excluded.
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
    """The feature map at the start of a pooling: its last input whose rows and columns are not yet reduced."""
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
    """The map averaged by a sum combined with a division by the number of positions; None if there is no such map."""
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
    """The map before flattening or permutation, with rows and columns as its last two dimensions."""
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
    """Whether an operation preserves all values and their order."""
    return operation.kind.family in ("copy", "reshape")


def _factor(operation: Operation) -> float | None:
    """The constant that an operation multiplies by; None if it does something else."""
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
    """Whether a map was cropped from a larger one, and only changed elementwise since then."""
    operation = by_name.get(name)
    while operation is not None:
        sources = {ref for ref in operation.refs() if ref in field_maps}
        if len(sources) != 1:
            return False
        field_map, source = field_maps[operation.name], field_maps[sources.pop()]
        # A pooling or a convolution makes a map of its own, whatever it leaves out.
        if operation.kind.family in ("padding", "slicing"):
            if any(field_map.positions(axis) < source.positions(axis) for axis in AXES):
                return True
        elif not field_map.same_paths(source):
            return False
        operation = by_name.get(_source(operation, field_maps) or "")
    return False
