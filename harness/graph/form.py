"""The graph: a captured model as data.

A `Graph` holds two programs, what the model runs in training and what it runs in evaluation, as lists of ATen operations,
together with the specification of every tensor they read and the tree of modules the model declares. It carries no code and
no weights: weights travel beside it as named tensors.

Values are named in static single assignment form. A dimension is an integer, or a string in the batch size ``B``, such as
``"B"`` or ``"16*B"``.
"""

from __future__ import annotations

import hashlib
import json
import math
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from harness.errors import GraphFormatError
from harness.graph.operations import OperationKind, kind_of

FORMAT = "harness.graph/1"

Dim = int | str
Shape = tuple[Dim, ...]
TensorKind = Literal["parameter", "buffer", "constant"]

MAX_OPERATIONS = 20_000
MAX_TENSORS = 20_000
MAX_NESTING = 8
# Far above any model this examiner is for (input 1x28x28), far below what would exhaust a small machine.
MAX_ELEMENTS = 100_000_000
MAX_DIMS = 8
MAX_SIDE = 1_024
_MAX_DIM_TEXT = 80


@dataclass(frozen=True, slots=True)
class Ref:
    """A use of a value: the input, a tensor, or an operation's result, by name."""

    name: str


@dataclass(frozen=True, slots=True)
class Symbol:
    """An argument that is not a number: a dtype, a memory format, or something only known where the graph runs.

    ``kind`` is ``dtype``, ``layout``, ``memory_format``, ``float`` (the non-finite ones) or ``runtime``; the runtime symbols
    are ``device`` (the input's device) and ``cudnn`` (whether cuDNN is enabled).
    """

    kind: str
    value: str


Argument = Ref | Symbol | None | bool | int | float | str | tuple["Argument", ...]

RUNTIME_DEVICE = Symbol("runtime", "device")
RUNTIME_CUDNN = Symbol("runtime", "cudnn")
_SYMBOL_KINDS = frozenset({"dtype", "layout", "memory_format", "float", "runtime"})


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorSpec:
    """A tensor the model holds: parameter, buffer, or constant (a plain attribute or a literal).

    ``aliases`` are further names of the same, shared tensor; it is counted once. ``content`` is the SHA-256 of a constant's
    numbers, which belong to what the model computes; it is empty for parameters and buffers, which training changes.
    ``persistent`` says whether the original's ``state_dict`` holds it; constants are in none.
    """

    name: str
    kind: TensorKind
    shape: tuple[int, ...]
    dtype: str
    requires_grad: bool = False
    aliases: tuple[str, ...] = ()
    content: str = ""
    persistent: bool = True

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True, kw_only=True, slots=True)
class ValueMeta:
    """Shape and dtype of one result of an operation."""

    shape: Shape
    dtype: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """One operation as it runs.

    Args:
        name: the value it defines.
        op: name of the ATen overload, such as ``aten.conv2d.default``, or of a scalar operation, such as ``operator.mul``.
        args: positional arguments.
        kwargs: keyword arguments.
        outputs: shape and dtype of each tensor result; empty for an operation on sizes.
        module: path of the submodule it came from; empty for the model itself.
        module_type: class name of that submodule.
    """

    name: str
    op: str
    args: tuple[Argument, ...]
    kwargs: Mapping[str, Argument] = field(default_factory=dict)
    outputs: tuple[ValueMeta, ...] = ()
    module: str = ""
    module_type: str = ""

    @property
    def kind(self) -> OperationKind:
        """What is known of it by its name: its family, whether it works in place."""
        return kind_of(self.op)

    @property
    def shape(self) -> Shape:
        """Shape of its first result; empty when it has none."""
        return self.outputs[0].shape if self.outputs else ()

    def refs(self) -> Iterator[str]:
        """Names of the values it reads, in order of appearance, repeated ones repeated."""
        for argument in (*self.args, *self.kwargs.values()):
            yield from _refs(argument)


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """The operations of one mode, in order of execution."""

    operations: tuple[Operation, ...]
    output: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DeclaredModule:
    """A submodule the model declares, called or not; ``parameters`` are the elements it owns itself."""

    path: str
    type: str
    parameters: int


@dataclass(frozen=True, kw_only=True)
class Graph:
    """A captured model: what it holds, what it declares, and what it runs in each mode.

    Args:
        input_shape: shape of one input, without the batch dimension.
        input_name: name of the input value.
        tensors: every tensor the model holds, reached or not.
        modules: the declared module tree, in declaration order, the model itself first.
        train: the training program.
        evaluate: the evaluation program.
        torch_version: the version that captured it; not part of any digest.
    """

    input_shape: tuple[int, ...]
    input_name: str
    tensors: tuple[TensorSpec, ...]
    modules: tuple[DeclaredModule, ...]
    train: Program
    evaluate: Program
    torch_version: str

    def tensor(self, name: str) -> TensorSpec | None:
        """The tensor of this name, if the graph holds one."""
        return next((spec for spec in self.tensors if spec.name == name), None)

    def exact_digest(self) -> str:
        """SHA-256 of the operations as they run, in both modes.

        Equal for two captures that compute the same to the bit from the same weights; independent of the names of values,
        tensors and modules and of the version that captured them.
        """
        order: dict[str, str] = {self.input_name: "input"}
        specs = {spec.name: spec for spec in self.tensors}
        document: list[Any] = [list(self.input_shape)]
        for program in (self.train, self.evaluate):
            names = dict(order)
            lines: list[Any] = []
            for index, operation in enumerate(program.operations):
                for ref in operation.refs():
                    if ref in specs and ref not in names:
                        spec = specs[ref]
                        order[ref] = names[ref] = f"t{len(order)}"
                        lines.append(
                            [names[ref], spec.kind, list(spec.shape), spec.dtype, spec.requires_grad, spec.content]
                        )
                names[operation.name] = f"v{index}"
                lines.append(
                    [
                        operation.op,
                        _renamed(encode_argument(operation.args), names),
                        _renamed({k: encode_argument(v) for k, v in sorted(operation.kwargs.items())}, names),
                        [[list(meta.shape), meta.dtype] for meta in operation.outputs],
                    ]
                )
            document.append([lines, names.get(program.output, program.output)])
        text = json.dumps(document, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """The graph as plain JSON data in the format ``harness.graph/1``."""
        return {
            "schema": FORMAT,
            "torch": self.torch_version,
            "input": {"name": self.input_name, "shape": list(self.input_shape)},
            "tensors": [
                {
                    "name": spec.name,
                    "kind": spec.kind,
                    "shape": list(spec.shape),
                    "dtype": spec.dtype,
                    "requires_grad": spec.requires_grad,
                    "aliases": list(spec.aliases),
                    "content": spec.content,
                    "persistent": spec.persistent,
                }
                for spec in self.tensors
            ],
            "modules": [{"path": m.path, "type": m.type, "parameters": m.parameters} for m in self.modules],
            "train": _program_to_json(self.train),
            "eval": _program_to_json(self.evaluate),
        }

    @classmethod
    def from_json(cls, document: object) -> Graph:
        """Read a graph from JSON data, trusting nothing in it.

        Raises:
            GraphFormatError: the document is of another version, malformed, refers to values before they are defined, or
                exceeds the size limits.
        """
        reader = _Reader("graph", document)
        schema = reader.string("schema")
        if schema != FORMAT:
            msg = f"expected a graph in format {FORMAT!r}, found schema={schema!r}: write it again with this version"
            raise GraphFormatError(msg)
        source = reader.child("input")
        input_shape = source.dims("shape")
        if max(input_shape, default=0) > MAX_SIDE:
            msg = f"the graph takes images of shape {list(input_shape)}: at most {MAX_SIDE:,} a side are accepted"
            raise GraphFormatError(msg)
        tensors = tuple(_tensor_from_json(item) for item in reader.children("tensors", MAX_TENSORS))
        total = sum(spec.elements for spec in tensors)
        if total > MAX_ELEMENTS:
            msg = f"the graph's tensors hold {total:,} numbers together: at most {MAX_ELEMENTS:,} are accepted"
            raise GraphFormatError(msg)
        graph = cls(
            input_shape=input_shape,
            input_name=source.string("name"),
            tensors=tensors,
            modules=tuple(
                DeclaredModule(path=m.string("path"), type=m.string("type"), parameters=m.integer("parameters"))
                for m in reader.children("modules", MAX_TENSORS)
            ),
            train=_program_from_json(reader.child("train")),
            evaluate=_program_from_json(reader.child("eval")),
            torch_version=reader.string("torch"),
        )
        _require_defined(graph)
        return graph


def encode_argument(argument: Argument) -> Any:  # noqa: ANN401 - JSON data has no narrower type
    """An argument as JSON data."""
    match argument:
        case Ref(name):
            return {"ref": name}
        case Symbol(kind, value):
            return {kind: value}
        case tuple():
            return [encode_argument(item) for item in argument]
        case _:
            return argument


def decode_argument(data: object, depth: int = 0) -> Argument:
    """The inverse of `encode_argument`.

    Raises:
        GraphFormatError: the data is no argument.
    """
    if isinstance(data, float) and not math.isfinite(data):
        msg = f"expected a finite number, found {data}: JSON has no others; write {{'float': '{data}'}}"
        raise GraphFormatError(msg)
    if data is None or isinstance(data, bool | int | float | str):
        return data
    if depth > MAX_NESTING:
        msg = f"an argument is nested more than {MAX_NESTING} deep: no operation takes such a thing"
        raise GraphFormatError(msg)
    if isinstance(data, list):
        return tuple(decode_argument(item, depth + 1) for item in data)
    if isinstance(data, dict) and len(data) == 1:
        kind, value = next(iter(data.items()))
        if isinstance(value, str):
            if kind == "ref":
                return Ref(value)
            if kind in _SYMBOL_KINDS:
                return Symbol(kind, value)
    kinds = ", ".join(sorted(_SYMBOL_KINDS))
    msg = f"expected an argument (a number, a string, a list, or one of ref, {kinds}), found {reprlib.repr(data)}"
    raise GraphFormatError(msg)


def _refs(argument: Argument) -> Iterator[str]:
    if isinstance(argument, Ref):
        yield argument.name
    elif isinstance(argument, tuple):
        for item in argument:
            yield from _refs(item)


def _renamed(data: Any, names: Mapping[str, str]) -> Any:  # noqa: ANN401 - JSON data has no narrower type
    if isinstance(data, list):
        return [_renamed(item, names) for item in data]
    if isinstance(data, dict):
        if data.keys() == {"ref"}:
            return {"ref": names.get(data["ref"], data["ref"])}
        return {key: _renamed(value, names) for key, value in data.items()}
    return data


def _program_to_json(program: Program) -> dict[str, Any]:
    return {
        "operations": [
            {
                "name": operation.name,
                "op": operation.op,
                "args": encode_argument(operation.args),
                "kwargs": {key: encode_argument(value) for key, value in operation.kwargs.items()},
                "outputs": [{"shape": list(meta.shape), "dtype": meta.dtype} for meta in operation.outputs],
                "module": operation.module,
                "module_type": operation.module_type,
            }
            for operation in program.operations
        ],
        "output": program.output,
    }


class _Reader:
    """Typed access to one JSON object; every complaint names the place."""

    def __init__(self, place: str, data: object) -> None:
        self.place = place
        if not isinstance(data, dict):
            msg = f"{place}: expected an object, found {type(data).__name__}"
            raise GraphFormatError(msg)
        self.data: dict[str, object] = data

    def _get(self, key: str, kind: type, words: str) -> Any:  # noqa: ANN401 - narrowed by the callers
        value = self.data.get(key)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            found = "nothing" if key not in self.data else f"{type(value).__name__} {reprlib.repr(value)}"
            msg = f"{self.place}: expected {words} under {key!r}, found {found}"
            raise GraphFormatError(msg)
        return value

    def string(self, key: str) -> str:
        value: str = self._get(key, str, "a string")
        return value

    def integer(self, key: str) -> int:
        value: int = self._get(key, int, "an integer")
        return value

    def boolean(self, key: str) -> bool:
        value: bool = self._get(key, bool, "true or false")
        return value

    def items(self, key: str, limit: int = MAX_TENSORS) -> list[object]:
        value: list[object] = self._get(key, list, "a list")
        if len(value) > limit:
            msg = f"{self.place}: {key!r} has {len(value):,} entries, at most {limit:,} are accepted"
            raise GraphFormatError(msg)
        return value

    def dims(self, key: str) -> tuple[int, ...]:
        values = self.shape(key)
        if not all(isinstance(value, int) for value in values):
            msg = f"{self.place}: expected sizes without the batch under {key!r}, found {reprlib.repr(list(values))}"
            raise GraphFormatError(msg)
        return tuple(value for value in values if isinstance(value, int))

    def shape(self, key: str) -> Shape:
        values = self.items(key, MAX_DIMS)
        sizes = [value for value in values if isinstance(value, int) and not isinstance(value, bool)]
        texts = [value for value in values if isinstance(value, str) and len(value) <= _MAX_DIM_TEXT]
        if len(sizes) + len(texts) != len(values) or min(sizes, default=0) < 0 or max(sizes, default=0) > MAX_ELEMENTS:
            msg = f"{self.place}: expected sizes from 0 to {MAX_ELEMENTS:,} under {key!r}, found {reprlib.repr(values)}"
            raise GraphFormatError(msg)
        if math.prod(sizes) > MAX_ELEMENTS:
            msg = f"{self.place}: {key!r} {sizes} is more than {MAX_ELEMENTS:,} numbers, the most that is accepted"
            raise GraphFormatError(msg)
        return tuple(value for value in values if isinstance(value, int | str))

    def strings(self, key: str) -> tuple[str, ...]:
        values = self.items(key)
        if not all(isinstance(value, str) for value in values):
            msg = f"{self.place}: expected a list of strings under {key!r}, found {reprlib.repr(values)}"
            raise GraphFormatError(msg)
        return tuple(value for value in values if isinstance(value, str))

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

    def mapping(self, key: str) -> dict[str, object]:
        value: dict[str, object] = self._get(key, dict, "an object")
        return value


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
        requires_grad=reader.boolean("requires_grad"),
        aliases=reader.strings("aliases"),
        content=reader.string("content"),
        persistent=reader.boolean("persistent"),
    )


def _program_from_json(reader: _Reader) -> Program:
    operations = []
    for item in reader.children("operations", MAX_OPERATIONS):
        outputs = [
            ValueMeta(shape=meta.shape("shape"), dtype=meta.string("dtype"))
            for meta in item.children("outputs", MAX_TENSORS)
        ]
        operations.append(
            Operation(
                name=item.string("name"),
                op=item.string("op"),
                args=tuple(item.argument(argument) for argument in item.items("args")),
                kwargs={key: item.argument(value) for key, value in item.mapping("kwargs").items()},
                outputs=tuple(outputs),
                module=item.string("module"),
                module_type=item.string("module_type"),
            )
        )
    return Program(operations=tuple(operations), output=reader.string("output"))


def _require_defined(graph: Graph) -> None:
    """Every value is defined once and before its use; a cycle is impossible then."""
    held = {graph.input_name}
    for spec in graph.tensors:
        for name in (spec.name, *spec.aliases):
            if name in held:
                msg = f"the graph defines {name!r} twice"
                raise GraphFormatError(msg)
            held.add(name)
    for mode, program in (("train", graph.train), ("eval", graph.evaluate)):
        defined = set(held)
        for operation in program.operations:
            missing = next((ref for ref in operation.refs() if ref not in defined), None)
            if missing is not None:
                msg = f"{mode} program: operation {operation.name!r} reads {missing!r}, which is not defined before it"
                raise GraphFormatError(msg)
            if operation.name in defined:
                msg = f"{mode} program: {operation.name!r} is defined twice"
                raise GraphFormatError(msg)
            defined.add(operation.name)
        if program.output not in defined:
            msg = f"{mode} program: its output {program.output!r} is not defined"
            raise GraphFormatError(msg)
