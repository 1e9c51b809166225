# ruff: noqa: SLF001 - torch's foreach operations, one launch for many tensors, have no public names; torch.optim uses them too

"""SGD, Adam and AdamW steps for CUDA graphs, with the hyperparameters read from a tensor on the device.

Learning rate, momentum and Adam's bias corrections change from step to step, but a CUDA graph fixes all numbers
computed in Python. These hyperparameters are therefore read from a tensor on the device that is filled before each
launch. Torch's own optimizers accept a tensor for the learning rate only (SGD if ``fused``, Adam if ``capturable``),
and none for a momentum that a one-cycle schedule changes. The updates are therefore written out here, with torch's
order of operations and on the state of torch's optimizer; checkpoints, digests and schedules use the optimizer object
as usual. The results differ from torch's in the last bit, since the product of learning rate and gradient is rounded
before the subtraction.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

Tensors = tuple[Tensor, ...] | list[Tensor]


class Update(Protocol):
    """Computes the step of an optimizer; the hyperparameters that change are passed as scalar tensors on the device."""

    parameters: list[Tensor]
    count: int

    def numbers(self) -> list[float]:
        """Return the ``count`` hyperparameters of the next step; to be called exactly once per step."""

    def apply(self, gradients: Tensors, numbers: Sequence[Tensor]) -> None:
        """Update the parameters in place from their gradients; ``numbers`` holds the hyperparameters as scalar tensors."""


def update_of(optimizer: torch.optim.Optimizer) -> Update:
    """Return the `Update` for an SGD, Adam or AdamW optimizer, which must have taken a step so that its state exists."""
    return _Sgd(optimizer) if isinstance(optimizer, torch.optim.SGD) else _Adam(optimizer)


class _Sgd:
    """Computes the step of `torch.optim.SGD`."""

    count = 2

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        (self._group,) = optimizer.param_groups
        self.parameters = _with_gradient(self._group)
        self._momenta = [
            optimizer.state[parameter]["momentum_buffer"] for parameter in self.parameters if self._group["momentum"]
        ]

    def numbers(self) -> list[float]:
        return [self._group["lr"], self._group["momentum"]]

    def apply(self, gradients: Tensors, numbers: Sequence[Tensor]) -> None:
        lr, momentum = numbers
        if self._group["weight_decay"]:
            gradients = torch._foreach_add(gradients, self.parameters, alpha=self._group["weight_decay"])
        if self._momenta:
            torch._foreach_mul_(self._momenta, momentum)
            torch._foreach_add_(self._momenta, list(gradients))
            gradients = (
                torch._foreach_add(gradients, torch._foreach_mul(self._momenta, momentum))
                if self._group["nesterov"]
                else self._momenta
            )
        torch._foreach_sub_(self.parameters, list(torch._foreach_mul(gradients, lr)))


class _Adam:
    """Computes the step of `torch.optim.Adam` or `torch.optim.AdamW`."""

    count = 7

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        (self._group,) = optimizer.param_groups
        self.parameters = _with_gradient(self._group)
        self._decoupled = isinstance(optimizer, torch.optim.AdamW)
        states = [optimizer.state[parameter] for parameter in self.parameters]
        self._means = [state["exp_avg"] for state in states]
        self._squares = [state["exp_avg_sq"] for state in states]
        # All parameters are updated together and share one step counter, a tensor on the CPU.
        self._steps = states[0]["step"]
        for state in states:
            state["step"] = self._steps

    def numbers(self) -> list[float]:
        self._steps += 1
        lr, (beta1, beta2), step = self._group["lr"], self._group["betas"], self._steps.item()
        return [
            lr / (1 - beta1**step),
            beta1,
            1 - beta1,
            beta2,
            1 - beta2,
            1 / math.sqrt(1 - beta2**step),
            1 - lr * self._group["weight_decay"],
        ]

    def apply(self, gradients: Tensors, numbers: Sequence[Tensor]) -> None:
        size, beta1, rest1, beta2, rest2, correction, decay = numbers
        if self._decoupled:
            torch._foreach_mul_(self.parameters, decay)
        elif self._group["weight_decay"]:
            gradients = torch._foreach_add(gradients, self.parameters, alpha=self._group["weight_decay"])
        torch._foreach_mul_(self._means, beta1)
        torch._foreach_add_(self._means, list(torch._foreach_mul(gradients, rest1)))
        squares = torch._foreach_mul(gradients, gradients)
        torch._foreach_mul_(squares, rest2)
        torch._foreach_mul_(self._squares, beta2)
        torch._foreach_add_(self._squares, list(squares))
        denominators = torch._foreach_sqrt(self._squares)
        torch._foreach_mul_(denominators, correction)
        torch._foreach_add_(denominators, self._group["eps"])
        steps = torch._foreach_div(self._means, denominators)
        torch._foreach_mul_(steps, size)
        torch._foreach_sub_(self.parameters, list(steps))


def _with_gradient(group: Mapping[str, Any]) -> list[Tensor]:
    """Return the parameters that the loss depends on: those with a gradient from the previous step."""
    return [parameter for parameter in group["params"] if parameter.grad is not None]
