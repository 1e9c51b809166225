"""Trace through a program which input pixels each position of each value depends on.

In the training program, the dependence on the batch statistics of batch norms is ignored. In the evaluation program, each
position of the result of an operation that computes batch statistics depends on the whole map.
"""

from __future__ import annotations

from harness.graph.form import Graph, Operation, Program, Ref, bind
from harness.structure.computing_rules import COMPUTING_RULES, reduced
from harness.structure.fields import FieldMap
from harness.structure.shape_rules import SHAPE_RULES
from harness.structure.traced_values import TracedValues, UnknownReadsError

_RULES = {**COMPUTING_RULES, **SHAPE_RULES}


def trace_fields(graph: Graph, program: Program) -> dict[str, FieldMap]:
    """The receptive field of each value of a program, by name; values that do not depend on the image are absent.

    Raises:
        ValueError: the graph's input is not an image ``(channels, height, width)``.
    """
    if len(graph.input_shape) != 3:  # noqa: PLR2004 - channels, height, width
        msg = f"expected an image input (channels, height, width), got input_shape={list(graph.input_shape)}"
        raise ValueError(msg)
    values = TracedValues(graph, program)
    memory = _SharedMemory(values, program)
    for index, operation in enumerate(program.operations):
        values.shapes[operation.name] = operation.shape
        field_map = _traced(values, operation)
        memory.add(operation)
        if field_map is None:
            continue
        field_map = field_map.pruned()
        if operation.kind.in_place and operation.args and isinstance(operation.args[0], Ref):
            memory.write(operation.args[0].name, field_map, index)
        values.maps[operation.name] = field_map
    return values.maps


def _traced(values: TracedValues, operation: Operation) -> FieldMap | None:
    """The field map of an operation's result; None if the result does not depend on the values of the pixels."""
    if operation.op == "operator.getitem":
        source, index = operation.args
        if isinstance(source, Ref) and isinstance(index, int) and source.name in values.parts:
            return values.parts[source.name][index]
        return values.maps.get(source.name) if isinstance(source, Ref) else None
    kind = operation.kind
    refs = [ref for ref in operation.refs() if ref in values.maps]
    if not refs or not operation.outputs or kind.family in ("creation", "random creation", "size"):
        return None
    arguments = bind(operation)
    try:
        # In torch, max and min are elementwise with two tensors and reductions with one.
        if kind.elementwise or (kind.name in ("max", "min") and "other" in arguments):
            return values.elementwise(refs, operation.shape)
        if kind.family == "reduction":
            return reduced(values, operation, arguments)
        if kind.name in _RULES:
            return _RULES[kind.name](values, operation, arguments)
    except UnknownReadsError as reason:
        return values.everything(operation.shape, refs, f"no exact receptive field of {operation.op}: {reason}")
    return values.everything(operation.shape, refs, f"no exact receptive field of {operation.op}: no rule exists")


class _SharedMemory:
    """Records which values may share memory, and updates the field maps of such values after in-place operations."""

    def __init__(self, values: TracedValues, program: Program) -> None:
        self.values = values
        # For each value that shares memory, the first value in the same memory.
        self.owners: dict[str, str] = {}
        self.last_read = {ref: i for i, operation in enumerate(program.operations) for ref in operation.refs()}
        self.last_read[program.output] = len(program.operations)

    def add(self, operation: Operation) -> None:
        """Record that an operation's result may share memory with its first argument."""
        if operation.kind.shares_memory and operation.args and isinstance(operation.args[0], Ref):
            name = operation.args[0].name
            self.owners[operation.name] = self.owners.get(name, name)

    def write(self, name: str, field_map: FieldMap, index: int) -> None:
        """Update the field map of the value ``name`` after an in-place operation, number ``index`` of the program.

        The field maps of other values in the same memory that a later operation reads are updated, too.
        """
        maps, shapes = self.values.maps, self.values.shapes
        before = maps.get(name)
        maps[name] = field_map
        if before is not None and before.same_paths(field_map):
            return
        owner = self.owners.get(name, name)
        for other in (owner, *(key for key, value in self.owners.items() if value == owner)):
            if other != name and other in shapes and self.last_read.get(other, -1) > index:
                refs = [ref for ref in (other, name) if ref in maps]
                note = f"an in-place operation on {name} also changes {other}, as both share memory"
                maps[other] = self.values.everything(shapes[other], refs, note)
