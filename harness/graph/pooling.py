"""Global average poolings in a program, however they are spelled."""

from __future__ import annotations

from collections.abc import Mapping

from harness.graph.form import Operation, Program
from harness.graph.receptive_field import View


def global_averages(program: Program, views: Mapping[str, View]) -> dict[str, str]:
    """Values that are the plain average of a whole map, each with the map that it averages.

    A pooling in several steps, such as a mean over columns and then over rows, is one: the last step's value stands for it.
    """
    by_name = {operation.name: operation for operation in program.operations}
    found = {}
    for operation in program.operations:
        view = views.get(operation.name)
        if view is None or not _averaged(view):
            continue
        if any(ref in views and _averaged(views[ref]) for ref in operation.refs()):
            continue
        before = _map_before(operation, by_name, views)
        if before is not None:
            found[operation.name] = before
    return found


def _averaged(view: View) -> bool:
    return all({term.rows.collapsed, term.columns.collapsed} == {"average"} for term in view.terms)


def _map_before(operation: Operation, by_name: Mapping[str, Operation], views: Mapping[str, View]) -> str | None:
    """The last value on the way to a pooling that is still a map of several positions."""
    source: Operation | None = operation
    while source is not None:
        name = next((ref for ref in source.refs() if ref in views), None)
        if name is None:
            return None
        if not any(term.rows.collapsed or term.columns.collapsed for term in views[name].terms):
            return name
        source = by_name.get(name)
    return None
