"""Initial weights that the examiner draws: those of a submission have no influence on its training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from harness.grading.checks import is_constant
from harness.graph import CapturedModel
from harness.graph.form import Graph, Operation, Ref, bind
from harness.training import initialise

_NORMS = frozenset({"batch_norm", "group_norm", "instance_norm", "layer_norm", "rms_norm"})
_STATISTICS = {"running_mean": 0.0, "running_var": 1.0}
_PRELU = 0.25


def with_drawn_weights(captured: CapturedModel, seed: int) -> CapturedModel:
    """Return the model with new initial weights, drawn from ``seed`` as PyTorch's layers initialise themselves.

    Weights of convolutions and matrix products are uniform in +-1/sqrt(fan-in), as are biases; normalisations begin with
    ones and zeros, PReLU with 0.25, running statistics as new. A parameter that is read in another way is drawn from a
    normal distribution with the mean and the standard deviation of the submission's values; one whose elements are all
    equal stays. Other buffers and constants, which the state budget counts, stay.
    """
    drawn = initialise(lambda: _Drawn(captured), seed=seed).values
    return replace(captured, state={**captured.state, **drawn})


class _Drawn(nn.Module):
    """New values for the tensors of a model, drawn from torch's global random state."""

    def __init__(self, captured: CapturedModel) -> None:
        super().__init__()
        graph, roles = captured.graph, _roles(captured.graph)
        self.values: dict[str, Tensor] = {}
        for spec in graph.tensors:
            operation, role = roles.get(spec.name, (None, ""))
            value = captured.state[spec.name]
            if role in _STATISTICS:
                self.values[spec.name] = torch.full_like(value, _STATISTICS[role])
            elif spec.kind == "buffer" and not spec.shape and spec.dtype == "int64":
                self.values[spec.name] = torch.zeros_like(value)  # the number of batches that a batch norm has seen
            elif spec.kind == "parameter":
                self.values[spec.name] = _draw(graph, operation, role, value)


def _draw(graph: Graph, operation: Operation | None, role: str, value: Tensor) -> Tensor:
    kind = operation.kind if operation else None
    if kind and kind.name in _NORMS and role in ("weight", "bias"):
        return torch.full_like(value, float(role == "weight"))
    if kind and kind.name == "prelu" and role == "weight":
        return torch.full_like(value, _PRELU)
    fan_in = _fan_in(graph, operation, role) if operation else 0
    if fan_in:
        bound = 1 / math.sqrt(fan_in)
        return torch.empty_like(value).uniform_(-bound, bound)
    if not value.is_floating_point() or value.numel() < 2 or is_constant(value):  # noqa: PLR2004 - one element has no spread
        return value
    return torch.empty_like(value).normal_(float(value.mean()), float(value.std()))


def _fan_in(graph: Graph, operation: Operation, role: str) -> int:
    """Number of terms in each sum of a convolution or linear layer whose weight or bias is asked for; 0 for others."""
    if operation.kind.name not in ("conv1d", "conv2d", "conv3d", "conv_transpose2d", "linear") or role not in (
        "weight",
        "bias",
    ):
        return 0
    weight = bind(operation).get("weight")
    spec = graph.tensor(weight.name) if isinstance(weight, Ref) else None
    # As torch: a transposed convolution's fan-in is taken from the second dimension, too.
    return math.prod(spec.shape[1:]) if spec else 0


def _roles(graph: Graph) -> Mapping[str, tuple[Operation, str]]:
    """For each tensor, the first operation that reads it directly, and the name of the argument."""
    names = {name: spec.name for spec in graph.tensors for name in spec.names}
    roles: dict[str, tuple[Operation, str]] = {}
    for operation in (*graph.train.operations, *graph.evaluate.operations):
        for argument, value in bind(operation).items():
            if isinstance(value, Ref) and value.name in names:
                roles.setdefault(names[value.name], (operation, argument))
    return roles
