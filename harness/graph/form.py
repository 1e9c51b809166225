"""The graph: a captured model as data.

A `Graph` holds two programs, one for training mode and one for evaluation mode, as lists of ATen operations, together
with the specification of every tensor of the model and the tree of registered modules. A graph holds no code and no weights:
weights are stored separately as named tensors.

Each operation defines one value, under a name that no other value of the program has. A dimension is an integer, or an
expression in the batch size ``B``, such as ``"B"`` or ``"16*B"``.
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
# Far above the size of any model that the harness is meant for, far below what would exhaust the memory of a small machine.
MAX_ELEMENTS = 100_000_000


@dataclass(frozen=True, slots=True)
class Ref:
    """A reference by name to the input of a program, a tensor of the graph, or the result of an operation."""

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
    """The specification of a tensor of the model: a parameter, a buffer, or a constant (a plain attribute or a literal).

    ``aliases`` are the further names of a tensor that the model holds under several names. ``content`` is the SHA-256 of
    a constant's values, and empty for parameters and buffers, whose values change in training. ``persistent`` says
    whether the module's ``state_dict`` contains the tensor, which is never the case for constants.
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
        """All names of the tensor: ``name``, then ``aliases``."""
        return (self.name, *self.aliases)

    @property
    def elements(self) -> int:
        """Number of elements of the tensor."""
        return math.prod(self.shape)

    def facts(self) -> list[Any]:
        """The tensor's kind, shape, dtype, ``requires_grad`` and ``content`` as JSON data, for digests without names."""
        return [self.kind, list(self.shape), self.dtype, self.requires_grad, self.content]


@dataclass(frozen=True, kw_only=True, slots=True)
class ValueMeta:
    """Shape and dtype of one result of an operation."""

    shape: Shape
    dtype: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """One operation of a program.

    ``name`` is the name of the operation's result; ``op`` is the ATen overload, such as ``aten.conv2d.default``, or an
    operation on sizes, such as ``operator.mul``; ``outputs`` has an entry for each tensor in the result, so none for an
    operation on sizes; ``module`` is the path of the submodule whose forward runs the operation, empty for the model
    itself, and ``module_type`` is the class name of that submodule.
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
        """Properties that follow from ``op``, such as the family of the operation and whether it works in place."""
        return kind_of(self.op)

    @property
    def shape(self) -> Shape:
        """Shape of the first tensor in the operation's result; empty if the result contains no tensor."""
        return self.outputs[0].shape if self.outputs else ()

    def refs(self) -> Iterator[str]:
        """Names of the values among the operation's arguments, in argument order and including repetitions."""
        yield from _refs((*self.args, *self.kwargs.values()))


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """The operations of one mode in order of execution, and the name of the value that is the model's output."""

    operations: tuple[Operation, ...]
    output: str

    def written(self, names: Iterable[str]) -> set[str]:
        """Those ``names`` of inputs or tensors whose memory an in-place operation modifies, directly or through a view."""
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
    """A registered module, called or not.

    ``parameters`` is the number of elements of the parameters registered in this module itself and not in a submodule;
    a shared parameter counts in the first module only.
    """

    path: str
    type: str
    parameters: int


@dataclass(frozen=True, kw_only=True)
class Graph:
    """A captured model: its tensors, its registered modules, and the program of each mode.

    ``input_shape`` excludes the batch dimension. ``tensors`` are all tensors of the model, used or not; ``modules`` are
    the model itself and all submodules, in the order of ``named_modules``. ``torch_version`` is the version of torch that
    captured the model; no digest depends on the version.
    """

    input_shape: tuple[int, ...]
    input_name: str
    tensors: tuple[TensorSpec, ...]
    modules: tuple[DeclaredModule, ...]
    train: Program
    evaluate: Program
    torch_version: str

    def tensor(self, name: str) -> TensorSpec | None:
        """The specification of the tensor called ``name``; None if the graph has no such tensor."""
        return next((spec for spec in self.tensors if spec.name == name), None)

    def changed_outside_state_dict(self) -> list[str]:
        """Names of tensors that the forward pass in training changes and that the ``state_dict`` does not hold."""
        outside = {name for spec in self.tensors if not spec.persistent for name in spec.names}
        statistics = {
            ref
            for operation in self.train.operations
            if operation.kind.name == "batch_norm"
            for ref in list(operation.refs())[1:]
        }
        return sorted(self.train.written(outside) | (outside & statistics))

    def exact_digest(self) -> str:
        """SHA-256 of the exact operations of both modes.

        Graphs with equal digests compute bitwise equal results from the same weights. The digest is independent of the
        names of values, tensors and modules, and of the torch version used for capture.
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
    """Map the argument names of an operation's schema to the arguments given or, if not given, to their defaults.

    For an operation that the installed torch does not have, only keyword arguments are returned.
    """
    declared = dict(_declared_arguments(operation.op))
    return declared | dict(zip(declared, operation.args, strict=False)) | dict(operation.kwargs)


@cache
def argument_types(op: str) -> Mapping[str, str]:
    """The types of an operation's arguments by their names, such as ``List[int]``; empty if the installed torch lacks it."""
    return {name: kind for name, _, kind in _schema(op)}


@cache
def _declared_arguments(op: str) -> tuple[tuple[str, Argument], ...]:
    return tuple((name, default) for name, default, _ in _schema(op))


def _schema(op: str) -> tuple[tuple[str, Argument, str], ...]:
    """The name, the default and the type of each argument of an operation; empty if the installed torch has no such one."""
    parts = op.split(".")
    packet = getattr(torch.ops.aten, parts[1], None) if parts[0] == "aten" else None
    overload = getattr(packet, parts[-1], None)
    if overload is None:
        return ()
    arguments = overload._schema.arguments  # noqa: SLF001 - torch has no public way to read a schema
    return tuple((one.name, _plain(one.default_value), str(one.type)) for one in arguments)


def _plain(value: object) -> Argument:
    if isinstance(value, list | tuple):
        return tuple(_plain(item) for item in value)
    return value if isinstance(value, bool | int | float | str) else None


def encode_argument(argument: Argument) -> Any:  # noqa: ANN401 - JSON data has no narrower type
    """Encode an argument of an operation as JSON data."""
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
