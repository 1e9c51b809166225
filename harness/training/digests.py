"""Digests of a training run: of the inputs of each step, and of the training state after the step.

Two runs can be compared by their digests alone. The digests of a step's inputs (order, augmentation, dropout, learning
rate) are chained: each covers the inputs of all steps so far. The digests of the state (parameters, buffers, optimizer)
cover the state after one step only.
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

# 64 bits: two different states do not have the same digest by chance, and digests need not be protected against forgery.
_SHOWN_DIGITS = 16


@dataclass(frozen=True, kw_only=True)
class StepDigests:
    """Digests of a run after ``step`` steps (over all epochs): each the first 16 hex digits of a SHA-256.

    Digests of the inputs, chained over all steps so far: ``order``, the image indices (images and labels if a loader
    reports no indices); ``augmentation``, the transform of each image; ``dropout``, the random generator's state before
    each step; ``rate``, the optimizer's learning rates, momenta and betas. Digests of the state after step ``step``:
    ``parameters``, ``buffers`` and ``optimizer``, the tensors of the optimizer such as momentum buffers.
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
    """Return the SHA-256 (hex) of the names, dtypes, shapes and bytes of all tensors, taken in the order of their names.

    Two states have the same digest exactly if names, dtypes, shapes and bits of their tensors are equal. The order of
    the mapping does not matter.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name]
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest()


def training_tensors(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[State, dict[str, Tensor]]:
    """Return the tensors that a training changes, by kind of state and by name, in the order of the modules.

    A tensor of the optimizer's state has a name such as ``weight:momentum_buffer``: the parameter's name, and the key
    in the state of the optimizer.
    """
    parameters = dict(module.named_parameters())
    names = {id(parameter): name for name, parameter in parameters.items()}
    optimizer_state = {
        f"{names[id(parameter)]}:{key}": value
        for group in optimizer.param_groups
        for parameter in group["params"]
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }
    return {"parameters": {**parameters}, "buffers": dict(module.named_buffers()), "optimizer": optimizer_state}


def initial_digests(module: nn.Module) -> tuple[str, str]:
    """Return the digests of a module's parameters and of its buffers, as in the `StepDigests` before the first step."""
    parameters, buffers = dict(module.named_parameters()), dict(module.named_buffers())
    return state_digest(parameters)[:_SHOWN_DIGITS], state_digest(buffers)[:_SHOWN_DIGITS]


class DigestChain:
    """Computes the digests of a run step by step, while the run trains a model on ``device``."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._links: dict[Input, bytes] = dict.fromkeys(INPUTS, hashlib.sha256().digest())

    def add(self, batch: Batch, optimizer: torch.optim.Optimizer) -> None:
        """Extend the chained digests by the inputs of the next step; to be called before the step is computed."""
        seen = [batch.images, batch.labels] if batch.order is None else [batch.order]
        draws = batch.draws
        self._extend("order", seen)
        self._extend("augmentation", [draws.angles, draws.shifts, draws.scales] if draws else [])
        self._extend("dropout", [network_random_state(self._device)])
        rates = [[group.get(key) for key in ("lr", "momentum", "betas")] for group in optimizer.param_groups]
        # JSON holds a float with all its digits, so that equal texts mean equal values.
        self._link("rate", json.dumps(rates).encode())

    def after(self, step: int, module: nn.Module, optimizer: torch.optim.Optimizer) -> StepDigests:
        """Return the digests after ``step`` steps: of all inputs added so far, and of the current training state."""
        inputs = {kind: link.hex()[:_SHOWN_DIGITS] for kind, link in self._links.items()}
        tensors = training_tensors(module, optimizer)
        states = {kind: state_digest(tensors[kind])[:_SHOWN_DIGITS] for kind in STATES}
        return StepDigests(step=step, **inputs, **states)

    def state(self) -> dict[str, str]:
        """Return the chained digests so far, in full length, as hex digits by kind of input."""
        return {kind: link.hex() for kind, link in self._links.items()}

    def restore(self, state: Mapping[str, str]) -> None:
        """Replace the chained digests by digests that `state` returned."""
        self._links = {kind: bytes.fromhex(state[kind]) for kind in INPUTS}

    def _extend(self, kind: Input, tensors: list[Tensor]) -> None:
        self._link(kind, b"".join(tensor_bytes(tensor) for tensor in tensors))

    def _link(self, kind: Input, content: bytes) -> None:
        self._links[kind] = hashlib.sha256(self._links[kind] + content).digest()


def tensor_bytes(tensor: Tensor) -> bytes:
    """Return the values of a tensor on any device as bytes, in row-major order."""
    # Through uint8, since numpy has no bfloat16.
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
