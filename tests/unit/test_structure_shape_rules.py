"""What reshapes, joins, slices and turns read, as the probe sees it, or said to be uncertain."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.field_networks import Body, Parts, require_certainty, require_exact


def halves_of_a_pair(net: Parts, images: Tensor) -> Tensor:
    """Two maps side by side, and the channels of one of them taken out again."""
    value = net.first(images)
    return torch.cat([value, net.wide(value)], 1)[:, :4]


EXACT: dict[str, Body] = {
    "as an image": lambda net, x: net.first(x.view(-1, 1, 8, 8)),
    "flipped": lambda net, x: net.wide(net.first(x).flip(3)),
    "joined along the rows": lambda net, x: torch.cat([net.first(x)[:, :, :2], net.first(x)[:, :, 3:]], 2),
    "unbound": lambda net, x: net.first(x).unbind(2)[2].unsqueeze(2),
    "stacked": lambda net, x: torch.stack([net.first(x), net.wide(net.first(x))], 1).amax(1),
    "gate expanded": lambda net, x: net.first(x) * net.first(x).mean((2, 3)).view(-1, 4, 1, 1).expand_as(net.first(x)),
}


@pytest.mark.smoke
def test_views_are_exact() -> None:
    """What each value sees is known exactly and confirmed position by position."""
    require_exact(EXACT)


BOUNDED: dict[str, tuple[Body, str]] = {
    "some channels of two maps": (halves_of_a_pair, "bound"),
}


@pytest.mark.parametrize("name", BOUNDED)
def test_what_cannot_be_exact_says_so(name: str) -> None:
    """Some channels of maps that see different parts see no more than all: a bound."""
    require_certainty(*BOUNDED[name])
