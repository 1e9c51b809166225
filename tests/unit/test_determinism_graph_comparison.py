from __future__ import annotations

import pytest

from harness.determinism.graph_comparison import rebuilt_graph
from harness.findings import Status
from harness.graph import CapturedModel
from tests.determinism_models import Constant, built, counts_training_passes, disturbed

pytestmark = pytest.mark.usefixtures("one_thread", "known_environment")


@pytest.mark.smoke
def test_the_graph_trains_as_the_module(constant_graph: CapturedModel) -> None:
    """A rebuilt graph trains to the same bits as its module, and not as another module."""
    model, other = built(Constant), built(lambda: Constant(-1.0))

    assert Status.PASS is rebuilt_graph(model, model.trace(), constant_graph, "").status
    found = rebuilt_graph(other, other.trace(), constant_graph, "")
    assert (Status.FAIL, "differs at step 1 in tensor conv.weight by ") == (found.status, found.observed[:43])


def test_attributes_that_a_graph_freezes_are_named(constant_graph: CapturedModel) -> None:
    """If graph and module differ, the attributes that the module changes in training are named."""
    counting = disturbed(counts_training_passes)
    found = rebuilt_graph(counting, counting.trace(), constant_graph, "")

    assert "the module changes attribute calls in training; a graph holds the value from its capture" in found.evidence
