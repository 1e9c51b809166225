"""What values combined element by element see, as the probe sees it, or said to be uncertain."""

from __future__ import annotations

import pytest
import torch

from tests.field_networks import Body, require_certainty, require_exact

EXACT: dict[str, Body] = {
    "larger of two": lambda net, x: torch.max(net.first(x), net.wide(net.first(x))),
    "gate": lambda net, x: net.first(x) * net.point(net.first(x).mean((2, 3), keepdim=True)),
}


@pytest.mark.smoke
def test_views_are_exact() -> None:
    """What each value sees is known exactly and confirmed position by position, broadcast or not."""
    require_exact(EXACT)


BOUNDED: dict[str, tuple[Body, str]] = {
    "a map and itself turned": (lambda net, x: net.first(x) + net.first(x).transpose(2, 3), "unknown"),
}


@pytest.mark.parametrize("name", BOUNDED)
def test_what_cannot_be_exact_says_so(name: str) -> None:
    """Dimensions that stand for different directions cannot be combined position by position."""
    require_certainty(*BOUNDED[name])
