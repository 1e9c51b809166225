"""The probe: it agrees with what is traced of the shipped models, notices a wrong trace, and leaves the model alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from harness.graph import CapturedModel, capture
from harness.structure.field_trace import trace_fields
from harness.structure.probe import confirms, probe_receptive_field

Shipped = Callable[[str], CapturedModel]


@pytest.mark.parametrize("name", ["reference", "cloud_3"])
def test_the_probe_agrees(name: str, shipped: Shipped) -> None:
    """Every value of a shipped model is exact and confirmed, resized skip connections and gates included."""
    model = shipped(name)
    field_maps = trace_fields(model.graph, model.graph.evaluate)
    probed = probe_receptive_field(model.to_module())
    assert field_maps.keys() - probed.keys() <= {model.graph.input_name}
    assert {"exact"} == {field_map.certainty for field_map in field_maps.values()}
    assert all(confirms(field_maps[name], found) for name, found in probed.items())


def test_a_wrong_trace_is_noticed(shipped: Shipped) -> None:
    """One pixel too few or too many at one position is a disagreement; too many are none for a bound."""
    model = shipped("reference")
    name = next(
        operation.name for operation in model.graph.evaluate.operations if operation.op == "aten.conv2d.default"
    )
    field_map = trace_fields(model.graph, model.graph.evaluate)[name]
    probed = probe_receptive_field(model.to_module(), [name])
    assert [name] == list(probed)
    found = probed[name]
    assert np.array_equal(field_map.seen(), found)
    fewer, more = found.copy(), found.copy()
    fewer[2, 2, 2, 2] = not fewer[2, 2, 2, 2]
    more[2, 2, 20, 20] = True
    bound = replace(field_map, certainty="bound")
    assert [True, False, False] == [confirms(field_map, mask) for mask in (found, fewer, more)]
    assert [True, True, False] == [confirms(bound, mask) for mask in (found, fewer, more)]
    assert not confirms(field_map, found[:1])


def test_an_input_that_is_no_image_is_refused() -> None:
    """The probe needs rows and columns."""
    flat = capture(nn.Linear(5, 2), (5,), name="flat", twice=False)
    with pytest.raises(ValueError, match=r"expected an image input .* got input_shape=\[5\]"):
        probe_receptive_field(flat.to_module())


class Masked(nn.Module):
    """A convolution, and what is positive of its map."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)

    def forward(self, images: Tensor) -> Tensor:
        """Four numbers an image."""
        maps = self.conv(images)
        masked: Tensor = (maps * (maps > 0)).mean((2, 3))
        return masked


def test_the_probe_changes_nothing() -> None:
    """A comparison and what depends on it are left out; module, mode, settings and random state stay as they were."""
    model = capture(Masked(), (1, 8, 8), name="masked", twice=False)
    module = model.to_module().train()
    state = torch.get_rng_state()
    enabled = torch.backends.mkldnn.enabled
    probed = probe_receptive_field(module)
    assert probed
    assert all(name.startswith("conv2d") for name in probed)
    assert module.training
    assert enabled == torch.backends.mkldnn.enabled
    assert torch.equal(state, torch.get_rng_state())
    assert not any(parameter.isnan().any() for parameter in module.parameters())
