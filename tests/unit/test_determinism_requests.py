from __future__ import annotations

import dataclasses
import random

import pytest

from harness.determinism import requests
from harness.determinism.axes import Axis, compared
from harness.determinism.interventions import Interventions
from harness.determinism.requests import vary
from harness.findings import Status
from harness.graph import CapturedModel, Fidelity
from tests import made_up
from tests.determinism_models import Constant, built, disturbed

pytestmark = pytest.mark.usefixtures("one_thread", "known_environment")


@pytest.mark.smoke
def test_a_deterministic_network_passes_on_every_axis() -> None:
    """Batch norm and dropout do not prevent equal bits; another seed gives other streams."""
    model = built(lambda: made_up.network(dropout=0.3))
    with Interventions() as interventions:
        found = list(vary(model, model.trace(), interventions, None, "no graph was asked for"))

    assert {
        Axis.REPEAT: "bit-equal",
        Axis.THREADS: "not applicable: torch computes on one thread here",
        Axis.EVALUATION: "bit-equal",
        Axis.RESUME: "bit-equal",
        Axis.GRAPH: "not applicable: no graph was asked for",
        Axis.DETERMINISTIC: "bit-equal",
        Axis.WEIGHTS: "differs in all 21 pairs of 7 seeds; of a seed only the lower 32 bits count",
        Axis.ORDER: "differs in all 21 pairs of 7 seeds",
        Axis.AUGMENTATION: "not applicable: the recipe has no augmentation",
        Axis.DROPOUT: "differs in all 21 pairs of 7 seeds",
        Axis.PURE: "bit-equal, and all state unchanged",
    } == {finding.requirement: finding.observed for finding in found}
    assert {Status.PASS, Status.SKIP} == {finding.status for finding in found}


@pytest.mark.smoke
def test_a_network_that_does_not_repeat_is_not_compared_further() -> None:
    """If a repetition differs, the axes that compare with the first training are not applicable."""
    model = disturbed(lambda _, features: features * (1 + random.random()))  # noqa: S311 - what is tested
    with Interventions() as interventions:
        found = {one.requirement: one for one in vary(model, model.trace(), interventions, None, "")}

    assert found[Axis.REPEAT].status is Status.FAIL
    assert found[Axis.REPEAT].evidence[0].startswith("cause: it draws from Python's random")
    assert {"not applicable: the training does not repeat itself"} == {
        found[axis].observed for axis in (Axis.THREADS, Axis.EVALUATION, Axis.RESUME, Axis.GRAPH, Axis.DETERMINISTIC)
    }


def test_a_frozen_draw_has_a_finding_of_its_own(constant_graph: CapturedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The differences that the capture found are reported besides the comparison of graph and module."""
    unfaithful = dataclasses.replace(
        constant_graph, fidelity=Fidelity(repeatable=False, differences=("two captures differ",))
    )
    for other in ("evaluation_between", "resume", "other_algorithms", "pure_evaluation"):
        monkeypatch.setattr(requests, other, lambda *_: compared(Axis.PURE, None))
    monkeypatch.setattr(requests, "other_seeds", lambda _: iter(()))
    model = built(Constant)
    with Interventions() as interventions:
        found = {one.requirement: one for one in vary(model, model.trace(), interventions, unfaithful, "")}

    assert (Status.FAIL, "two captures differ") == (found[Axis.FROZEN].status, found[Axis.FROZEN].observed)
    assert Status.PASS is found[Axis.GRAPH].status
