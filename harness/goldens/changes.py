"""Operations and tensors of a graph as plain data, and the changes between two graphs or two trainings as text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

from harness.graph import Graph, Operation, TensorSpec
from harness.graph.form import Argument, Ref, bind, encode_argument
from harness.graph.operations import base_name
from harness.reproducibility.comparison import Cause, first_differing_digests
from harness.training import StepDigests

# One operation as JSON data: mode ("train" or "eval"), module, operation, arguments by name.
OperationEntry = Sequence[Any]


def list_operations(graph: Graph) -> list[OperationEntry]:
    """The operations of a graph's training and evaluation programs as JSON data, one entry per operation.

    An operand that is the result of an earlier operation is encoded as the distance to the earlier operation, such as -1, so
    that an inserted operation does not change the entries of all later operations.
    """
    return [
        entry
        for mode, program in (("train", graph.train), ("eval", graph.evaluate))
        for entry in _list_program(mode, graph.input_name, program.operations)
    ]


def _list_program(mode: str, input_name: str, operations: Sequence[Operation]) -> Iterator[OperationEntry]:
    positions: dict[str, int] = {}
    for index, operation in enumerate(operations):
        names = {input_name: "images", **{name: str(position - index) for name, position in positions.items()}}
        arguments = bind(operation) or {str(position): value for position, value in enumerate(operation.args)}
        values = {name: encode_argument(_with_names(value, names)) for name, value in arguments.items()}
        yield [mode, operation.module, base_name(operation.op), as_json(values)]
        positions[operation.name] = index


def _with_names(argument: Argument, names: Mapping[str, str]) -> Argument:
    if isinstance(argument, Ref):
        return Ref(names.get(argument.name, argument.name))
    if isinstance(argument, tuple):
        return tuple(_with_names(item, names) for item in argument)
    return argument


def operation_changes(old: Sequence[OperationEntry], new: Sequence[OperationEntry]) -> list[str]:
    """Lines that describe each change between two results of `list_operations`.

    An example is ``conv1 (conv2d): padding (0, 0) -> (1, 1)``.
    """
    # An inserted operation changes references of later operations, so references are compared only if nothing else changed.
    return _changes(old, new, references=False) or _changes(old, new, references=True)


def _changes(old: Sequence[OperationEntry], new: Sequence[OperationEntry], *, references: bool) -> list[str]:
    modes: dict[str, set[str]] = {}
    matcher = SequenceMatcher(
        None, [tuple(entry[:3]) for entry in old], [tuple(entry[:3]) for entry in new], autojunk=False
    )
    for kind, start, end, new_start, new_end in matcher.get_opcodes():
        before, after = old[start:end], new[new_start:new_end]
        if kind == "equal":
            pairs = zip(before, after, strict=True)
            found = [
                (one, change)
                for one, other in pairs
                for change in _argument_changes(one[3], other[3], references=references)
            ]
        else:
            found = [*((entry, "removed") for entry in before), *((entry, "added") for entry in after)]
        for (mode, module, operation, _), change in found:
            modes.setdefault(f"{module or 'forward'} ({operation}): {change}", set()).add(mode)
    both = {entry[0] for entry in (*old, *new)}
    return [line if seen == both else f"{line} (only in {min(seen)} mode)" for line, seen in modes.items()]


def _argument_changes(old: Mapping[str, Any], new: Mapping[str, Any], *, references: bool) -> Iterator[str]:
    for name in dict.fromkeys((*old, *new)):
        one, other = old.get(name), new.get(name)
        is_reference = all(isinstance(value, dict) and "ref" in value for value in (one, other))
        if one != other and (references or not is_reference):
            yield f"{name} {_format_value(one)} -> {_format_value(other)}"


def _format_value(value: Any) -> str:  # noqa: ANN401 - JSON data has no narrower type
    if isinstance(value, list):
        return f"({', '.join(_format_value(item) for item in value)})"
    if isinstance(value, dict):
        return str(next(iter(value.values())))
    return str(value)


def describe_tensors(graph: Graph) -> dict[str, str]:
    """Map the name of each tensor of a graph to kind, dtype and shape as text, such as ``parameter float32 8x1x3x3``."""

    def describe(spec: TensorSpec) -> str:
        frozen = "frozen " if spec.kind == "parameter" and not spec.requires_grad else ""
        return f"{frozen}{spec.kind} {spec.dtype} {format_shape(spec.shape)}".rstrip()

    return {spec.name: describe(spec) for spec in graph.tensors}


def tensor_changes(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Lines that describe each change between two results of `describe_tensors`."""
    return [
        f"{name}: {old.get(name, 'none')} -> {new.get(name, 'none')}"
        for name in dict.fromkeys((*old, *new))
        if old.get(name) != new.get(name)
    ]


def training_change(old: Sequence[StepDigests], new: Sequence[StepDigests]) -> str:
    """Describe the first difference between the digests or the number of steps of two trainings; empty if there is none."""
    found = first_differing_digests(old, new, unexplained=Cause.ARITHMETIC)
    if found is not None:
        agreed, difference = found
        return difference.describe() + (f"; the digests of step {agreed} agree" if difference.step else "")
    if old[-1].step != new[-1].step:
        return f"ends after step {new[-1].step}, not after step {old[-1].step}"
    return ""


def as_json(data: Any) -> Any:  # noqa: ANN401 - JSON data has no narrower type
    """Convert data to JSON and back, which turns tuples into lists."""
    return json.loads(json.dumps(data, allow_nan=False))


def format_shape(shape: Sequence[object]) -> str:
    """Format a shape as text such as ``8x1x3x3``."""
    return "x".join(str(size) for size in shape)
