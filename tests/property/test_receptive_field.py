"""Random networks: the receptive fields that are traced are those an experiment finds, and the graph runs as the network does.

``HARNESS_EXAMPLES`` sets how many networks are drawn; 500 take some minutes.
"""

from __future__ import annotations

import json
import os
from collections import Counter

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import nn

from harness.graph import CapturedModel, capture, graph_from_json, graph_to_json
from harness.structure.field_trace import trace_fields
from harness.structure.probe import confirms, probe_receptive_field
from tests.strategies import Network, networks

EXAMPLES = int(os.environ.get("HARNESS_EXAMPLES", "40"))
# Drawing a network runs its layers, and a capture takes a fraction of a second.
HEALTH = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)


def _trained(module: nn.Module, network: Network) -> list[torch.Tensor]:
    """The tensors after 20 steps of SGD from a fixed random state."""
    torch.manual_seed(network.seed)
    module.train()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9)
    for _ in range(20):
        outputs = module(torch.randn(4, *network.input_shape))
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(outputs, torch.randint(10, (4,))))
        optimizer.step()
    return [*module.parameters(), *module.buffers()]


def _certainties(network: Network, captured: CapturedModel) -> Counter[str]:
    """Compare every value's field map with the experiment; how many field maps there are of each certainty."""
    field_maps = trace_fields(captured.graph, captured.graph.evaluate)
    probed = probe_receptive_field(captured.to_module())
    assert set(probed) <= set(field_maps)
    disagreeing = [name for name, found in probed.items() if not confirms(field_maps[name], found)]
    assert [] == disagreeing, network
    return Counter(field_map.certainty for field_map in field_maps.values())


def _assert_equal(expected: torch.Tensor, found: torch.Tensor) -> None:
    """Equal to the last bit; NaN equals NaN: a max pooling with dilation may have windows that lie in the padding only."""
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.filterwarnings("ignore:Using padding=.same. with even kernel")  # torch says so; the padding is exact
def test_random_networks() -> None:
    """Trace and experiment agree at every position, the graph's outputs are the network's, and hardly a field is unknown."""
    counts: Counter[str] = Counter()

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=HEALTH)
    @given(networks())
    def check(network: Network) -> None:
        original = network.build()
        captured = capture(original, network.input_shape, name="network")
        assert () == captured.fidelity.differences
        counts.update(_certainties(network, captured))
        images = torch.randn(3, *network.input_shape, generator=torch.Generator().manual_seed(network.seed))
        with torch.no_grad():
            _assert_equal(original(images), captured.to_module().eval()(images))
        graph = graph_from_json(json.loads(json.dumps(graph_to_json(captured.graph))))
        assert captured.graph == graph
        assert captured.graph.exact_digest() == graph.exact_digest()
        if network.seed % 4 == 0:
            rebuilt = captured.to_module()
            for expected, found in zip(_trained(original, network), _trained(rebuilt, network), strict=True):
                _assert_equal(expected, found)

    check()
    assert counts["exact"] > 0
    assert counts["unknown"] < 0.02 * counts.total()
