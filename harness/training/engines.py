"""Engines: how the steps of a training are computed.

``eager`` runs the network as it is written and is the reference. ``fast`` computes the same from other random numbers for
dropout and with other rounding in the last bits; ``bf16`` rounds coarser; ``graph`` captures whole steps for a GPU, see
`harness.training.cuda_graphs`. Which one a run was made with stands in its record.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.errors import InputError
from harness.graph import GraphModule, Program
from harness.training.cuda_graphs import (
    Branch,
    Capturer,
    CudaCapturer,
    StepGraphs,
    draws_otherwise,
    seeded_operations,
)
from harness.training.fusion import FUSED_OPERATIONS, fused, without_dropout
from harness.training.randomness import preserved_randomness
from harness.training.steps import train_step

# Images and labels in; the loss and the right answers from before the optimizer's step out.
Compute = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Network = Callable[[Tensor], Tensor]

_TRIED_IMAGES = 16
# In double precision; a wrong operation is off by far more.
_TOLERANCE = 1e-9
# In single precision, two steps on.
_TOLERANCE_ON_DEVICE = 1e-3


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A way to compute steps.

    Args:
        name: as it stands in the record.
        devices: kinds of device it runs on.
        network: what runs a captured network's training program; it draws from the generator where it is given one.
        capturer: what captures its steps on a device, for so many runs; None where steps are computed one operation at a
            time. Only runs of an engine that captures have generators of their own, and can be computed together.
    """

    name: str
    devices: tuple[str, ...]
    network: Callable[[nn.Module, torch.Generator | None], Network]
    capturer: Callable[[torch.device, int], Capturer] | None = None

    def prepare(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator | None = None
    ) -> Compute:
        """What computes a step of a network, in train mode, with its optimizer and, if the engine captures, its generator."""
        if generator is None:
            return functools.partial(train_step, self.network(module, None), optimizer)
        together = self.together([self.branch(module, optimizer, generator)])
        return lambda images, labels: together([(images, labels)])[0]

    def branch(self, module: nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator) -> Branch:
        """A run's part in steps that are computed together."""
        return Branch(module=module, network=self.network(module, generator), optimizer=optimizer, generator=generator)

    def together(self, branches: Sequence[Branch]) -> StepGraphs:
        """What computes the steps of some runs at once.

        Raises:
            InputError: the engine does not capture steps.
        """
        if self.capturer is None:
            msg = f"expected an engine that computes many runs together, got engine={self.name!r}. Use graph."
            raise InputError(msg)
        return StepGraphs(branches, self.capturer(branches[0].generator.device, len(branches)))


def _eager(module: nn.Module, _: torch.Generator | None) -> Network:
    return module


def _fast(module: nn.Module, _: torch.Generator | None) -> Network:
    return _fused(module, FUSED_OPERATIONS)


def _bf16(module: nn.Module, _: torch.Generator | None) -> Network:
    run = _fused(module, {**FUSED_OPERATIONS, **_IN_FLOAT32})

    def network(images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, torch.bfloat16):
            output = run(images)
        return output.float()

    return network


def _seeded(module: nn.Module, generator: torch.Generator | None) -> Network:
    captured = _captured(module)
    return captured.runner(captured.graph.train, seeded_operations(generator))


def _fused(module: nn.Module, operations: Mapping[str, Callable[..., Any]]) -> Network:
    captured = _captured(module)
    return _channels_last(captured.runner(fused(captured.graph.train), operations))


def _captured(module: nn.Module) -> GraphModule:
    if not isinstance(module, GraphModule):
        msg = f"expected a captured network, got a {type(module).__name__}. Capture it, or use the engine eager."
        raise InputError(msg)
    return module


def _in_float32(function: Callable[..., Tensor], scores: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    return function(scores, dim, dtype=dtype or torch.float32)


# On a GPU autocast does these in float32 of its own accord; on a CPU it would round probabilities to 8 bits.
_IN_FLOAT32 = {
    "aten.log_softmax.int": functools.partial(_in_float32, functional.log_softmax),
    "aten.softmax.int": functools.partial(_in_float32, functional.softmax),
}

ENGINES = {
    engine.name: engine
    for engine in (
        Engine(
            name="eager",
            devices=("cpu", "cuda", "mps"),
            network=_eager,
        ),
        Engine(
            name="fast",
            devices=("cpu",),
            network=_fast,
        ),
        Engine(
            name="bf16",
            devices=("cpu",),
            network=_bf16,
        ),
        Engine(
            name="graph",
            devices=("cuda",),
            network=_seeded,
            capturer=CudaCapturer,
        ),
    )
}
# What auto takes on a kind of device, where it can.
_FASTEST = {"cpu": "fast", "cuda": "graph"}


def choose_engine(choice: str, module: nn.Module, device: torch.device) -> tuple[Engine, str]:
    """The engine for a choice, a network and a device; and, where ``auto`` had to do without the fast one, why.

    Args:
        choice: an engine's name, or ``auto``: ``fast`` on the CPU where it computes what the network says, ``graph`` on a CUDA
            device where the network's random numbers can be given a generator, else ``eager``.
        module: the network.
        device: where it is to be trained.

    Raises:
        InputError: no such engine, or it cannot train this network on this device.
    """
    if choice != "auto":
        if choice not in ENGINES:
            msg = f"expected an engine, got engine={choice!r}. Use one of: auto, {', '.join(ENGINES)}."
            raise InputError(msg)
        engine = ENGINES[choice]
        reason = _why_not(engine, module, device)
        if reason:
            msg = f"expected an engine that can train this network here, got engine={choice!r}: {reason}. Use eager."
            raise InputError(msg)
        return engine, ""
    if device.type not in _FASTEST or not isinstance(module, GraphModule):
        return ENGINES["eager"], ""
    fastest = ENGINES[_FASTEST[device.type]]
    reason = _why_not(fastest, module, device)
    return ENGINES["eager"] if reason else fastest, reason


def _why_not(engine: Engine, module: nn.Module, device: torch.device) -> str:
    """Why an engine cannot train a network on a device; empty if it can."""
    if device.type not in engine.devices:
        return f"{engine.name} runs on {' and '.join(engine.devices)}, not on {device.type}"
    if engine.name == "eager":
        return ""
    if not isinstance(module, GraphModule):
        return f"{engine.name} needs a captured network, and this is a plain {type(module).__name__}"
    if engine.capturer and (operation := draws_otherwise(module.graph.train)):
        return f"{operation} draws random numbers, and cannot be told which generator to draw from"
    with preserved_randomness(device):
        try:
            if engine.capturer:
                tolerance = _TOLERANCE_ON_DEVICE
                expected, found = (
                    _steps_on_device(ENGINES["eager"], module, device),
                    _steps_on_device(engine, module, device),
                )
            else:
                tolerance = _TOLERANCE
                _run_once(engine, module)
                expected = _one_step(module, module.graph.train, fast=False)
                found = _one_step(module, fused(module.graph.train), fast=True)
        except (RuntimeError, InputError) as error:
            return f"its operations do not run in {engine.name} ({str(error).splitlines()[0][:120]})"
    for name, tensor in expected.items():
        scale = max(float(tensor.abs().nan_to_num().max()), 1.0) if tensor.numel() else 1.0
        if not torch.allclose(found[name], tensor, rtol=0, atol=tolerance * scale, equal_nan=True):
            return f"{name} comes out of {engine.name} differently"
    return ""


def _run_once(engine: Engine, module: GraphModule) -> None:
    images = torch.zeros(_TRIED_IMAGES, *module.graph.input_shape)
    torch.autograd.backward(engine.network(copy.deepcopy(module).train(), None)(images).sum())


def _one_step(module: GraphModule, program: Program, *, fast: bool) -> dict[str, Tensor]:
    """Output, gradients and buffers of one step."""
    tried = copy.deepcopy(module).double().train()
    torch.manual_seed(0)
    images = torch.randn(_TRIED_IMAGES, *module.graph.input_shape, dtype=torch.float64)
    network: Network = tried.runner(without_dropout(program), FUSED_OPERATIONS)
    output = (_channels_last(network) if fast else network)(images)
    torch.autograd.backward((output * torch.randn(output.shape, dtype=torch.float64)).sum())
    gradients = {f"the gradient of {name}": p.grad for name, p in tried.named_parameters() if p.grad is not None}
    return {"the output": output.detach(), **gradients, **dict(tried.named_buffers())}


def _steps_on_device(engine: Engine, module: GraphModule, device: torch.device) -> dict[str, Tensor]:
    """Parameters and buffers after two steps without dropout, on the device where the network is to be trained."""
    graph = replace(module.graph, train=without_dropout(module.graph.train))
    tried = GraphModule(graph, {**dict(module.named_parameters()), **dict(module.named_buffers())}).to(device).train()
    optimizer = torch.optim.SGD((p for p in tried.parameters() if p.requires_grad), lr=0.01, momentum=0.9)
    compute = engine.prepare(tried, optimizer, torch.Generator(device) if engine.capturer else None)
    drawn = torch.Generator().manual_seed(0)
    for _ in range(2):
        images = torch.randn(_TRIED_IMAGES, *graph.input_shape, generator=drawn)
        labels = torch.randint(0, 10, (_TRIED_IMAGES,), generator=drawn)
        compute(images.to(device), labels.to(device))
    return {name: tensor.detach() for name, tensor in (*tried.named_parameters(), *tried.named_buffers())}


def _channels_last(network: Network) -> Network:
    """Give a network its images as (B, H, W, C) in memory: convolutions keep it so, and are faster on it."""

    def run(images: Tensor) -> Tensor:
        _, channels, height, width = images.shape
        if channels > 1:
            return network(images.contiguous(memory_format=torch.channels_last))
        # With one channel both orders are one; only the strides tell convolutions which one is meant.
        return network(images.contiguous().as_strided(images.shape, (height * width, 1, width, 1)))

    return run
