"""What each value sees, traced through every kind of operation and confirmed by the probe, or said to be uncertain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.graph import capture
from harness.structure.field_trace import trace_fields
from harness.structure.fields import FieldMap
from harness.structure.probe import confirms, probe_receptive_field
from harness.structure.receptive_field import field_of
from tests.made_up import convolution_graph

Body = Callable[["Parts", Tensor], Tensor]


class Parts(nn.Module):
    """Layers to build maps from, and a global average pooling with a linear layer behind each map."""

    def __init__(self, *bodies: Body) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3)
        self.wide = nn.Conv2d(4, 4, 3, padding=1)
        self.grouped = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.point = nn.Conv2d(4, 4, 1)
        self.mix = nn.Conv2d(8, 8, 1)
        self.rare = nn.ConvTranspose2d(4, 4, 2, stride=3)
        self.norm = nn.BatchNorm2d(4, track_running_stats=False)
        self.drop = nn.Dropout(0.1)
        self.fc = nn.Linear(4, 3)
        self.bodies = bodies

    def forward(self, images: Tensor) -> Tensor:
        """Three numbers of each map, side by side."""
        return torch.cat([self.fc(body(self, images).mean((2, 3))) for body in self.bodies], 1)


def examined(*bodies: Body) -> dict[str, FieldMap]:
    """The field maps of a network with these bodies on 1x8x8 images, each of them compared with the probe."""
    model = capture(Parts(*bodies), (1, 8, 8), name="parts", twice=False)
    field_maps = trace_fields(model.graph, model.graph.evaluate)
    probed = probe_receptive_field(model.to_module())
    assert [] == [name for name, found in probed.items() if not confirms(field_maps[name], found)]
    return field_maps


def of(field_maps: dict[str, FieldMap], name: str) -> str:
    """The certainty of the value whose name starts so, the last of them."""
    return [field_map.certainty for key, field_map in field_maps.items() if key.startswith(name)][-1]


def added_in_place(net: Parts, images: Tensor) -> Tensor:
    """A residual sum in place, activated in place."""
    value: Tensor = net.first(images)
    value += net.wide(value)
    functional.relu_(value)
    result: Tensor = net.point(value)
    return result


def added_to_an_alias(net: Parts, images: Tensor) -> Tensor:
    """A sum into some rows of the map changes the map."""
    value = net.first(images)
    part = value[:, :, 2:4]
    part.add_(net.wide(value)[:, :, 2:4])
    result: Tensor = net.point(value)
    return result


def halves_of_a_pair(net: Parts, images: Tensor) -> Tensor:
    """Two maps side by side, and the channels of one of them taken out again."""
    value = net.first(images)
    return torch.cat([value, net.wide(value)], 1)[:, :4]


EXACT: dict[str, Body] = {
    "in place": added_in_place,
    "larger of two": lambda net, x: torch.max(net.first(x), net.wide(net.first(x))),
    "larger of the columns": lambda net, x: net.first(x).max(3, keepdim=True)[0],
    "gate": lambda net, x: net.first(x) * net.point(net.first(x).mean((2, 3), keepdim=True)),
    "gate expanded": lambda net, x: net.first(x) * net.first(x).mean((2, 3)).view(-1, 4, 1, 1).expand_as(net.first(x)),
    "batch statistics": lambda net, x: net.norm(net.first(x)),
    "gaps of a transposed convolution": lambda net, x: net.rare(net.first(x))[:, :, :6, :6] + net.first(x),
    "softmax over the map": lambda net, x: functional.softmax(net.first(x).flatten(2), -1).view(-1, 4, 6, 6),
    "grouped after concatenation": lambda net, x: net.grouped(
        torch.cat([net.first(x)[:, :2], net.wide(net.first(x))[:, 2:]], 1)
    ),
    "mixed by a convolution": lambda net, x: net.mix(torch.cat([net.first(x), net.wide(net.first(x))], 1))[:, :4],
    "stacked": lambda net, x: torch.stack([net.first(x), net.wide(net.first(x))], 1).amax(1),
    "added to a product": lambda net, x: torch.addmm(net.fc.bias, net.first(x).mean((2, 3)), net.fc.weight.t())[
        :, :1, None, None
    ].expand(-1, 4, 1, 1),
    "same size": lambda net, x: functional.interpolate(net.first(x), size=(6, 6), mode="bilinear"),
    "as an image": lambda net, x: net.first(x.view(-1, 1, 8, 8)),
    "shuffled": lambda net, x: functional.pixel_unshuffle(net.first(x)[:, :1], 2),
    "flipped": lambda net, x: net.wide(net.first(x).flip(3)),
    "joined along the rows": lambda net, x: torch.cat([net.first(x)[:, :, :2], net.first(x)[:, :, 3:]], 2),
    "unbound": lambda net, x: net.first(x).unbind(2)[2].unsqueeze(2),
}


@pytest.mark.smoke
def test_views_are_exact() -> None:
    """What each value sees is known exactly and confirmed position by position, whatever operations it went through."""
    field_maps = examined(*EXACT.values())
    assert {} == {name: field_map.note for name, field_map in field_maps.items() if field_map.certainty != "exact"}
    assert sum(name.startswith("linear") for name in field_maps) == len(EXACT)


BOUNDED: dict[str, tuple[Body, str]] = {
    "some channels of two maps": (halves_of_a_pair, "bound"),
    "some channels of an unshuffled map": (
        lambda net, x: net.point(functional.pixel_unshuffle(net.first(x)[:, :2], 2)[:, ::2]),
        "bound",
    ),
    "a map and itself turned": (lambda net, x: net.first(x) + net.first(x).transpose(2, 3), "unknown"),
    "changed through a part": (added_to_an_alias, "unknown"),
    "a product of the images": (
        lambda net, x: torch.matmul(net.first(x), net.first(x)),
        "unknown",
    ),
}


@pytest.mark.parametrize("name", BOUNDED)
def test_what_cannot_be_exact_says_so(name: str) -> None:
    """Where a rule would say too little or too much, the value is a bound or unknown, and never smaller than the probe."""
    body, certainty = BOUNDED[name]
    field_maps = examined(body)
    assert certainty == of(field_maps, "linear")
    assert all(field_map.note for field_map in field_maps.values() if field_map.certainty != "exact")


def test_a_hostile_size_is_not_followed() -> None:
    """A window of millions of pixels is no reason to count them."""
    graph = convolution_graph(kernel=(10**7, 1), shape=("B", 1, 10**7, 1))
    field_map = trace_fields(graph, graph.evaluate)["y"]
    assert "unknown" == field_map.certainty
    assert "10,000,000 positions is more than" in field_map.note


def test_an_input_that_is_no_image_is_refused() -> None:
    """An input that is no image is refused."""
    graph = replace(convolution_graph(), input_shape=(5,))
    with pytest.raises(ValueError, match=r"expected an image input .* got input_shape=\[5\]"):
        trace_fields(graph, graph.evaluate)


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
