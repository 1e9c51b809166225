"""What each value sees when operations write in place, and inputs that are no image."""

from __future__ import annotations

from dataclasses import replace

import pytest
from torch import Tensor
from torch.nn import functional

from harness.structure.field_trace import trace_fields
from tests.field_networks import Body, Parts, require_certainty, require_exact
from tests.made_up import convolution_graph


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


EXACT: dict[str, Body] = {"in place": added_in_place}


def test_views_are_exact() -> None:
    """A sum and an activation in place are followed, and confirmed position by position."""
    require_exact(EXACT)


BOUNDED: dict[str, tuple[Body, str]] = {
    "changed through a part": (added_to_an_alias, "unknown"),
}


@pytest.mark.parametrize("name", BOUNDED)
def test_what_cannot_be_exact_says_so(name: str) -> None:
    """What changes through another value that shares its memory is unknown, and never smaller than the probe."""
    require_certainty(*BOUNDED[name])


def test_an_input_that_is_no_image_is_refused() -> None:
    """An input that is no image is refused."""
    graph = replace(convolution_graph(), input_shape=(5,))
    with pytest.raises(ValueError, match=r"expected an image input .* got input_shape=\[5\]"):
        trace_fields(graph, graph.evaluate)
