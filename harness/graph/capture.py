"""`nn.Module` -> `CapturedModel`: the graph of what the model runs in both modes, compared with the model itself."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.parameter import is_lazy

from harness.errors import CaptureError, GraphFormatError, first_line
from harness.graph.export import dtype_name, export_program, renamed_program
from harness.graph.form import DeclaredModule, Graph, TensorKind, TensorSpec
from harness.graph.rebuild import GraphModule, content_digest

# Large enough that batch statistics over a 1x1 map exist, small enough to cost nothing.
_EXAMPLE_BATCH = 4
_PROBE_SEED = 20_011
_IMAGE_BATCH_DIMS = 4

# What a model does with images of another size than it was built for.
OtherSize = Literal["refused", "one prediction each", "other predictions"]


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """Whether the captured graph stands for the module: the eager module and the graph compared, bit for bit.

    ``repeatable``: two captures gave the same graph and constants. ``train_equal``: the buffers, too, are equal after one
    training-mode pass from the same random state. ``other_size`` is what the eager module does with images four pixels larger;
    ``other predictions`` are more or fewer than there are images. ``differences`` has a sentence for each failed comparison.
    """

    repeatable: bool = True
    eval_equal: bool = True
    train_equal: bool = True
    other_size: OtherSize = "refused"
    differences: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether the capture is repeatable and the outputs are equal in both modes."""
        return self.repeatable and self.eval_equal and self.train_equal


@dataclass(frozen=True, kw_only=True, eq=False)
class CapturedModel:
    """A captured model: its graph, how faithful it is, and each initial parameter, buffer and constant by name, on the CPU."""

    name: str
    graph: Graph
    state: Mapping[str, torch.Tensor]
    fidelity: Fidelity

    def to_module(self) -> GraphModule:
        """A fresh trainable module with its own copy of the tensors."""
        return GraphModule(self.graph, self.state)


@contextmanager
def computing_threads(number: int) -> Iterator[None]:
    """Let torch use this many threads inside the block; one is best for small networks, where waiting for a second costs more."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def capture(
    module: nn.Module, input_shape: tuple[int, ...] = (1, 28, 28), *, name: str, twice: bool = True
) -> CapturedModel:
    """Capture a module in both modes and compare the result with the module itself.

    The module must map a float batch ``(B, *input_shape)`` to one tensor. Its parameters, buffers and modes are restored, and
    so is the random state of Python, NumPy and torch; lazy modules get their shapes. ``name`` is for messages. Unless it is
    captured ``twice``, to compare the two captures, it is assumed to be repeatable.

    Raises:
        CaptureError: the module fails on such an input, returns anything but one tensor, fixes the batch size, or
            depends on values in a way that no graph can hold, or runs an operation that is not allowed.
    """
    generator = torch.Generator().manual_seed(_PROBE_SEED)
    example = torch.randn((_EXAMPLE_BATCH, *input_shape), generator=generator)
    with warnings.catch_warnings(), computing_threads(1), _modes_and_randomness_restored(module):
        warnings.simplefilter("ignore")
        if any(is_lazy(tensor) for tensor in (*module.parameters(), *module.buffers())):
            _require_runs(module, example, name, training=False)
        before = _copied_tensors(module)
        try:
            _require_runs(module, example, name, training=True)
            _require_runs(module, example, name, training=False)
            graph, constants = _capture_once(module, example, name)
            state = before | constants
            repeatable = True
            if twice:
                again, constants_again = _capture_once(module, example, name)
                repeatable = graph.exact_digest() == again.exact_digest() and _equal_tensors(constants, constants_again)
            fidelity = _compare(module, graph, state, example, repeatable=repeatable)
        except GraphFormatError as error:
            msg = f"{name} cannot be captured: {error}"
            raise CaptureError(msg) from error
        finally:
            _restore(module, before)
    return CapturedModel(name=name, graph=graph, state=state, fidelity=fidelity)


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


def _restore(module: nn.Module, before: Mapping[str, torch.Tensor]) -> None:
    """Restore parameters and buffers: a training-mode pass changes the running statistics."""
    held = _ModuleTensors(module)
    with torch.no_grad():
        for key, names in held.names.items():
            held.tensors[key].copy_(before[names[0]])


def _require_runs(module: nn.Module, example: torch.Tensor, name: str, *, training: bool) -> None:
    words = "training" if training else "evaluation"
    try:
        output = module.train(training)(example)
    except Exception as error:
        msg = (
            f"{name} fails in {words} mode on a batch of shape {tuple(example.shape)}: "
            f"{type(error).__name__}: {first_line(error)}. Expected a model that takes images of that shape."
        )
        raise CaptureError(msg) from error
    if not isinstance(output, torch.Tensor):
        msg = f"{name} returns {type(output).__name__} in {words} mode: expected one tensor of shape (batch, classes)"
        raise CaptureError(msg)


def _capture_once(module: nn.Module, example: torch.Tensor, name: str) -> tuple[Graph, dict[str, torch.Tensor]]:
    held = _ModuleTensors(module)
    train, train_constants, input_name = export_program(module.train(), example, held.canonical, name)
    evaluate, eval_constants, eval_input = export_program(module.eval(), example, held.canonical, name)
    evaluate = renamed_program(evaluate, {eval_input: input_name})
    # The two exports number their literals independently: the same name with other content becomes a second constant.
    clashes = {
        key: f"{key}_eval"
        for key, value in eval_constants.items()
        if key in train_constants and not _same_tensor(train_constants[key], value)
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
        tensors=(*held.specs(), *specs),
        modules=_declared_modules(module),
        train=train,
        evaluate=evaluate,
        torch_version=torch.__version__,
    )
    return graph, constants


def _spec(name: str, kind: TensorKind, tensor: torch.Tensor, **facts: Any) -> TensorSpec:  # noqa: ANN401 - fields of TensorSpec
    return TensorSpec(name=name, kind=kind, shape=tuple(tensor.shape), dtype=dtype_name(tensor.dtype), **facts)


class _ModuleTensors:
    """The parameters and buffers of a module, shared ones once, with all their names."""

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


def _copied_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    held = _ModuleTensors(module)
    return {names[0]: held.tensors[key].detach().cpu().clone() for key, names in held.names.items()}


def _declared_modules(module: nn.Module) -> tuple[DeclaredModule, ...]:
    counted: set[int] = set()
    declared = []
    for path, child in module.named_modules():
        own = [parameter for parameter in child.parameters(recurse=False) if id(parameter) not in counted]
        counted.update(id(parameter) for parameter in own)
        elements = sum(parameter.numel() for parameter in own)
        declared.append(DeclaredModule(path=path, type=type(child).__name__, parameters=elements))
    return tuple(declared)


def _same_tensor(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal to the bit, NaN included."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return bool(((a == b) | (a.isnan() & b.isnan())).all())


def _equal_tensors(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(_same_tensor(a[key], b[key]) for key in a)


def _other_size(module: nn.Module, example: torch.Tensor) -> OtherSize:
    """What the module does with larger images: a ``view(-1, classes)`` would turn the extra positions into extra rows."""
    larger = functional.pad(example, (2, 2, 2, 2)) if example.ndim == _IMAGE_BATCH_DIMS else example
    try:
        with torch.no_grad():
            output = module.eval()(larger)
    except Exception:  # noqa: BLE001 - whatever the model raises, it refuses
        return "refused"
    return "one prediction each" if output.shape[:1] == larger.shape[:1] else "other predictions"


def _compare(
    module: nn.Module, graph: Graph, state: Mapping[str, torch.Tensor], example: torch.Tensor, *, repeatable: bool
) -> Fidelity:
    differences = []
    if not repeatable:
        differences.append("two captures of the model differ: forward draws from Python, or keeps a count of its calls")
    outcomes = {}
    for mode in ("eval", "train"):
        _restore(module, state)
        rebuilt = GraphModule(graph, state)
        buffers = dict(rebuilt.named_buffers(remove_duplicate=False))
        results = []
        for candidate in (module, rebuilt):
            candidate.train(mode == "train")
            torch.manual_seed(_PROBE_SEED)
            with torch.no_grad():
                results.append(candidate(example))
        outcomes[mode] = _same_tensor(*results) and all(
            _same_tensor(tensor, buffers[name]) for name, tensor in module.named_buffers()
        )
        if not outcomes[mode]:
            size = (
                f"by up to {(results[0] - results[1]).abs().max().item():.3g}"
                if results[0].shape == results[1].shape
                else f"in shape: {tuple(results[0].shape)} against {tuple(results[1].shape)}"
            )
            differences.append(f"in {mode} mode the model's output differs from its captured graph's {size}")
    return Fidelity(
        repeatable=repeatable,
        eval_equal=outcomes["eval"],
        train_equal=outcomes["train"],
        other_size=_other_size(module, example),
        differences=tuple(differences),
    )
