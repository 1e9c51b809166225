"""The layer table of a small network: titles, settings, parameters and cost of each operation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from harness.graph import CapturedModel, capture
from harness.structure import Structure


class Small(nn.Module):
    """A convolution called twice, a pooling, a dropout, a linear layer and an einsum of its result with itself."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1, bias=False)
        self.strided = nn.Conv2d(1, 4, 3, stride=2, groups=1)
        self.up = nn.ConvTranspose2d(4, 2, 2, bias=False)
        self.fc = nn.Linear(2, 3)

    def forward(self, images: Tensor) -> Tensor:
        """Three numbers an image."""
        maps = self.strided(self.conv(self.conv(images)))
        maps = self.up(nn.functional.max_pool2d(nn.functional.dropout(maps, 0.25, self.training), 2))
        scores = self.fc(maps.mean((2, 3)))
        result: Tensor = torch.einsum("bc,bd->bc", scores, scores)
        return result


@pytest.fixture(scope="module")
def small() -> CapturedModel:
    """The network, captured on 1x8x8 images."""
    return capture(Small(), (1, 8, 8), name="small", twice=False)


def test_each_operation_is_a_layer(small: CapturedModel) -> None:
    """Titles and settings are those of `torch.nn`; weights count at their first use; each output number costs its inputs."""
    layers = Structure(small.graph).layers

    assert [
        ("Conv2d", "conv", "3x3, padding 1x1", 9, 64 * 9, 64 * 4),
        ("Conv2d", "conv", "3x3, padding 1x1", 0, 64 * 9, 64 * 4),
        ("Conv2d", "strided", "3x3, stride 2x2", 40, 36 * 9, 36 * 4),
        ("Dropout", "", "p = 0.25", 0, 0, 36 * 4),
        ("MaxPool2d", "", "2x2", 0, 0, 4 * 4),
        ("ConvTranspose2d", "up", "", 32, 4 * 2 * 4, 8 * 4),
        ("mean", "", "", 0, 0, 2 * 4),
        ("Linear", "fc", "", 9, 6, 3 * 4),
        ("einsum", "", "", 0, 9, 3 * 4),
    ] == [
        (layer.title, layer.module, layer.detail, layer.parameters, layer.macs, layer.activation_bytes)
        for layer in layers
    ]
