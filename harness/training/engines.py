"""Engines: the ways in which the steps of a training can be computed.

``eager`` runs the network as written and is the reference. ``fast`` computes the same with other random numbers in
dropout and other rounding in the last bits; ``bf16`` computes in bfloat16, with larger rounding errors; ``graph``
captures whole steps as CUDA graphs, see `harness.training.step_graphs`. Each engine is one entry of `ENGINES`; a run
record holds the name of its engine.
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

# Computes a step: from images and labels to the loss and the number of correct predictions, both before the update.
Compute = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A way to compute training steps, on the types of device in ``devices``.

    ``network`` takes a module and, if each run has its own random generator, that generator, else None; it returns a
    function that runs the training program of the module. ``verification`` compares the engine with the reference on a
    model before training; if the results agree, the choice ``auto`` selects the engine on the device types in
    ``automatic_on``. ``capturer`` builds the `Capturer` for a device and a number of runs; it is None if the engine
    computes steps operation by operation.
    """

    name: str
    devices: tuple[str, ...]
    network: Callable[[nn.Module, torch.Generator | None], Network]
    verification: Verification
    automatic_on: tuple[str, ...] = ()
    capturer: Callable[[torch.device, int], Capturer] | None = None

    @property
    def is_reference(self) -> bool:
        """Whether this is the reference engine, which runs the module unchanged and thus needs no verification."""
        return self.network is _as_written

    @property
    def has_own_random_generator(self) -> bool:
        """Whether the network of each run draws from a generator of that run instead of torch's global generator."""
        return self.capturer is not None

    @property
    def supports_groups(self) -> bool:
        """Whether the engine can compute one step of several runs at once."""
        return self.capturer is not None

    def reason_against(self, module: nn.Module, device: torch.device) -> str:
        """Return why the engine cannot train a module on a device; empty if it can.

        Torch's global random state is preserved.
        """
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
                return f"the engine {self.name} failed to compute a step: {str(error).splitlines()[0][:120]}"
        return f"{self.name} differs from {REFERENCE.name} in {difference}" if difference else ""

    def prepare(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator | None = None
    ) -> Compute:
        """Return the function that computes one step of a run.

        ``generator`` is the random generator of the run, for an engine that gives each run its own; else None.
        """
        if generator is None:
            return functools.partial(train_step, self.network(module, None), optimizer)
        group = self.group([self.branch(module, optimizer, generator)])
        return lambda images, labels: group([(images, labels)])[0]

    def branch(self, module: nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator) -> Branch:
        """Describe one run, given by module, optimizer and random generator, as a branch to pass to `group`."""
        return Branch(module=module, network=self.network(module, generator), optimizer=optimizer, generator=generator)

    def group(self, branches: Sequence[Branch]) -> StepGraphs:
        """Return the function that computes one step of several runs at once; ``branches`` describes the runs.

        Raises:
            InputError: the engine does not support groups.
        """
        if self.capturer is None:
            supported = ", ".join(name for name, engine in ENGINES.items() if engine.supports_groups)
            msg = f"expected an engine that computes several runs at once, got engine={self.name!r}. Use {supported}."
            raise InputError(msg)
        return StepGraphs(branches, self.capturer(branches[0].generator.device, len(branches)))


def choose_engine(choice: str, module: nn.Module, device: torch.device) -> tuple[Engine, str]:
    """Return the engine called ``choice`` and, if ``auto`` had to fall back to the reference engine, the reason.

    ``auto`` selects the engine that is automatic on this type of device if it passes its verification on ``module``,
    else the reference engine; for a module that is not captured, it selects the reference engine without a reason.

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
        raise InputError(
            f"expected the name of an engine, got engine={choice!r}. Use one of: auto, {', '.join(ENGINES)}."
        )
    if reason := ENGINES[choice].reason_against(module, device):
        msg = f"expected an engine that can train this network on {device}, got engine={choice!r}: {reason}. Use eager."
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
        msg = (
            f"expected a captured network, got a {type(module).__name__}. Capture the network, or use the engine eager."
        )
        raise InputError(msg)
    return module


def _channels_last(network: Network) -> Network:
    """Wrap a network so that its images are converted to channels-last layout.

    Convolutions are faster in this layout, and their results have the same layout.
    """

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


# Autocast computes these operations in float32 on a GPU, but in bfloat16 with a significand of 8 bits on a CPU.
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
        # Not automatic until a run record shows that this engine has trained on a GPU.
        Engine(
            name="graph", devices=("cuda",), network=_seeded, verification=TwoStepsOnDevice(), capturer=CudaCapturer
        ),
    )
}
