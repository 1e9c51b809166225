"""Build a trainable `nn.Module` from a `Graph`, which runs the operations of the graph and no other code.

Every operation must be on an allow-list; a graph with any other operation raises an error before anything runs.
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
# Two images: with a single image, a wrong batch dimension would not be noticed.
_CHECKED_BATCH = 2


def content_digest(tensor: torch.Tensor) -> str:
    """SHA-256 (hex) of a tensor's bytes."""
    plain = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(plain.numpy().data).hexdigest()


class GraphModule(nn.Module):
    """A captured model as a trainable module.

    ``train()`` and ``eval()`` select which of the graph's programs ``forward`` runs. ``state`` has a tensor for each name
    in ``graph.tensors``, and is copied unless ``copied`` is false. Parameters and buffers have the names of the original
    module, so that a ``state_dict`` of either module fits the other; constants are non-persistent buffers.

    Raises:
        GraphFormatError: an operation is not on the allow-list, fails on its operands, or has a result that is too large
            or of another shape or dtype than declared, or a tensor is missing or differs from its specification.
    """

    def __init__(self, graph: Graph, state: Mapping[str, torch.Tensor], *, copied: bool = True) -> None:
        super().__init__()
        self.graph = graph
        for spec in graph.tensors:
            tensor = state.get(spec.name)
            expected = f"{spec.dtype} of shape {list(spec.shape)}"
            fits = tensor is not None and str(tensor.dtype) == f"torch.{spec.dtype}" and tensor.shape == spec.shape
            if tensor is None or not fits or spec.dtype not in DTYPES:
                found = "nothing" if tensor is None else f"{tensor.dtype} of shape {list(tensor.shape)}"
                msg = f"tensor {spec.name!r} of the graph: expected {expected}, got {found}"
                raise GraphFormatError(msg)
            if spec.kind == "constant" and content_digest(tensor) != spec.content:
                msg = f"constant {spec.name!r} of the graph: expected values with SHA-256 {spec.content!r}, got other values"
                raise GraphFormatError(msg)
            value: torch.Tensor = tensor.detach().clone() if copied else tensor.detach()
            if spec.kind == "parameter":
                value = nn.Parameter(value, requires_grad=spec.requires_grad)
            for name in spec.names:
                self._hold(name, value, persistent=spec.kind == "buffer" and spec.persistent)
        self._train_steps, self._eval_steps = _Steps(graph, graph.train), _Steps(graph, graph.evaluate)
        self._train_steps.check_on_meta(self)
        self._eval_steps.check_on_meta(self)

    def _hold(self, name: str, value: torch.Tensor, *, persistent: bool) -> None:
        # Not by torch's register functions: they reject names that this class has, such as "graph", but another may not.
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
        """Run the program of the current mode on images ``(B, *input_shape)``.

        Raises:
            ValueError: the images have another shape than those that the model was captured with.
        """
        if images.shape[1:] != self.graph.input_shape:
            msg = (
                f"expected images of shape {list(self.graph.input_shape)}, got images of shape {list(images.shape[1:])}"
            )
            raise ValueError(msg)
        return self._steps.run(self, images)

    def trace(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Run the program of the current mode, and return a copy of every operation's result that is a tensor, by name."""
        values: dict[str, torch.Tensor] = {}
        self._steps.run(self, images, keep=values)
        return values

    def run_with(self, images: torch.Tensor, changes: Mapping[str, _Change]) -> torch.Tensor:
        """Run the program of the current mode, but replace each value that ``changes`` names by the result of its function.

        A function in ``changes`` is called with the computed value; later operations read what the function returns.
        """
        return self._steps.run(self, images, changes=changes)

    def runner(self, program: Program, operations: Mapping[str, Callable[..., Any]]) -> _Change:
        """Return a function from images to output that runs another program, such as a faster equivalent, on this module.

        The program reads the input and the tensors of this module's graph. ``operations`` maps names of operations to
        functions, for operations that are not on the allow-list or that need another implementation.

        Raises:
            GraphFormatError: an operation is neither in ``operations`` nor on the allow-list.
        """
        return functools.partial(_Steps(self.graph, program, operations).run, self)

    @property
    def _steps(self) -> _Steps:
        return self._train_steps if self.training else self._eval_steps


class _Steps:
    """A program prepared to run: the function of each operation, and a numbered slot for each value.

    A slot is emptied after the last operation that reads its value.
    """

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
        # Images that the caller owns are copied before an in-place operation writes to them.
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
        """Return the list of slots, with the images and the module's tensors filled in."""
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
        """Run the program on torch's meta device, which computes shapes and dtypes without data.

        Raises:
            GraphFormatError: an operation fails on its operands, or its result is too large or has another shape or dtype
                than declared.
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
                    # Without a device argument, the operation would allocate a tensor of full size on the CPU.
                    given["device"] = meta
                try:
                    values[slot] = function(*[argument(values, meta) for argument in arguments], **given)
                except Exception as error:
                    lines = str(error).splitlines() or [type(error).__name__]
                    msg = f"{place} fails on its operands: {lines[0][:200]}"
                    raise GraphFormatError(msg) from error
                _require_declared(place, operation, values[slot])


def _require_declared(place: str, operation: Operation, result: object) -> None:
    """Raise an error if the result of an operation has another shape or dtype than declared, or too many elements."""
    found = result if isinstance(result, list | tuple) else [result]
    tensors = [item for item in found if isinstance(item, torch.Tensor)]
    if len(tensors) != len(operation.outputs):
        msg = f"{place}: the graph declares {len(operation.outputs)} result tensors, but the operation returned {len(tensors)}"
        raise GraphFormatError(msg)
    for meta, tensor in zip(operation.outputs, tensors, strict=True):
        sizes = [_size(dim) for dim in meta.shape]
        fits = all(size in (None, dim) for size, dim in zip(sizes, tensor.shape, strict=False))
        if len(sizes) != tensor.ndim or not fits or str(tensor.dtype) != f"torch.{meta.dtype}":
            msg = (
                f"{place}: the graph declares an output of {meta.dtype} and shape {list(meta.shape)}, but running the operation "
                f"on {_CHECKED_BATCH} images returned {tensor.dtype} of shape {list(tensor.shape)}"
            )
            raise GraphFormatError(msg)
        if tensor.numel() > MAX_ELEMENTS:
            msg = f"{place}: expected a result of at most {MAX_ELEMENTS:,} elements, got {tensor.numel():,} elements"
            raise GraphFormatError(msg)


def _size(dim: int | str) -> int | None:
    """Evaluate a declared size such as ``16*B`` for a batch of two images; None for an unsupported expression."""
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
            msg = f"an operation of the graph has an argument of an unsupported {symbol.kind}: {symbol.value!r}"
            raise GraphFormatError(msg)


def resolve(op: str, place: str = "") -> Callable[..., Any]:
    """Return the function that computes the operation ``op``.

    ``place`` is the location of the operation in the user's file, in the format of `places.place_of`, for messages.

    Raises:
        GraphFormatError: the operation is not on the allow-list, is missing in the installed torch, or writes to another
            argument than the first.
    """
    if kind_of(op).family == "unknown":
        msg = (
            f"operation {op!r}{place} is not on the allow-list of operations that may run. Write the model with ordinary "
            "layers (convolution, pooling, normalisation, activation, dropout, linear, shape changes)"
        )
        raise GraphFormatError(msg)
    if op in SCALAR_OPERATIONS:
        return SCALAR_OPERATIONS[op]
    _, name, overload = op.split(".")
    packet = getattr(torch.ops.aten, name, None)
    function: Callable[..., Any] | None = getattr(packet, overload, None)
    if function is None:
        msg = (
            f"operation {op!r}{place} does not exist in torch {torch.__version__}: install the version of torch that the "
            "graph was captured with"
        )
        raise GraphFormatError(msg)
    if function._schema.is_mutable and not kind_of(op).in_place:  # type: ignore[attr-defined]  # noqa: SLF001 - torch has no public way to read a schema
        # All code that reads graphs assumes that an operation changes at most its first argument.
        msg = (
            f"operation {op!r}{place} writes its result into an argument such as out=: use the returned tensor instead"
        )
        raise GraphFormatError(msg)
    return function
