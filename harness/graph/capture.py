"""Capture a module's training and evaluation modes as a `CapturedModel`, and compare that with the module."""

from __future__ import annotations

import gc
import random
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from harness.errors import CaptureError, GraphFormatError, first_line
from harness.graph.captured import CapturedModel
from harness.graph.comparison import SEED, compare
from harness.graph.export import dtype_name, export_program, renamed_program
from harness.graph.form import DeclaredModule, Graph, TensorKind, TensorSpec
from harness.graph.module_state import ModuleState, named_tensors, same_tensor
from harness.graph.places import place_of_error
from harness.graph.rebuild import DTYPES, content_digest

# Large enough that batch statistics over a 1x1 map exist, small enough to cost nothing.
_EXAMPLE_BATCH = 4
_LISTED = 3


@contextmanager
def computing_threads(number: int) -> Iterator[None]:
    """Limit torch to ``number`` CPU threads inside the block; small networks run fastest on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def capture(
    module: nn.Module, input_shape: tuple[int, ...] = (1, 28, 28), *, name: str, twice: bool = True
) -> CapturedModel:
    """Capture a module in training and evaluation mode and compare the captured graph with the module.

    The module must map a float32 batch ``(B, *input_shape)`` to one tensor. Afterwards the module's attributes,
    parameters, buffers and modes are restored, as is the random state of Python, NumPy and torch; tensors that the first
    forward pass creates, such as the weights of lazy modules, are kept. ``name`` is the model's name in messages. If
    ``twice`` is true, the module is captured twice, to check that both graphs are equal.

    Raises:
        CaptureError: the module fails on such a batch, returns anything but one tensor, accepts only certain batch
            sizes, chooses operations by the values of the images, or runs an operation that is not on the allow-list.
    """
    generator = torch.Generator().manual_seed(SEED)
    example = torch.randn((_EXAMPLE_BATCH, *input_shape), generator=generator, dtype=torch.float32, device="cpu")
    with (
        warnings.catch_warnings(),
        _garbage_collector_disabled(),
        computing_threads(1),
        _plain_defaults(),
        _plain_operations(),
        _modes_and_randomness_restored(module),
    ):
        warnings.simplefilter("ignore")
        _require_plain(module, name)
        before = _after_first_pass(module, example, name)
        _require_plain(module, name)
        state = {names[0]: _copied(tensor) for names, tensor in _ModuleTensors(module).named()}
        try:
            graph, constants = _capture_once(module, example, name, before)
            state |= constants
            repeatable = True
            if twice:
                again, constants_again = _capture_once(module, example, name, before)
                repeatable = graph.exact_digest() == again.exact_digest() and _equal_tensors(constants, constants_again)
            fidelity = compare(module, graph, state, example, before=before, repeatable=repeatable)
        except GraphFormatError as error:
            msg = f"{name} cannot be captured: {error}"
            raise CaptureError(msg) from error
        finally:
            before.restore()
    return CapturedModel(name=name, graph=graph, state=state, fidelity=fidelity)


@contextmanager
def _garbage_collector_disabled() -> Iterator[None]:
    """Disable the cyclic garbage collector inside the block.

    An export and its imports create about a million objects, most of them long-lived: collections would free little.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def _plain_defaults() -> Iterator[None]:
    """Make float32 and the CPU the default dtype and device inside the block."""
    dtype = torch.get_default_dtype()
    try:
        device = torch.get_default_device()
    except RuntimeError:  # the device that was set is missing here
        device = torch.device("cpu")
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        # None and not cpu: a device that is set, whichever it is, stays as a mode that every call passes through.
        torch.set_default_device(None if device.type == "cpu" else device)


@contextmanager
def _plain_operations() -> Iterator[None]:
    """Disable `torch.compile`, `torch.autocast` and the fast path of attention inside the block.

    A graph holds the standard operations; their faster replacements round differently.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.compiler.set_stance("force_eager"), torch.autocast("cpu", enabled=False):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def _modes_and_randomness_restored(module: nn.Module) -> Iterator[None]:
    modes = [(child, child.training) for child in module.modules()]
    # The old global generator of NumPy is the one that a model's forward would draw from.
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        for child, training in modes:
            child.training = training


def _require_plain(module: nn.Module, name: str) -> None:
    """Refuse modules compiled by torch.jit, and tensors that a graph cannot hold."""
    for path, child in module.named_modules():
        if isinstance(child, torch.jit.ScriptModule):
            msg = f"{name} cannot be captured: {path or 'the model'} is compiled by torch.jit. Use the module before torch.jit"
            raise CaptureError(msg)
    for tensor_name, tensor in named_tensors(module):
        kind = ""
        if tensor.is_meta:
            kind = "is on the meta device and holds no numbers: build the module on the CPU"
        elif tensor.layout is not torch.strided:
            kind = f"is of layout {str(tensor.layout).removeprefix('torch.')}: use a dense tensor"
        elif dtype_name(tensor.dtype) not in DTYPES:
            kind = f"is of type {dtype_name(tensor.dtype)}: use float32"
        if kind:
            msg = f"{name} cannot be captured: its tensor {tensor_name} {kind}"
            raise CaptureError(msg)


def _after_first_pass(module: nn.Module, example: torch.Tensor, name: str) -> ModuleState:
    """Run the module once in each mode and return the module's initial state, with all tensors that forward creates.

    Raises:
        CaptureError: a forward pass fails, or a second pass creates the same tensors again or changes their values.
    """
    state = ModuleState(module)
    for training in (False, True):
        lazy = any(is_lazy(tensor) for tensor in chain(module.parameters(), module.buffers()))
        with torch.set_grad_enabled(training):
            _require_runs(module, example, name, training=training)
        if not lazy and state.names == {tensor_name for tensor_name, _ in named_tensors(module)}:
            state.restore()
            continue
        state.restore_tensors()
        earlier, state = state.names, ModuleState(module)
        made = {
            tensor_name: tensor.clone() for tensor_name, tensor in named_tensors(module) if tensor_name not in earlier
        }
        with torch.set_grad_enabled(training):
            _require_runs(module, example, name, training=training)
        again = {tensor_name: tensor for tensor_name, tensor in named_tensors(module) if tensor_name not in earlier}
        if changed := [key for key in again if key not in made or not same_tensor(again[key], made[key])]:
            msg = (
                f"{name} cannot be captured: forward creates {', '.join(changed[:_LISTED])}, and creates or changes the same "
                "tensors again in each pass. Register parameters, buffers and layers in __init__"
            )
            raise CaptureError(msg)
        state.restore()
    return state


def _require_runs(module: nn.Module, example: torch.Tensor, name: str, *, training: bool) -> None:
    words = "training" if training else "evaluation"
    set_mode(module, name, training=training)
    try:
        output = module(example.clone())
    except Exception as error:
        dtypes = {dtype_name(parameter.dtype) for parameter in module.parameters()} - {"float32"}
        hint = f"Its parameters are {', '.join(sorted(dtypes))}, and images are float32: use float32" if dtypes else ""
        msg = (
            f"{name} fails in {words} mode on a batch of shape {tuple(example.shape)}{place_of_error(error)}: "
            f"{type(error).__name__}: {first_line(error)}. {hint or 'Expected a model that takes images of that shape.'}"
        )
        raise CaptureError(msg) from error
    # An object may lie about its class, or fail when asked for it.
    if not issubclass(type(output), torch.Tensor):
        msg = f"{name} returns {type(output).__name__} in {words} mode: expected one tensor of shape (batch, classes)"
        raise CaptureError(msg)


def set_mode(module: nn.Module, name: str, *, training: bool) -> None:
    """Call the module's ``train()`` or ``eval()``, ignoring what it returns.

    Raises:
        CaptureError: the method fails.
    """
    try:
        if training:
            module.train()
        else:
            module.eval()
    except Exception as error:
        msg = (
            f"{name}: {'train' if training else 'eval'}() fails{place_of_error(error)}: {type(error).__name__}: "
            f"{first_line(error)}. Expected the method train(mode=True) of torch.nn.Module; rename a method of your own "
            "that does something else"
        )
        raise CaptureError(msg) from error


def _capture_once(
    module: nn.Module, example: torch.Tensor, name: str, before: ModuleState
) -> tuple[Graph, dict[str, torch.Tensor]]:
    before.restore()
    set_mode(module, name, training=True)
    held = _ModuleTensors(module)
    tensors = held.specs()
    train, train_constants, input_name = export_program(module, example, held.canonical, name, mode="training")
    before.restore()
    set_mode(module, name, training=False)
    evaluate, eval_constants, eval_input = export_program(module, example, held.canonical, name, mode="evaluation")
    evaluate = renamed_program(evaluate, {eval_input: input_name})
    # The two exports number their literals independently: the same name with other content becomes a second constant.
    clashes = {
        key: f"{key}_eval"
        for key, value in eval_constants.items()
        if key in train_constants and not same_tensor(train_constants[key], value)
    }
    evaluate = renamed_program(evaluate, clashes)
    constants = train_constants | {clashes.get(key, key): value for key, value in eval_constants.items()}
    specs = [
        _spec(key, "constant", value, content=content_digest(value), persistent=False)
        for key, value in constants.items()
    ]
    graph = Graph(
        input_shape=tuple(example.shape[1:]),
        input_name=input_name,
        tensors=(*tensors, *specs),
        modules=_declared_modules(module),
        train=train,
        evaluate=evaluate,
        torch_version=torch.__version__,
    )
    return graph, constants


def _spec(name: str, kind: TensorKind, tensor: torch.Tensor, **facts: Any) -> TensorSpec:  # noqa: ANN401 - fields of TensorSpec
    return TensorSpec(name=name, kind=kind, shape=tuple(tensor.shape), dtype=dtype_name(tensor.dtype), **facts)


class _ModuleTensors:
    """The parameters and buffers of a module; a shared tensor is listed once, with all its names."""

    def __init__(self, module: nn.Module) -> None:
        self.names: dict[int, list[str]] = {}
        self.tensors: dict[int, torch.Tensor] = {}
        named = (module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False))
        for name, tensor in chain(*named):
            self.names.setdefault(id(tensor), []).append(name)
            self.tensors[id(tensor)] = tensor
        self.buffers = {id(buffer) for buffer in module.buffers()}
        self.persistent = set(module.state_dict(keep_vars=True))
        self.canonical = {name: names[0] for names in self.names.values() for name in names}

    def named(self) -> Iterator[tuple[list[str], torch.Tensor]]:
        """Each tensor with all its names."""
        return ((names, self.tensors[key]) for key, names in self.names.items())

    def specs(self) -> list[TensorSpec]:
        return [
            _spec(
                names[0],
                "buffer" if key in self.buffers else "parameter",
                self.tensors[key],
                requires_grad=self.tensors[key].requires_grad,
                aliases=tuple(names[1:]),
                persistent=names[0] in self.persistent,
            )
            for key, names in self.names.items()
        ]


def _copied(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def _declared_modules(module: nn.Module) -> tuple[DeclaredModule, ...]:
    counted: set[int] = set()
    declared = []
    for path, child in module.named_modules():
        own = [parameter for parameter in child.parameters(recurse=False) if id(parameter) not in counted]
        counted.update(id(parameter) for parameter in own)
        elements = sum(parameter.numel() for parameter in own)
        declared.append(DeclaredModule(path=path, type=type(child).__name__, parameters=elements))
    return tuple(declared)


def _equal_tensors(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(same_tensor(a[key], b[key]) for key in a)
