"""Engines: how the steps of a training are computed.

``eager`` runs the network as written and is the reference. ``fast`` computes the same with other random numbers in dropout and
other rounding in the last bits; ``bf16`` rounds more coarsely; ``graph`` captures whole steps for a GPU, see
`harness.training.step_graphs`. An engine is one entry of `ENGINES`; the run record names it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.errors import InputError
from harness.graph import GraphModule
from harness.training.dropout import seeded_operations
from harness.training.fusion import FUSED_OPERATIONS, fused
from harness.training.randomness import preserved_randomness
from harness.training.step_graphs import Branch, Capturer, CudaCapturer, StepGraphs
from harness.training.steps import train_step
from harness.training.verification import BFLOAT16, FLOAT32, OneStep, TwoStepsOnDevice, Verification

# From images and labels to the loss and the number of correct predictions before the optimizer's step.
Compute = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A way to compute training steps, on the types of device in ``devices``.

    ``network`` returns a function that runs the training program of a module and draws from the generator if one is
    given. ``verification`` compares the engine with the reference on a model before training; if it passes, ``auto``
    selects the engine on the device types in ``automatic_on``. ``capturer`` captures whole steps on a device, for a
    number of runs; it is None if steps are computed operation by operation.
    """

    name: str
    devices: tuple[str, ...]
    network: Callable[[nn.Module, torch.Generator | None], Network]
    verification: Verification
    automatic_on: tuple[str, ...] = ()
    capturer: Callable[[torch.device, int], Capturer] | None = None

    @property
    def is_reference(self) -> bool:
        """Whether the engine runs the module unchanged and thus needs no verification."""
        return self.network is _as_written

    @property
    def has_own_random_generator(self) -> bool:
        """Whether each run's network draws from a generator of its own instead of torch's global one."""
        return self.capturer is not None

    @property
    def supports_groups(self) -> bool:
        """Whether the engine can compute a step of several runs at once."""
        return self.capturer is not None

    def reason_against(self, module: nn.Module, device: torch.device) -> str:
        """Why the engine cannot train a module on a device; empty if it can. Restores torch's global random state."""
        if device.type not in self.devices:
            return f"{self.name} runs on {' and '.join(self.devices)}, not on {device.type}"
        if self.is_reference:
            return ""
        if not isinstance(module, GraphModule):
            return f"{self.name} needs a captured network, got a {type(module).__name__}"
        with preserved_randomness(device):
            try:
                difference = self.verification.difference(self, REFERENCE, module, device)
            except (RuntimeError, InputError) as error:
                return f"a step failed in {self.name}: {str(error).splitlines()[0][:120]}"
        return f"{self.name} differs from {REFERENCE.name} in {difference}" if difference else ""

    def prepare(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator | None = None
    ) -> Compute:
        """The function that computes one step of a run, with the run's own generator if the engine uses one."""
        if generator is None:
            return functools.partial(train_step, self.network(module, None), optimizer)
        group = self.group([self.branch(module, optimizer, generator)])
        return lambda images, labels: group([(images, labels)])[0]

    def branch(self, module: nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator) -> Branch:
        """Describe one run as a branch to pass to `group`."""
        return Branch(module=module, network=self.network(module, generator), optimizer=optimizer, generator=generator)

    def group(self, branches: Sequence[Branch]) -> StepGraphs:
        """The function that computes one step of each run of a group.

        Raises:
            InputError: the engine does not support groups.
        """
        if self.capturer is None:
            supported = ", ".join(name for name, engine in ENGINES.items() if engine.supports_groups)
            msg = f"expected an engine that computes several runs at once, got engine={self.name!r}. Use {supported}."
            raise InputError(msg)
        return StepGraphs(branches, self.capturer(branches[0].generator.device, len(branches)))


def choose_engine(choice: str, module: nn.Module, device: torch.device) -> tuple[Engine, str]:
    """The engine for a network on a device and, if ``auto`` had to fall back to the reference, the reason.

    ``auto`` is the first engine that is automatic on the device if it passes its verification, else the reference.

    Raises:
        InputError: the engine does not exist, or it cannot train this network on this device.
    """
    if choice == "auto":
        automatic = next((engine for engine in ENGINES.values() if device.type in engine.automatic_on), REFERENCE)
        if not isinstance(module, GraphModule):
            return REFERENCE, ""
        reason = automatic.reason_against(module, device)
        return (REFERENCE, reason) if reason else (automatic, "")
    if choice not in ENGINES:
        raise InputError(f"expected an engine, got engine={choice!r}. Use one of: auto, {', '.join(ENGINES)}.")
    if reason := ENGINES[choice].reason_against(module, device):
        msg = f"expected an engine that can train this network here, got engine={choice!r}: {reason}. Use eager."
        raise InputError(msg)
    return ENGINES[choice], ""


# The networks of the engines -----------------------------------------------------------------------------------------


def _as_written(module: nn.Module, _: torch.Generator | None) -> Network:
    return module


def _fast(module: nn.Module, _: torch.Generator | None) -> Network:
    return _fused(module, FUSED_OPERATIONS)


def _bf16(module: nn.Module, _: torch.Generator | None) -> Network:
    run = _fused(module, {**FUSED_OPERATIONS, **_FLOAT32_OPERATIONS})

    def network(images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, torch.bfloat16):
            output = run(images)
        return output.to(_at_least_float32(output.dtype))

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


def _channels_last(network: Network) -> Network:
    """Wrap a network to receive its images in channels-last layout, which is faster and kept by convolutions."""

    def run(images: Tensor) -> Tensor:
        _, channels, height, width = images.shape
        if channels > 1:
            return network(images.contiguous(memory_format=torch.channels_last))
        # With one channel both layouts are the same in memory; only the strides tell convolutions which one to use.
        return network(images.contiguous().as_strided(images.shape, (height * width, 1, width, 1)))

    return run


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _in_float32(function: Callable[..., Tensor], scores: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    return function(scores, dim, dtype=dtype or _at_least_float32(scores.dtype))


# On a GPU autocast computes these in float32; on a CPU it would round probabilities to 8 bits.
_FLOAT32_OPERATIONS = {
    "aten.log_softmax.int": functools.partial(_in_float32, functional.log_softmax),
    "aten.softmax.int": functools.partial(_in_float32, functional.softmax),
}

REFERENCE = Engine(name="eager", devices=("cpu", "cuda", "mps"), network=_as_written, verification=OneStep(FLOAT32))
ENGINES = {
    engine.name: engine
    for engine in (
        REFERENCE,
        Engine(name="fast", devices=("cpu",), network=_fast, verification=OneStep(FLOAT32), automatic_on=("cpu",)),
        Engine(name="bf16", devices=("cpu",), network=_bf16, verification=OneStep(BFLOAT16)),
        # Not automatic before a record shows that it has run on a GPU.
        Engine(
            name="graph", devices=("cuda",), network=_seeded, verification=TwoStepsOnDevice(), capturer=CudaCapturer
        ),
    )
}
