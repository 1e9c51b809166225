from __future__ import annotations

import pytest
import torch

from harness.determinism.model_under_test import ImportedModel, ModelUnderTest
from harness.training import TrainingHooks
from tests.determinism_models import DATA, SPEC, Net

pytestmark = pytest.mark.usefixtures("one_thread", "known_environment")


def test_a_trace_ends_after_the_step_asked_for() -> None:
    """A training has the declared steps or ends before; each step shows that it advances, and each seed has its own trace."""
    calls: list[int] = []
    imports: list[int] = []

    def load() -> ImportedModel:
        imports.append(1)
        return ImportedModel(build=lambda _: Net(), hooks=TrainingHooks())

    model = ModelUnderTest(load, spec=SPEC, data=DATA, keep_alive=lambda: calls.append(1))
    (first,) = model.trace(upto=1)
    (other,) = model.trace(upto=1, seed=2)

    assert (6, 6) == (model.steps, len(model.trace()))
    assert 8 == len(calls)
    assert (1, first.number) == (other.number, 1)
    assert first.start.order != other.start.order
    model.reimport()
    assert 2 == len(imports)


def test_initial_weights_are_drawn_under_the_seed() -> None:
    """The module is built under the seed of the run, unless another one is given."""
    imported = ImportedModel(build=lambda _: Net(), hooks=TrainingHooks())
    model = ModelUnderTest(lambda: imported, spec=SPEC, data=DATA)
    one, again, other = (model.module(seed).state_dict()["conv.weight"] for seed in (None, 1, 2))

    assert torch.equal(one, again)
    assert not torch.equal(one, other)
