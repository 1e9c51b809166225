"""Global average poolings and linear layers, however they are written, and what only looks like them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import Tensor, nn
from torch.nn import functional

from harness.graph import capture
from harness.structure import Structure

Step = Callable[["Pooled", Tensor], Tensor]


class Pooled(nn.Module):
    """A convolution to 4x4 maps, and a step that turns them into four numbers."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.whole = nn.Conv2d(4, 4, 4)
        self.step = step

    def forward(self, images: Tensor) -> Tensor:
        """Four numbers an image."""
        return self.step(self, self.conv(images))


def found(step: Step) -> Structure:
    """What is found in the network with this step, on 1x6x6 images."""
    return Structure(capture(Pooled(step), (1, 6, 6), name="pooled", twice=False).graph)


@pytest.mark.parametrize(
    "step",
    [
        lambda _, x: x.mean(-1).mean(-1),
        lambda _, x: x.flatten(2).sum(2).div(16),
        lambda _, x: (x / 16).sum((2, 3)),
        lambda _, x: functional.avg_pool2d(x, 4).flatten(1),
        lambda _, x: x.transpose(2, 3).mean((2, 3)),
    ],
    ids=["two means", "sum of a flattened map", "divided before", "window of the map's size", "transposed"],
)
def test_averages_of_a_whole_map_are_found(step: Step) -> None:
    """Each names the map as the convolution gives it, with its size, and feeds the head."""
    assert [("conv2d", (4, 4), True)] == [
        (pool.before, pool.map_size, pool.feeds_head) for pool in found(step).global_pools
    ]


@pytest.mark.parametrize(
    "step",
    [
        lambda _, x: x[:, :, :3].mean((2, 3)),
        lambda _, x: x.sum((2, 3)) / 15,
        lambda _, x: x.amax((2, 3)),
        lambda _, x: functional.avg_pool2d(x, 4, divisor_override=3).flatten(1),
    ],
    ids=["part", "other divisor", "maximum", "other divisor of a window"],
)
def test_other_reductions_are_none(step: Step) -> None:
    """A part of a map, another divisor and a maximum are no global averages."""
    structure = found(step)

    assert ((), None) == (structure.global_pools, structure.head_pool)


def test_a_pool_beside_another_path_does_not_feed_the_head() -> None:
    """It is found, and so is the convolution over the whole map beside it, which is a linear layer."""
    structure = found(lambda net, x: x.mean((2, 3)) + net.whole(x).flatten(1))

    assert [False] == [pool.feeds_head for pool in structure.global_pools]
    assert structure.head_pool is None
    assert [("whole", "convolution over the whole map", "4x4 kernel on a 4x4 map")] == [
        (site.module, site.kind, site.detail) for site in structure.fully_connected
    ]
