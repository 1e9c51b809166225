"""`Graph` -> `nn.Module`: a trainable module that runs the captured operations and nothing else.

Operations are looked up by name in an allow-list; a graph that asks for anything else is refused before it runs.
"""

from __future__ import annotations

import functools
import hashlib
import math
import operator
from collections.abc import Callable, Mapping
from types import MappingProxyType, ModuleType
from typing import Any

import torch
from torch import nn

from harness.errors import GraphFormatError
from harness.graph.form import MAX_ELEMENTS, Argument, Graph, Operation, Program, Ref, Symbol, bind
from harness.graph.operations import kind_of

_SCALAR_NAMES: dict[ModuleType, tuple[str, ...]] = {
    operator: ("add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "getitem"),
    math: ("trunc", "floor", "ceil"),
    torch: ("sym_int", "sym_float", "sym_max", "sym_min"),
}
SCALAR_OPERATIONS: dict[str, Callable[..., Any]] = {
    f"{module.__name__}.{name}": getattr(module, name) for module, names in _SCALAR_NAMES.items() for name in names
}

_Change = Callable[[torch.Tensor], torch.Tensor]
_Template = Callable[[list[Any], torch.device], Any]
DTYPES = frozenset({"float16", "bfloat16", "float32", "float64", "uint8", "int8", "int16", "int32", "int64", "bool"})
# Two images: a single one would hide a dimension that is lost.
_CHECKED_BATCH = 2


def content_digest(tensor: torch.Tensor) -> str:
    """SHA-256 (hex) of a tensor's bytes."""
    plain = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(plain.numpy().tobytes()).hexdigest()


class GraphModule(nn.Module):
    """A captured model as a trainable module.

    ``train()`` and ``eval()`` select the program. ``state`` has a tensor for each name in ``graph.tensors``, and is copied.
    Parameters and buffers keep their original names, so its ``state_dict`` is the original module's; constants are buffers
    that are not in the ``state_dict``.

    Raises:
        GraphFormatError: an operation is not on the allow-list, fails on its operands, or has a result of another shape
            than declared or of excessive size, or a tensor is missing or has another shape or dtype.
    """

    def __init__(self, graph: Graph, state: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.graph = graph
        for spec in graph.tensors:
            tensor = state.get(spec.name)
            expected = f"{spec.dtype} of shape {list(spec.shape)}"
            fits = tensor is not None and str(tensor.dtype) == f"torch.{spec.dtype}" and tensor.shape == spec.shape
            if tensor is None or not fits or spec.dtype not in DTYPES:
                found = "nothing" if tensor is None else f"{tensor.dtype} of shape {list(tensor.shape)}"
                msg = f"tensor {spec.name!r}: expected {expected}, found {found}"
                raise GraphFormatError(msg)
            if spec.kind == "constant" and content_digest(tensor) != spec.content:
                msg = f"constant {spec.name!r} holds other numbers than the graph was captured with"
                raise GraphFormatError(msg)
            value: torch.Tensor = tensor.detach().clone()
            if spec.kind == "parameter":
                value = nn.Parameter(value, requires_grad=spec.requires_grad)
            for name in spec.names:
                self._hold(name, value, persistent=spec.kind == "buffer" and spec.persistent)
        self._train_steps, self._eval_steps = _Steps(graph, graph.train), _Steps(graph, graph.evaluate)
        self._train_steps.check_on_meta(self)
        self._eval_steps.check_on_meta(self)

    def _hold(self, name: str, value: torch.Tensor, *, persistent: bool) -> None:
        # Straight into torch's tables: its register functions refuse names such as "graph", which another class may well use.
        *path, leaf = name.split(".")
        owner: nn.Module = self
        for part in path:
            child = owner._modules.get(part)  # noqa: SLF001 - get_submodule would raise for the ones made here
            if child is None:
                child = nn.Module()
                owner._modules[part] = child  # noqa: SLF001
            owner = child
        if isinstance(value, nn.Parameter):
            owner._parameters[leaf] = value  # noqa: SLF001
            return
        owner._buffers[leaf] = value  # noqa: SLF001
        if not persistent:
            owner._non_persistent_buffers_set.add(leaf)  # noqa: SLF001

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Run the program of the current mode on ``(B, *input_shape)``.

        Raises:
            ValueError: an image has another shape than the model was captured for.
        """
        if images.shape[1:] != self.graph.input_shape:
            msg = f"expected images of shape {list(self.graph.input_shape)}, found {list(images.shape[1:])}"
            raise ValueError(msg)
        return self._steps.run(self, images)

    def trace(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Run the program of the current mode; returns every tensor value by name."""
        values: dict[str, torch.Tensor] = {}
        self._steps.run(self, images, keep=values)
        return values

    def run_with(self, images: torch.Tensor, changes: Mapping[str, _Change]) -> torch.Tensor:
        """Run the program of the current mode, applying each function in ``changes`` to the value of that name."""
        return self._steps.run(self, images, changes=changes)

    def runner(self, program: Program, operations: Mapping[str, Callable[..., Any]]) -> _Change:
        """Return a function that runs another program, such as a faster equivalent, on this graph's input and tensors.

        ``operations`` maps names to functions, for operations outside the allow-list or with another implementation.

        Raises:
            GraphFormatError: an operation is neither in ``operations`` nor on the allow-list.
        """
        return functools.partial(_Steps(self.graph, program, operations).run, self)

    @property
    def _steps(self) -> _Steps:
        return self._train_steps if self.training else self._eval_steps


class _Steps:
    """A program prepared to run: functions looked up, values in numbered slots, each freed after its last use."""

    def __init__(
        self, graph: Graph, program: Program, operations: Mapping[str, Callable[..., Any]] = MappingProxyType({})
    ) -> None:
        self.graph, self.program = graph, program
        held = {spec.name for spec in graph.tensors}
        slots: dict[str, int] = {graph.input_name: 0}
        self.loads: list[tuple[int, tuple[str, ...], str]] = []
        last_use: dict[int, int] = {}
        for index, operation in enumerate(program.operations):
            for ref in operation.refs():
                if ref in held and ref not in slots:
                    slots[ref] = len(slots)
                    *path, leaf = ref.split(".")
                    self.loads.append((slots[ref], tuple(path), leaf))
                last_use[slots[ref]] = index
            slots[operation.name] = len(slots)
        self.names = [operation.name for operation in program.operations]
        self.size = len(slots)
        self.output = slots[program.output]
        # The images are the caller's.
        self.writes_input = bool(program.written([graph.input_name]))
        self.calls = []
        for index, operation in enumerate(program.operations):
            free = [slot for slot, last in last_use.items() if last == index and slot != self.output]
            arguments = [_template(argument, slots) for argument in operation.args]
            kwargs = [(key, _template(value, slots)) for key, value in operation.kwargs.items()]
            function = operations.get(operation.op) or resolve(operation.op)
            self.calls.append((function, arguments, kwargs, slots[operation.name], free))

    def run(
        self,
        module: nn.Module,
        images: torch.Tensor,
        *,
        keep: dict[str, torch.Tensor] | None = None,
        changes: Mapping[str, _Change] = MappingProxyType({}),
    ) -> torch.Tensor:
        values = self._loaded(module, images)
        device = images.device
        for index, (function, arguments, kwargs, slot, free) in enumerate(self.calls):
            result = function(
                *[argument(values, device) for argument in arguments],
                **{key: argument(values, device) for key, argument in kwargs},
            )
            if self.names[index] in changes:
                result = changes[self.names[index]](result)
            values[slot] = result
            if keep is not None and isinstance(result, torch.Tensor):
                # A later in-place operation must not change what is kept.
                keep[self.names[index]] = result.clone()
            for unused in free:
                values[unused] = None
        output: torch.Tensor = values[self.output]
        return output

    def _loaded(self, module: nn.Module, images: torch.Tensor) -> list[Any]:
        """Return the slots, filled with the images and the module's tensors."""
        values: list[Any] = [None] * self.size
        values[0] = images.clone() if self.writes_input else images
        for slot, path, leaf in self.loads:
            owner = module
            for part in path:
                owner = owner._modules[part]  # type: ignore[assignment]  # noqa: SLF001 - made in _hold, never None
            tensor = owner._parameters.get(leaf)  # noqa: SLF001 - getattr would cost as much as the arithmetic
            values[slot] = owner._buffers[leaf] if tensor is None else tensor  # noqa: SLF001
        return values

    def check_on_meta(self, module: nn.Module) -> None:
        """Run on torch's meta device, which computes shapes without allocating data.

        Raises:
            GraphFormatError: an operation fails on its operands, or its result differs from the declared one.
        """
        meta = torch.device("meta")
        images = torch.empty((_CHECKED_BATCH, *self.graph.input_shape), device=meta)
        values = [None if value is None else value.detach().to(meta) for value in self._loaded(module, images)]
        with torch.no_grad():
            for operation, call in zip(self.program.operations, self.calls, strict=True):
                function, arguments, kwargs, slot, _ = call
                place = f"operation {operation.name!r} ({operation.op})"
                given = {key: argument(values, meta) for key, argument in kwargs}
                if "device" not in given and "device" in bind(operation):
                    # What is created without a device would be created on the CPU, in full size.
                    given["device"] = meta
                try:
                    values[slot] = function(*[argument(values, meta) for argument in arguments], **given)
                except Exception as error:
                    lines = str(error).splitlines() or [type(error).__name__]
                    msg = f"{place} cannot run on its operands: {lines[0][:200]}"
                    raise GraphFormatError(msg) from error
                _require_declared(place, operation, values[slot])


def _require_declared(place: str, operation: Operation, result: object) -> None:
    """Refuse a result whose shape or dtype differs from the declared one, or that exceeds the size limit."""
    found = result if isinstance(result, list | tuple) else [result]
    tensors = [item for item in found if isinstance(item, torch.Tensor)]
    if len(tensors) != len(operation.outputs):
        msg = f"{place}: expected {len(operation.outputs)} results, found {len(tensors)}"
        raise GraphFormatError(msg)
    for meta, tensor in zip(operation.outputs, tensors, strict=True):
        sizes = [_size(dim) for dim in meta.shape]
        fits = all(size in (None, dim) for size, dim in zip(sizes, tensor.shape, strict=False))
        if len(sizes) != tensor.ndim or not fits or str(tensor.dtype) != f"torch.{meta.dtype}":
            msg = (
                f"{place}: the graph says {meta.dtype} of shape {list(meta.shape)}, but it gives {tensor.dtype} of shape "
                f"{list(tensor.shape)} for {_CHECKED_BATCH} images"
            )
            raise GraphFormatError(msg)
        if tensor.numel() > MAX_ELEMENTS:
            msg = f"{place} gives {tensor.numel():,} numbers: at most {MAX_ELEMENTS:,} are accepted"
            raise GraphFormatError(msg)


def _size(dim: int | str) -> int | None:
    """Evaluate a declared size for the checked batch size; None for an unsupported expression."""
    if isinstance(dim, int):
        return dim
    factor, _, batch = dim.rpartition("*")
    if batch != "B" or not (factor.isdigit() or not factor):
        return None
    return int(factor or 1) * _CHECKED_BATCH


def _template(argument: Argument, slots: Mapping[str, int]) -> _Template:
    match argument:
        case Ref(name):
            slot = slots[name]
            return lambda values, _: values[slot]
        case Symbol("runtime", "device"):
            return lambda _, device: device
        case Symbol("runtime", "cudnn"):
            return lambda _values, _device: torch.backends.cudnn.enabled
        case Symbol():
            constant = _symbol(argument)
            return lambda _values, _device: constant
        case tuple():
            items = [_template(item, slots) for item in argument]
            return lambda values, device: [item(values, device) for item in items]
        case _:
            return lambda _values, _device: argument


def _symbol(symbol: Symbol) -> object:
    match symbol:
        case Symbol("float", "inf" | "-inf" | "nan"):
            return float(symbol.value)
        case Symbol("dtype", value) if value in DTYPES:
            return getattr(torch, value)
        case Symbol("layout", "strided"):
            return torch.strided
        case Symbol("memory_format", "contiguous_format" | "channels_last" | "preserve_format"):
            return getattr(torch, symbol.value)
        case _:
            msg = f"a graph may not use {symbol.kind} {symbol.value!r}"
            raise GraphFormatError(msg)


def resolve(op: str, place: str = "") -> Callable[..., Any]:
    """Return the function of an operation; ``place`` is its location in a file, for error messages.

    Raises:
        GraphFormatError: the operation is not on the allow-list.
    """
    if kind_of(op).family == "unknown":
        msg = (
            f"operation {op!r}{place} is not on the allow-list of operations that may run. Expected ordinary layers "
            "(convolution, pooling, normalisation, activation, dropout, linear, shape changes); write the model with these"
        )
        raise GraphFormatError(msg)
    if op in SCALAR_OPERATIONS:
        return SCALAR_OPERATIONS[op]
    _, name, overload = op.split(".")
    packet = getattr(torch.ops.aten, name, None)
    function: Callable[..., Any] | None = getattr(packet, overload, None)
    if function is None:
        msg = f"operation {op!r}{place} does not exist in torch {torch.__version__}"
        raise GraphFormatError(msg)
    if function._schema.is_mutable and not kind_of(op).in_place:  # type: ignore[attr-defined]  # noqa: SLF001 - torch has no public way to read a schema
        # Nothing that reads a graph expects another argument than the first to change.
        msg = f"operation {op!r}{place} writes its result into an argument such as out=: use the result it returns instead"
        raise GraphFormatError(msg)
    return function
