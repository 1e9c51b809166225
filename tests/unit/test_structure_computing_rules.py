"""What windows, resizes, reductions, products and normalisations read, as the probe sees it, or said to be uncertain."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from harness.structure.field_trace import trace_fields
from harness.structure.receptive_field import field_of
from tests.field_networks import Body, Parts, examined, require_certainty, require_exact
from tests.made_up import convolution_graph

EXACT: dict[str, Body] = {
    "larger of the columns": lambda net, x: net.first(x).max(3, keepdim=True)[0],
    "batch statistics": lambda net, x: net.norm(net.first(x)),
    "gaps of a transposed convolution": lambda net, x: net.rare(net.first(x))[:, :, :6, :6] + net.first(x),
    "softmax over the map": lambda net, x: functional.softmax(net.first(x).flatten(2), -1).view(-1, 4, 6, 6),
    "grouped after concatenation": lambda net, x: net.grouped(
        torch.cat([net.first(x)[:, :2], net.wide(net.first(x))[:, 2:]], 1)
    ),
    "mixed by a convolution": lambda net, x: net.mix(torch.cat([net.first(x), net.wide(net.first(x))], 1))[:, :4],
    "added to a product": lambda net, x: torch.addmm(net.fc.bias, net.first(x).mean((2, 3)), net.fc.weight.t())[
        :, :1, None, None
    ].expand(-1, 4, 1, 1),
    "same size": lambda net, x: functional.interpolate(net.first(x), size=(6, 6), mode="bilinear"),
    "shuffled": lambda net, x: functional.pixel_unshuffle(net.first(x)[:, :1], 2),
}


@pytest.mark.smoke
def test_views_are_exact() -> None:
    """What each value sees is known exactly and confirmed position by position."""
    require_exact(EXACT)


BOUNDED: dict[str, tuple[Body, str]] = {
    "some channels of an unshuffled map": (
        lambda net, x: net.point(functional.pixel_unshuffle(net.first(x)[:, :2], 2)[:, ::2]),
        "bound",
    ),
    "a product of the images": (
        lambda net, x: torch.matmul(net.first(x), net.first(x)),
        "unknown",
    ),
}


@pytest.mark.parametrize("name", BOUNDED)
def test_what_cannot_be_exact_says_so(name: str) -> None:
    """Where a rule would say too little or too much, the value is a bound or unknown, and never smaller than the probe."""
    require_certainty(*BOUNDED[name])


def test_a_hostile_size_is_not_followed() -> None:
    """A window of millions of pixels is no reason to count them."""
    graph = convolution_graph(kernel=(10**7, 1), shape=("B", 1, 10**7, 1))
    field_map = trace_fields(graph, graph.evaluate)["y"]
    assert "unknown" == field_map.certainty
    assert "10,000,000 positions is larger than the limit" in field_map.note


@pytest.mark.parametrize("mode", ["circular", "reflect", "replicate"])
def test_what_a_padding_repeats_does_not_widen_the_field(mode: str) -> None:
    """Two 3x3 convolutions see five pixels on an unbounded input, whatever the padding reads, which the probe confirms."""

    def body(net: Parts, images: Tensor) -> Tensor:
        once = net.first(functional.pad(images, (1, 1, 1, 1), mode=mode))
        result: Tensor = functional.conv2d(functional.pad(once, (1, 1, 1, 1), mode=mode), net.wide.weight)
        return result

    field = field_of([found for name, found in examined(body).items() if name.startswith("conv2d")][-1])

    assert (5, 5, "exact") == (field.size, field.clipped, field.certainty)
    assert ((-2, 2), (5, 9)) == (field.rows.intervals[0], field.rows.intervals[-1])
