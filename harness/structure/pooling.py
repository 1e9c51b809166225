"""Global average poolings in a program, however they are spelled."""

from __future__ import annotations

import math
from collections.abc import Mapping

from harness.graph.form import Operation, Program
from harness.graph.schema import bind
from harness.structure.receptive_field import View


def global_averages(program: Program, views: Mapping[str, View]) -> dict[str, str]:
    """Values that are the plain average of a whole map, each with the map that it averages.

    A pooling in several steps, such as a mean over columns and then over rows, or a sum and a division by the number of
    positions, is one: the last step's value stands for it. The average of a part that was cut out of a map is none.
    """
    by_name = {operation.name: operation for operation in program.operations}
    found: dict[str, str] = {}
    for operation in program.operations:
        view = views.get(operation.name)
        if view is None:
            continue
        if _collapsed(view) == {"average"}:
            if any(ref in views and _collapsed(views[ref]) == {"average"} for ref in operation.refs()):
                continue
            before = _map_before(operation, by_name, views)
        elif _collapsed(view) <= {"average", "sum"}:
            before = _map_before_sum(operation, by_name, views, found)
        else:
            continue
        if before is not None and not _is_part(before, by_name, views):
            found[operation.name] = _upright(before, by_name, views)
    return found


def _collapsed(view: View) -> set[str]:
    return {reach.collapsed for term in view.terms for reach in (term.rows, term.columns)}


def _is_map(view: View) -> bool:
    return not any(term.rows.collapsed or term.columns.collapsed for term in view.terms)


def _source(operation: Operation, views: Mapping[str, View]) -> str | None:
    return next((ref for ref in operation.refs() if ref in views), None)


def _map_before(operation: Operation, by_name: Mapping[str, Operation], views: Mapping[str, View]) -> str | None:
    """The last value on the way to a pooling that is still a map of several positions."""
    step: Operation | None = operation
    while step is not None:
        name = _source(step, views)
        if name is None or _is_map(views[name]):
            return name
        step = by_name.get(name)
    return None


def _map_before_sum(
    operation: Operation, by_name: Mapping[str, Operation], views: Mapping[str, View], found: Mapping[str, str]
) -> str | None:
    """The map that a sum averages, where its numbers are divided by the count of positions before or after the sum."""
    terms = [(term.rows, term.columns) for term in views[operation.name].terms]
    counts = {math.prod(reach.collapsed_from for reach in pair if reach.collapsed == "sum") for pair in terms}
    scale = float(max(counts)) if len(counts) == 1 else math.nan
    name: str | None = operation.name
    while name is not None and name not in found:
        is_map = _is_map(views[name])
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
        name = _source(step, views)
    return None


def _upright(name: str, by_name: Mapping[str, Operation], views: Mapping[str, View]) -> str:
    """The same map before it was flattened or turned: with rows and columns as its last two dimensions."""
    before = name
    while views[before].axes[-2:] != (("H",), ("W",)):
        operation = by_name.get(before)
        if operation is None or not (_only_reshapes(operation) or operation.kind.family == "permutation"):
            return name
        source = _source(operation, views)
        if source is None:
            return name
        before = source
    return before


def _only_reshapes(operation: Operation) -> bool:
    """Whether it leaves the numbers as they are, and in their order."""
    return operation.kind.family in ("copy", "reshape")


def _factor(operation: Operation) -> float | None:
    """The number that an operation multiplies by; None when it does something else."""
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


def _is_part(name: str, by_name: Mapping[str, Operation], views: Mapping[str, View]) -> bool:
    """Whether a map was cut out of a larger one, and passed on since then position by position."""
    operation = by_name.get(name)
    while operation is not None:
        sources = {ref for ref in operation.refs() if ref in views}
        if len(sources) != 1:
            return False
        view, source = views[operation.name], views[sources.pop()]
        # A pooling or a convolution makes a map of its own, whatever it leaves out.
        if operation.kind.family in ("padding", "slicing"):
            if any(view.positions(axis) < source.positions(axis) for axis in "HW"):
                return True
        elif not view.same_terms(source):
            return False
        operation = by_name.get(_source(operation, views) or "")
    return False
