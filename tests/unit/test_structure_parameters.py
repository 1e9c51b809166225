"""What is counted of a network, and which of its modules are never called."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from harness.graph import CapturedModel, capture
from harness.structure import Structure


class Holding(nn.Module):
    """Parameters that are shared, frozen, and not used; a buffer with weights; a batch norm with its statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.frozen = nn.Linear(4, 4, bias=False).requires_grad_(requires_grad=False)
        self.tied = nn.Linear(4, 4, bias=False)
        self.tied.weight = self.frozen.weight
        self.unused = nn.Linear(5, 1)
        self.register_buffer("scale", torch.full((4,), 2.0))
        self.register_buffer("not_read", torch.zeros(7))

    def forward(self, images: Tensor) -> Tensor:
        """Four numbers an image."""
        scores: Tensor = self.tied(self.frozen(self.norm(self.conv(images)).mean((2, 3)))) * self.scale
        return scores


@pytest.fixture(scope="module")
def holding() -> CapturedModel:
    """The network, captured on 1x5x5 images."""
    return capture(Holding(), (1, 5, 5), name="holding", twice=False)


def test_parameters_and_hidden_state_are_counted_once(holding: CapturedModel) -> None:
    """Shared tensors count once, frozen ones are not trainable, buffers that are read are hidden state or statistics."""
    count = Structure(holding.graph).parameters

    assert (36 + 8 + 16 + 6, 36 + 8 + 6) == (count.total, count.trainable)
    assert (["unused.weight", "unused.bias"], 6) == ([spec.name for spec in count.unreached], count.unreached_elements)
    assert (["scale"], 4) == ([spec.name for spec in count.hidden], count.hidden_elements)
    assert 4 + 4 + 1 == count.statistics


def test_modules_that_are_never_called_are_listed(holding: CapturedModel) -> None:
    """A module whose tensor another one uses is no such module."""
    assert [("unused", "Linear")] == [(m.path, m.type) for m in Structure(holding.graph).never_called]
