"""Digests of a training: what went into its steps, and what came of them.

Two runs can be compared by their digests alone. Those of what goes into a step (order, augmentation, dropout, rate) are
chained: each covers all steps so far. Those of the state (parameters, buffers, optimizer) are of the moment.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from harness.training.randomness import network_random_state
from harness.training.steps import Batch

Input = Literal["order", "augmentation", "dropout", "rate"]
State = Literal["parameters", "buffers", "optimizer"]
INPUTS: tuple[Input, ...] = ("order", "augmentation", "dropout", "rate")
STATES: tuple[State, ...] = ("parameters", "buffers", "optimizer")

# 64 bits: nobody forges these, and two states that differ by chance do not meet.
_SHOWN_DIGITS = 16


@dataclass(frozen=True, kw_only=True)
class StepDigests:
    """A training after one of its steps, as the first 16 hex digits of SHA-256 digests.

    Args:
        step: steps done, over all epochs; 0 is before the first.
        order: chain over the steps so far: which images, in which order; of a loader that does not say, the images.
        augmentation: chain over how they were augmented.
        dropout: chain over the random state that the network draws from, before each step.
        rate: chain over the optimizer's learning rates, momenta and betas.
        parameters: of the parameters after the step.
        buffers: of the buffers after the step.
        optimizer: of the optimizer's state after the step, such as momentum.
    """

    step: int
    order: str
    augmentation: str
    dropout: str
    rate: str
    parameters: str
    buffers: str
    optimizer: str


def state_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) over named tensors: by name, the type, the shape and the bytes of each.

    Two networks have the same digest exactly if no bit of any named tensor differs; the order of the mapping does not
    count.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name]
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def training_tensors(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[State, dict[str, Tensor]]:
    """Every tensor that a step changes, by kind and name, in the network's order; the optimizer's as ``weight:momentum``."""
    parameters = dict(module.named_parameters())
    names = {id(parameter): name for name, parameter in parameters.items()}
    kept = {
        f"{names[id(parameter)]}:{key}": value
        for group in optimizer.param_groups
        for parameter in group["params"]
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }
    return {"parameters": {**parameters}, "buffers": dict(module.named_buffers()), "optimizer": kept}


class DigestChain:
    """The digests of a run under way.

    Args:
        device: where the network runs.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._links: dict[Input, bytes] = dict.fromkeys(INPUTS, hashlib.sha256().digest())

    def add(self, batch: Batch, optimizer: torch.optim.Optimizer) -> None:
        """Take in what goes into a step, before it is computed."""
        seen = [batch.images, batch.labels] if batch.order is None else [batch.order]
        draws = batch.draws
        self._extend("order", seen)
        self._extend("augmentation", [draws.angles, draws.shifts, draws.scales] if draws else [])
        self._extend("dropout", [network_random_state(self._device)])
        rates = [[group.get(key) for key in ("lr", "momentum", "betas")] for group in optimizer.param_groups]
        # Python writes a float with all its digits.
        self._link("rate", json.dumps(rates).encode())

    def after(self, step: int, module: nn.Module, optimizer: torch.optim.Optimizer) -> StepDigests:
        """The digests now, after ``step`` steps."""
        inputs = {kind: link.hex()[:_SHOWN_DIGITS] for kind, link in self._links.items()}
        tensors = training_tensors(module, optimizer)
        states = {kind: state_digest(tensors[kind])[:_SHOWN_DIGITS] for kind in STATES}
        return StepDigests(step=step, **inputs, **states)

    def state(self) -> dict[str, str]:
        """The chain so far, as plain data."""
        return {kind: link.hex() for kind, link in self._links.items()}

    def restore(self, state: Mapping[str, str]) -> None:
        """Go on from where `state` was taken."""
        self._links = {kind: bytes.fromhex(state[kind]) for kind in INPUTS}

    def _extend(self, kind: Input, tensors: list[Tensor]) -> None:
        self._link(kind, b"".join(_bytes(tensor) for tensor in tensors))

    def _link(self, kind: Input, content: bytes) -> None:
        self._links[kind] = hashlib.sha256(self._links[kind] + content).digest()


def _bytes(tensor: Tensor) -> bytes:
    # Through uint8, since numpy has no bfloat16.
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
