"""The graph: a captured model as data.

A `Graph` holds two programs, what the model runs in training and what it runs in evaluation, as lists of ATen operations,
together with the specification of every tensor they read and the tree of modules the model declares. It carries no code and
no weights: weights are stored separately as named tensors.

Values are named in static single assignment form. A dimension is an integer, or a string in the batch size ``B``, such as
``"B"`` or ``"16*B"``.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from json import dumps  # bound before a user's file can replace it
from typing import Any, Literal

import torch

from harness.graph.operations import OperationKind, kind_of

Dim = int | str
Shape = tuple[Dim, ...]
TensorKind = Literal["parameter", "buffer", "constant"]
# Far above any model this harness is for (input 1x28x28), far below what would exhaust a small machine.
MAX_ELEMENTS = 100_000_000


@dataclass(frozen=True, slots=True)
class Ref:
    """A reference by name to the input, a tensor, or the result of an operation."""

    name: str


@dataclass(frozen=True, slots=True)
class Symbol:
    """An argument without a JSON value: a dtype, layout, memory format, non-finite float, or runtime setting.

    ``kind`` is ``dtype``, ``layout``, ``memory_format``, ``float`` (the non-finite ones) or ``runtime``; the runtime symbols
    are ``device`` (the input's device) and ``cudnn`` (whether cuDNN is enabled).
    """

    kind: str
    value: str


Argument = Ref | Symbol | None | bool | int | float | str | tuple["Argument", ...]

RUNTIME_DEVICE = Symbol("runtime", "device")
RUNTIME_CUDNN = Symbol("runtime", "cudnn")


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorSpec:
    """A tensor the model holds: parameter, buffer, or constant (a plain attribute or a literal).

    ``aliases`` are further names of a shared tensor, which is counted once. ``content`` is the SHA-256 of a constant's
    values; it is empty for parameters and buffers, whose values training changes.
    ``persistent`` says whether the module's ``state_dict`` contains it; constants are in none.
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
    def names(self) -> tuple[str, ...]:
        """Its name and its aliases."""
        return (self.name, *self.aliases)

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def facts(self) -> list[Any]:
        """JSON data that identifies the tensor, without its names and without values that training changes."""
        return [self.kind, list(self.shape), self.dtype, self.requires_grad, self.content]


@dataclass(frozen=True, kw_only=True, slots=True)
class ValueMeta:
    """Shape and dtype of one result of an operation."""

    shape: Shape
    dtype: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """One operation of a program.

    ``name`` is the value it defines; ``op`` the ATen overload, such as ``aten.conv2d.default``, or a scalar operation, such as
    ``operator.mul``; ``outputs`` has an entry for each tensor result, none for an operation on sizes; ``module`` is the path of
    the submodule it came from, empty for the model itself.
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
        """The operation's properties, derived from its name: its family, and whether it works in place."""
        return kind_of(self.op)

    @property
    def shape(self) -> Shape:
        """Shape of its first result; empty when it has none."""
        return self.outputs[0].shape if self.outputs else ()

    def refs(self) -> Iterator[str]:
        """Names of the values that the operation reads, in argument order and including repetitions."""
        yield from _refs((*self.args, *self.kwargs.values()))


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """The operations of one mode, in order of execution."""

    operations: tuple[Operation, ...]
    output: str

    def written(self, names: Iterable[str]) -> set[str]:
        """Which of these inputs or tensors an in-place operation modifies, directly or through a view."""
        owners = {name: name for name in names}
        found = set()
        for operation in self.operations:
            owner = owners.get(next(operation.refs(), ""))
            if owner is not None and operation.kind.in_place:
                found.add(owner)
            if owner is not None and operation.kind.shares_memory:
                owners[operation.name] = owner
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class DeclaredModule:
    """A registered submodule, called or not; ``parameters`` is the number of elements that it owns directly."""

    path: str
    type: str
    parameters: int


@dataclass(frozen=True, kw_only=True)
class Graph:
    """A captured model: its tensors, its registered modules, and the program of each mode.

    ``input_shape`` excludes the batch dimension. ``tensors`` are all tensors of the model, used or not; ``modules`` is
    the module tree in order, the model itself first. ``torch_version`` of the capture is not part of any digest.
    """

    input_shape: tuple[int, ...]
    input_name: str
    tensors: tuple[TensorSpec, ...]
    modules: tuple[DeclaredModule, ...]
    train: Program
    evaluate: Program
    torch_version: str

    def tensor(self, name: str) -> TensorSpec | None:
        """The tensor of this name; None if the graph has none."""
        return next((spec for spec in self.tensors if spec.name == name), None)

    def exact_digest(self) -> str:
        """SHA-256 of the exact operations of both modes.

        Captures with equal digests give bitwise equal results for the same weights. The digest is independent of the
        names of values, tensors and modules, and of the version that captured them.
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
                        order[ref] = names[ref] = f"t{len(order)}"
                        lines.append([names[ref], *specs[ref].facts()])
                names[operation.name] = f"v{index}"
                args = _renamed(encode_argument(operation.args), names)
                kwargs = _renamed({key: encode_argument(value) for key, value in operation.kwargs.items()}, names)
                lines.append([operation.op, args, kwargs, [[list(m.shape), m.dtype] for m in operation.outputs]])
            document.append([lines, names.get(program.output, program.output)])
        text = dumps(document, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def bind(operation: Operation) -> dict[str, Argument]:
    """The operation's arguments by their names in its schema, including defaults.

    An operation unknown to this version of torch keeps only its keyword arguments.
    """
    declared = dict(_declared_arguments(operation.op))
    return declared | dict(zip(declared, operation.args, strict=False)) | dict(operation.kwargs)


@cache
def _declared_arguments(op: str) -> tuple[tuple[str, Argument], ...]:
    parts = op.split(".")
    packet = getattr(torch.ops.aten, parts[1], None) if parts[0] == "aten" else None
    overload = getattr(packet, parts[-1], None)
    if overload is None:
        return ()
    return tuple((argument.name, _plain(argument.default_value)) for argument in overload._schema.arguments)  # noqa: SLF001 - torch has no public way to read a schema


def _plain(value: object) -> Argument:
    if isinstance(value, list | tuple):
        return tuple(_plain(item) for item in value)
    return value if isinstance(value, bool | int | float | str) else None


def encode_argument(argument: Argument) -> Any:  # noqa: ANN401 - JSON data has no narrower type
    """Encode an argument as JSON data."""
    match argument:
        case Ref(name):
            return {"ref": name}
        case Symbol(kind, value):
            return {kind: value}
        case tuple():
            return [encode_argument(item) for item in argument]
        case _:
            return argument


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
