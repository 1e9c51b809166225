"""Convert graphs to JSON data and captured models to files, and read both as untrusted input."""

from __future__ import annotations

import dataclasses
import math
import reprlib
from json import dumps  # bound before a user's file can replace it
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from harness.errors import GraphFormatError
from harness.files import read_limited
from harness.graph.captured import CapturedModel, Fidelity
from harness.graph.form import (
    MAX_ELEMENTS,
    Argument,
    DeclaredModule,
    Graph,
    Operation,
    Program,
    Ref,
    Shape,
    Symbol,
    TensorSpec,
    ValueMeta,
    encode_argument,
)
from harness.graph.rebuild import GraphModule
from harness.tables import expect_mapping, parse_document, printable, read_table, require_plain

T = TypeVar("T")
FORMAT = "harness.graph/1"

# Far above any model that the harness is meant for, as is `MAX_ELEMENTS`.
_MAX_OPERATIONS = 20_000
_MAX_GRAPH_BYTES, _MAX_GRAPH_VALUES, _MAX_TENSOR_BYTES = 4 * 2**20, 500_000, 2**30
_MAX_TENSORS = 20_000
_MAX_DIMS = 8
_MAX_SIDE = 1_024
_MAX_DIM_TEXT = 80
_SYMBOL_KINDS = frozenset({"dtype", "layout", "memory_format", "float", "runtime"})


def write_captured(captured: CapturedModel, stem: Path) -> None:
    """Write a captured model to ``stem.json`` and ``stem.safetensors``, without the model's name."""
    document = graph_to_json(captured.graph) | {"fidelity": dataclasses.asdict(captured.fidelity)}
    state = {name: tensor.contiguous() for name, tensor in captured.state.items()}
    save_file(state, stem.with_suffix(".safetensors"))
    stem.with_suffix(".json").write_text(dumps(document), encoding="utf-8")


def read_captured(stem: Path, name: str, *, max_bytes: int = _MAX_TENSOR_BYTES) -> CapturedModel:
    """Read a captured model from the two files that `write_captured` writes, and call the model ``name``.

    The tensors may have ``max_bytes`` together.

    Raises:
        GraphFormatError: a file is missing, damaged, invalid or too large, or the graph and the tensors do not make a model.
    """
    tensors = stem.with_suffix(".safetensors")
    try:
        content = read_limited(stem.with_suffix(".json"), _MAX_GRAPH_BYTES)
        # The file begins with the size of the names and shapes, which follow.
        head = int.from_bytes(read_limited(tensors, max_bytes + _MAX_GRAPH_BYTES, first_bytes=8), "little")
        if head > _MAX_GRAPH_BYTES:
            raise ValueError(f"{head:,} bytes of names and shapes, at most {_MAX_GRAPH_BYTES:,} are read")  # noqa: TRY301 - one message for all
        state = load_file(tensors)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        msg = f"expected a captured model in {stem.name}.json and {stem.name}.safetensors, got {type(error).__name__}: {error}"
        raise GraphFormatError(msg) from error
    document = parse_document(
        content, "JSON", where="captured model", error=GraphFormatError, most_values=_MAX_GRAPH_VALUES
    )
    table = dict(expect_mapping(printable(document), where="captured model", error=GraphFormatError))
    fidelity = read_table(Fidelity, table.pop("fidelity", None), where="fidelity", error=GraphFormatError)
    captured = CapturedModel(name=name, graph=graph_from_json(table), state=state, fidelity=fidelity)
    others = state.keys() - {spec.name for spec in captured.graph.tensors}
    if others:
        raise GraphFormatError(
            f"expected the tensors of the graph, got {len(others):,} others, such as {min(others)[:80]!r}"
        )
    # Raises an error if the tensors do not fit, or an operation cannot run.
    GraphModule(captured.graph, state, copied=False)
    return captured


def graph_to_json(graph: Graph) -> dict[str, Any]:
    """The graph as plain JSON data in the format ``harness.graph/1``."""
    return {
        "schema": FORMAT,
        "torch": graph.torch_version,
        "input": {"name": graph.input_name, "shape": list(graph.input_shape)},
        "tensors": [_fields_to_json(spec) for spec in graph.tensors],
        "modules": [_fields_to_json(module) for module in graph.modules],
        "train": _program_to_json(graph.train),
        "eval": _program_to_json(graph.evaluate),
    }


def graph_from_json(document: object) -> Graph:
    """Read a graph from untrusted JSON data.

    Raises:
        GraphFormatError: the document has another schema, is malformed, exceeds the size limits, or has an operation
            that reads a value that no earlier operation defines.
    """
    require_plain(document, where="graph", error=GraphFormatError)
    reader = _Reader("graph", document)
    schema = reader.string("schema")
    if schema != FORMAT:
        msg = (
            f"expected a graph file with schema={FORMAT!r}, got schema={schema!r}: export the graph again with the installed "
            "version of the harness"
        )
        raise GraphFormatError(msg)
    source = reader.child("input")
    input_shape = source.dims("shape")
    if max(input_shape, default=0) > _MAX_SIDE:
        msg = f"expected a graph for images with dimensions of at most {_MAX_SIDE:,}, got images of shape {list(input_shape)}"
        raise GraphFormatError(msg)
    tensors = tuple(_tensor_from_json(item) for item in reader.children("tensors", _MAX_TENSORS))
    total = sum(spec.elements for spec in tensors)
    if total > MAX_ELEMENTS:
        msg = f"expected at most {MAX_ELEMENTS:,} elements in all tensors of the graph together, got {total:,}"
        raise GraphFormatError(msg)
    graph = Graph(
        input_shape=input_shape,
        input_name=source.string("name"),
        tensors=tensors,
        modules=tuple(
            DeclaredModule(path=m.string("path"), type=m.string("type"), parameters=m.get("parameters", int))
            for m in reader.children("modules", _MAX_TENSORS)
        ),
        train=_program_from_json(reader.child("train")),
        evaluate=_program_from_json(reader.child("eval")),
        torch_version=reader.string("torch"),
    )
    _require_defined(graph)
    return graph


def decode_argument(data: object) -> Argument:
    """Convert JSON data written by `encode_argument` back to an argument of an operation.

    Raises:
        GraphFormatError: the data does not encode an argument.
    """
    if data is None or isinstance(data, bool | int | float | str):
        return data
    if isinstance(data, list):
        return tuple(decode_argument(item) for item in data)
    if isinstance(data, dict) and len(data) == 1:
        kind, value = next(iter(data.items()))
        if isinstance(value, str):
            if kind == "ref":
                return Ref(value)
            if kind in _SYMBOL_KINDS:
                return Symbol(kind, value)
    kinds = ", ".join(sorted(_SYMBOL_KINDS))
    msg = (
        "expected an argument of an operation (null, true, false, a number, a string, a list, or an object with a string under "
        f"one of the keys ref, {kinds}), got {reprlib.repr(data)}"
    )
    raise GraphFormatError(msg)


def _program_to_json(program: Program) -> dict[str, Any]:
    return {
        "operations": [
            {
                "name": operation.name,
                "op": operation.op,
                "args": encode_argument(operation.args),
                "kwargs": {key: encode_argument(value) for key, value in operation.kwargs.items()},
                "outputs": [_fields_to_json(meta) for meta in operation.outputs],
                "module": operation.module,
                "module_type": operation.module_type,
            }
            for operation in program.operations
        ],
        "output": program.output,
    }


def _fields_to_json(record: TensorSpec | DeclaredModule | ValueMeta) -> dict[str, Any]:
    """Convert a record with plain values to a dictionary, in which tuples become lists."""
    fields = dataclasses.asdict(record).items()
    return {key: list(value) if isinstance(value, tuple) else value for key, value in fields}


# The names of JSON types in messages.
_WORDS = {str: "a string", int: "an integer", bool: "true or false", list: "a list", dict: "an object"}


class _Reader:
    """Reads the values of one JSON object and checks their types; messages contain the object's path in the document."""

    def __init__(self, place: str, data: object) -> None:
        self.place = place
        if not isinstance(data, dict):
            msg = f"{place}: expected an object, found {type(data).__name__}"
            raise GraphFormatError(msg)
        self.data: dict[str, object] = data

    def get(self, key: str, kind: type[T]) -> T:
        value = self.data.get(key)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            found = "nothing" if key not in self.data else f"{type(value).__name__} {reprlib.repr(value)}"
            msg = f"{self.place}: expected {_WORDS[kind]} under {key!r}, found {found}"
            raise GraphFormatError(msg)
        return value

    def string(self, key: str) -> str:
        return self.get(key, str)

    def items(self, key: str, limit: int = _MAX_TENSORS) -> list[object]:
        value: list[object] = self.get(key, list)
        if len(value) > limit:
            msg = f"{self.place}: expected at most {limit:,} entries under {key!r}, got {len(value):,} entries"
            raise GraphFormatError(msg)
        return value

    def dims(self, key: str) -> tuple[int, ...]:
        values = self.shape(key)
        sizes = tuple(value for value in values if isinstance(value, int))
        if len(sizes) != len(values):
            msg = f"{self.place}: expected a list of integers under {key!r}, found {reprlib.repr(list(values))}"
            raise GraphFormatError(msg)
        return sizes

    def shape(self, key: str) -> Shape:
        values = self.items(key, _MAX_DIMS)
        sizes = [value for value in values if isinstance(value, int) and not isinstance(value, bool)]
        texts = [value for value in values if isinstance(value, str) and len(value) <= _MAX_DIM_TEXT]
        if len(sizes) + len(texts) != len(values) or min(sizes, default=0) < 0 or max(sizes, default=0) > MAX_ELEMENTS:
            msg = (
                f"{self.place}: expected a list of sizes, from 0 to {MAX_ELEMENTS:,} or of the form '16*B', under {key!r}, found "
                f"{reprlib.repr(values)}"
            )
            raise GraphFormatError(msg)
        if math.prod(sizes) > MAX_ELEMENTS:
            msg = f"{self.place}: expected {key!r} of at most {MAX_ELEMENTS:,} elements, got sizes {sizes}"
            raise GraphFormatError(msg)
        return tuple(value for value in values if isinstance(value, int | str))

    def strings(self, key: str) -> tuple[str, ...]:
        values = self.items(key)
        texts = tuple(value for value in values if isinstance(value, str))
        if len(texts) != len(values):
            msg = f"{self.place}: expected a list of strings under {key!r}, found {reprlib.repr(values)}"
            raise GraphFormatError(msg)
        return texts

    def child(self, key: str) -> _Reader:
        return _Reader(f"{self.place}.{key}", self.data.get(key))

    def children(self, key: str, limit: int) -> list[_Reader]:
        return [_Reader(f"{self.place}.{key}[{i}]", item) for i, item in enumerate(self.items(key, limit))]

    def argument(self, data: object) -> Argument:
        try:
            return decode_argument(data)
        except GraphFormatError as error:
            msg = f"{self.place}: {error}"
            raise GraphFormatError(msg) from error


def _tensor_from_json(reader: _Reader) -> TensorSpec:
    kind = reader.string("kind")
    if kind not in ("parameter", "buffer", "constant"):
        msg = f"{reader.place}: expected kind parameter, buffer or constant, found kind={kind!r}"
        raise GraphFormatError(msg)
    return TensorSpec(
        name=reader.string("name"),
        kind=kind,  # type: ignore[arg-type]  # narrowed by the test above
        shape=reader.dims("shape"),
        dtype=reader.string("dtype"),
        requires_grad=reader.get("requires_grad", bool),
        aliases=reader.strings("aliases"),
        content=reader.string("content"),
        persistent=reader.get("persistent", bool),
    )


def _program_from_json(reader: _Reader) -> Program:
    operations = []
    for item in reader.children("operations", _MAX_OPERATIONS):
        outputs = item.children("outputs", _MAX_TENSORS)
        operations.append(
            Operation(
                name=item.string("name"),
                op=item.string("op"),
                args=tuple(item.argument(argument) for argument in item.items("args")),
                kwargs={key: item.argument(value) for key, value in item.get("kwargs", dict).items()},
                outputs=tuple(ValueMeta(shape=meta.shape("shape"), dtype=meta.string("dtype")) for meta in outputs),
                module=item.string("module"),
                module_type=item.string("module_type"),
            )
        )
    return Program(operations=tuple(operations), output=reader.string("output"))


def _require_defined(graph: Graph) -> None:
    """Raise an error unless every name is defined once, and before any operation reads the value of that name."""
    held = {graph.input_name}
    for spec in graph.tensors:
        for name in spec.names:
            if name in held:
                msg = f"expected different names for the input and all tensors of the graph, found {name!r} twice"
                raise GraphFormatError(msg)
            held.add(name)
    for mode, program in (("train", graph.train), ("eval", graph.evaluate)):
        defined = set(held)
        for operation in program.operations:
            missing = next((ref for ref in operation.refs() if ref not in defined), None)
            if missing is not None:
                msg = (
                    f"{mode} program: operation {operation.name!r} reads {missing!r}, which is neither the input nor a tensor of "
                    "the graph, nor the result of an earlier operation"
                )
                raise GraphFormatError(msg)
            if operation.name in defined:
                msg = f"{mode} program: expected a new name for each operation, found {operation.name!r} twice"
                raise GraphFormatError(msg)
            defined.add(operation.name)
        if program.output not in defined:
            msg = (
                f"{mode} program: expected the name of a value as output, found {program.output!r}, which no value has"
            )
            raise GraphFormatError(msg)
