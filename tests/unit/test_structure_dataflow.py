"""What depends on what in a program."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from harness.graph import capture
from harness.structure.dataflow import DataFlow


class Branches(nn.Module):
    """A branch that is multiplied by zero, a value changed in place, and a linear layer as a broadcast product and a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.beside = nn.Conv2d(1, 4, 3)
        self.weight = nn.Parameter(torch.ones(3, 4))

    def forward(self, images: Tensor) -> Tensor:
        """Three numbers an image."""
        maps = self.conv(images)
        maps.relu_()
        pooled = maps.mean((2, 3)) + 0 * self.beside(images).mean((2, 3))
        scores: Tensor = (pooled[:, None] * self.weight.exp()).sum(2)
        return scores


@pytest.fixture(scope="module")
def flow() -> DataFlow:
    """The dependences of the network's evaluation program, on 1x4x4 images."""
    graph = capture(Branches(), (1, 4, 4), name="branches", twice=False).graph
    return DataFlow(graph, graph.evaluate)


def test_only_what_reaches_the_output_is_on_the_path(flow: DataFlow) -> None:
    """A change in place is, although its result is not read; what is multiplied by zero is not."""
    assert ["conv2d", "relu", "mean", "mul", "add", "unsqueeze", "mul", "sum"] == [
        operation.kind.name for operation in flow.on_path if operation.kind.name != "slice"
    ]


def test_values_of_weights_alone_are_weights(flow: DataFlow) -> None:
    """The exponential of a parameter depends on no image."""
    exponential = next(operation.name for operation in flow.program.operations if operation.kind.name == "exp")

    assert exponential in flow.from_weights
    assert exponential not in flow.from_input
    assert {"conv.weight", "conv.bias", "beside.weight", "beside.bias", "weight"} == flow.read


def test_a_sum_over_a_product_with_weights_is_a_linear_layer(flow: DataFlow) -> None:
    """The sum is, and neither the product alone nor the mean over a map."""
    assert ["sum"] == [operation.kind.name for operation in flow.on_path if flow.is_weighted_product(operation)]
    assert ["conv2d"] == [operation.kind.name for operation in flow.on_path if flow.is_weighted_convolution(operation)]


def test_a_value_may_be_the_only_way_to_the_output(flow: DataFlow) -> None:
    """Every path passes through the mean; the branch times zero is no path."""
    mean = next(operation.name for operation in flow.on_path if operation.kind.name == "mean")
    others = [op.name for op in flow.program.operations if op.kind.name == "mean" and op.name != mean]

    assert flow.only_through(mean)
    assert [False] == [flow.only_through(name) for name in others]
