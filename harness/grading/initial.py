"""Initial weights that the examiner draws: those of a submission have no influence on its training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from harness.grading.checks import is_constant
from harness.graph import CapturedModel
from harness.graph.form import Argument, Graph, Operation, Ref, bind
from harness.training import initialise

_NORMS = frozenset({"batch_norm", "group_norm", "instance_norm", "layer_norm", "rms_norm"})
_STATISTICS = {"running_mean": 0.0, "running_var": 1.0}
_PRELU = 0.25


def with_drawn_weights(captured: CapturedModel, seed: int) -> CapturedModel:
    """Return the model with new initial weights, drawn from ``seed`` as PyTorch's layers initialise themselves.

    Weights of convolutions and matrix products are uniform in +-1/sqrt(fan-in), as are biases; normalisations begin with
    ones and zeros, PReLU with 0.25, running statistics as new. A parameter that is read in another way is drawn from a
    normal distribution with the mean and the standard deviation of the submission's values; one whose elements are all
    equal stays. Other buffers and constants stay. The state budget counts what stays, see `kept_numbers`.
    """
    drawn = initialise(lambda: _Drawn(captured), seed=seed).values
    return replace(captured, state={**captured.state, **drawn})


def kept_numbers(captured: CapturedModel) -> Mapping[str, int]:
    """Return how many numbers of the submission `with_drawn_weights` keeps of each parameter, where it keeps any."""
    roles = _roles(captured.graph)
    values = {spec.name: captured.state[spec.name] for spec in captured.graph.tensors if spec.kind == "parameter"}
    return {
        name: value.numel() if not value.is_floating_point() else 1 if is_constant(value) else 2  # mean and deviation
        for name, value in values.items()
        if name in roles and _standard(captured.graph, *roles[name]) is None
    }


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
    if standard := _standard(graph, operation, role):
        least, most = standard
        return torch.full_like(value, least) if least == most else torch.empty_like(value).uniform_(least, most)
    if not value.is_floating_point() or is_constant(value):
        return value
    return torch.empty_like(value).normal_(float(value.mean()), float(value.std()))


def _standard(graph: Graph, operation: Operation | None, role: str) -> tuple[float, float] | None:
    """The lowest and the highest value with which PyTorch initialises a parameter in its role; None for other roles."""
    kind = operation.kind.name if operation else ""
    if kind in _NORMS and role in ("weight", "bias"):
        return float(role == "weight"), float(role == "weight")
    if kind == "prelu" and role == "weight":
        return _PRELU, _PRELU
    if operation and (fan_in := _fan_in(graph, operation, role)):
        return -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in)
    return None


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
    """For each tensor, the operation that updates it as a running statistic, or else the first one that reads it directly.

    With each operation comes the name of the argument.
    """
    names = {name: spec.name for spec in graph.tensors for name in spec.names}
    roles: dict[str, tuple[Operation, str]] = {}
    for operation in (*graph.train.operations, *graph.evaluate.operations):
        for argument, value in bind(operation).items():
            for name in (names.get(one.name) for one in _refs(value)):
                if name and (name not in roles or argument in _STATISTICS):
                    roles[name] = operation, argument
    return roles


def _refs(value: Argument) -> Iterator[Ref]:
    for one in value if isinstance(value, tuple) else (value,):
        if isinstance(one, Ref):
            yield one
