"""What changed between two graphs, two recipes or two trainings, in words that name the place."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

from harness.graph import Graph, Operation, TensorSpec
from harness.graph.form import Argument, Ref, encode_argument
from harness.graph.operations import base_name
from harness.graph.schema import bind
from harness.reproducibility.comparison import Cause, first_differing_digests
from harness.training import StepDigests

# One operation as plain data: pass, module, operation, arguments by name.
Line = Sequence[Any]


def operation_lines(graph: Graph) -> list[Line]:
    """The operations of both passes as JSON data; a value is named by how many operations before it was made."""
    return [
        line
        for mode, program in (("train", graph.train), ("eval", graph.evaluate))
        for line in _program_lines(mode, graph.input_name, program.operations)
    ]


def _program_lines(mode: str, input_name: str, operations: Sequence[Operation]) -> Iterator[Line]:
    places: dict[str, int] = {}
    for index, operation in enumerate(operations):
        names = {input_name: "images", **{name: str(place - index) for name, place in places.items()}}
        arguments = bind(operation) or {str(place): value for place, value in enumerate(operation.args)}
        values = {name: encode_argument(_named(value, names)) for name, value in arguments.items()}
        yield [mode, operation.module, base_name(operation.op), as_json(values)]
        places[operation.name] = index


def _named(argument: Argument, names: Mapping[str, str]) -> Argument:
    if isinstance(argument, Ref):
        return Ref(names.get(argument.name, argument.name))
    if isinstance(argument, tuple):
        return tuple(_named(item, names) for item in argument)
    return argument


def operation_changes(old: Sequence[Line], new: Sequence[Line]) -> list[str]:
    """The changes from one list of operations to another, a line each: ``conv1 (conv2d): padding (0, 0) -> (1, 1)``."""
    # What an operation reads is called otherwise once another is put in before it: told where nothing else is to tell.
    return _changes(old, new, inputs=False) or _changes(old, new, inputs=True)


def _changes(old: Sequence[Line], new: Sequence[Line], *, inputs: bool) -> list[str]:
    modes: dict[str, set[str]] = {}
    places, new_places = [tuple(line[:3]) for line in old], [tuple(line[:3]) for line in new]
    blocks = SequenceMatcher(None, places, new_places, autojunk=False)
    for kind, start, end, new_start, new_end in blocks.get_opcodes():
        before, after = old[start:end], new[new_start:new_end]
        if kind == "equal":
            pairs = zip(before, after, strict=True)
            found = [
                (one, words) for one, other in pairs for words in _argument_changes(one[3], other[3], inputs=inputs)
            ]
        else:
            found = [*((line, "no longer there") for line in before), *((line, "new") for line in after)]
        for (mode, module, operation, _), words in found:
            modes.setdefault(f"{module or 'forward'} ({operation}): {words}", set()).add(mode)
    both = {line[0] for line in (*old, *new)}
    return [words if seen == both else f"{words} (only in {min(seen)} mode)" for words, seen in modes.items()]


def _argument_changes(old: Mapping[str, Any], new: Mapping[str, Any], *, inputs: bool) -> Iterator[str]:
    for name in dict.fromkeys((*old, *new)):
        one, other = old.get(name), new.get(name)
        is_input = all(isinstance(value, dict) and "ref" in value for value in (one, other))
        if one != other and (inputs or not is_input):
            yield f"{name} {_words(one)} -> {_words(other)}"


def _words(value: Any) -> str:  # noqa: ANN401 - JSON data has no narrower type
    if isinstance(value, list):
        return f"({', '.join(_words(item) for item in value)})"
    if isinstance(value, dict):
        return str(next(iter(value.values())))
    return str(value)


def tensor_words(graph: Graph) -> dict[str, str]:
    """Kind, type and shape of each tensor that a graph holds, such as ``parameter float32 8x1x3x3``, by name."""

    def words(spec: TensorSpec) -> str:
        frozen = "frozen " if spec.kind == "parameter" and not spec.requires_grad else ""
        return f"{frozen}{spec.kind} {spec.dtype} {by(spec.shape)}".rstrip()

    return {spec.name: words(spec) for spec in graph.tensors}


def setting_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The changes from one set of settings to another, a line each: ``optimizer.lr 0.1 -> 0.05``."""
    left, right = _flat(old), _flat(new)
    return [
        f"{name} {left.get(name)} -> {right.get(name)}"
        for name in dict.fromkeys((*left, *right))
        if left.get(name) != right.get(name)
    ]


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def training_change(old: Sequence[StepDigests], new: Sequence[StepDigests]) -> str:
    """Where two trainings part, as half a sentence; empty where they do not."""
    found = first_differing_digests(old, new, unexplained=Cause.ARITHMETIC)
    if found is not None:
        agreed, difference = found
        return difference.words() + (f"; the digests of step {agreed} agree" if difference.step else "")
    if old[-1].step != new[-1].step:
        return f"ends after step {new[-1].step}, not {old[-1].step}"
    return ""


def as_json(data: Any) -> Any:  # noqa: ANN401 - JSON data has no narrower type
    """The data as JSON gives them back: a tuple is a list there."""
    return json.loads(json.dumps(data, allow_nan=False))


def by(shape: Sequence[object]) -> str:
    """A shape in words: ``8x1x3x3``."""
    return "x".join(str(size) for size in shape)
