from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from harness.data import Dataset
from harness.determinism.evaluation import evaluation_between, pure_evaluation
from harness.determinism.interventions import Interventions
from harness.determinism.model_under_test import ModelUnderTest
from harness.findings import Finding, Status
from harness.training import Evaluation
from tests import made_up
from tests.determinism_models import Learning, Net, built, counts_evaluation_passes, disturbed

pytestmark = pytest.mark.usefixtures("one_thread", "known_environment")


def pure(model: ModelUnderTest) -> Finding:
    """The finding of the last axis."""
    with Interventions() as interventions:
        return pure_evaluation(model, interventions)


@pytest.mark.parametrize(
    ("build", "cause"),
    [
        (lambda: Net(counts_evaluation_passes), "cause: the code changes attribute calls in an evaluation"),
        (Learning, "cause: the code changes buffer norm.running_mean in an evaluation"),
    ],
    ids=["attribute", "buffer"],
)
def test_an_evaluation_that_influences_the_training_is_found(build: Callable[[], Net], cause: str) -> None:
    """The state that an evaluation changes and the training then uses is named."""
    model = built(build)
    found = evaluation_between(model, model.trace())

    assert Status.FAIL is found.status
    assert "step 4" in found.observed
    assert cause in found.evidence


def test_batch_norm_that_updates_in_eval_mode_is_found() -> None:
    """A buffer that the network changes in eval mode is named."""
    found = pure(built(Learning))

    assert Status.FAIL is found.status
    assert "the network in eval mode changes buffer norm.running_mean" in found.observed
    assert "cause: the network updates buffer norm.running_mean in eval mode" in found.evidence


def test_dropout_that_is_active_in_eval_mode_is_located() -> None:
    """The innermost module that draws is named."""

    class Active(nn.Dropout):
        def forward(self, images: Tensor) -> Tensor:
            return nn.functional.dropout(images, self.p)

    def build() -> nn.Module:
        return nn.Sequential(made_up.network(), Active(0.5))

    found = pure(built(build))

    assert Status.FAIL is found.status
    assert found.evidence[0].endswith("dropout or a similar layer is active there, in 1 (Active)")


@pytest.mark.parametrize(
    ("disturb", "cause"),
    [
        (counts_evaluation_passes, "cause: the code changes attribute calls in an evaluation"),
        (
            lambda net, features: features if net.training else features * os.urandom(1)[0],
            "cause: the code draws from os.urandom",
        ),
    ],
    ids=["attribute", "os.urandom"],
)
def test_outputs_that_change_are_explained(disturb: Callable[[Net, Tensor], Tensor], cause: str) -> None:
    """Two evaluations that differ although no shared state changed have their causes attributed."""
    found = pure(disturbed(disturb))

    assert Status.FAIL is found.status
    assert found.observed.startswith("differs between two evaluations, in the outputs, by ")
    assert cause in " ".join(found.evidence)


def test_an_evaluation_that_draws_from_the_trainings_stream_is_found() -> None:
    """It changes the training, and is not pure; the cause is the evaluation and not the network."""

    def evaluate(_: nn.Module, data: Dataset) -> Evaluation:
        torch.randperm(len(data.test_images))
        return Evaluation(loss=0.5, correct=1, total=len(data.test_images))

    model = built(Net, evaluate=evaluate)
    between, twice = evaluation_between(model, model.trace()), pure(model)

    assert "differs at step 4 in the state of the random generator that dropout draws from" == between.observed
    assert between.evidence[0].startswith("cause: the code draws from torch's random state in an evaluation")
    assert "the evaluation changes torch's random state" == twice.observed
    assert twice.evidence[0].startswith("cause: the evaluation itself, since the network in eval mode leaves")


def test_an_evaluation_whose_result_changes_is_found() -> None:
    """Two counts of correct predictions of the same network must agree, and so must two losses."""
    results = iter(range(1000))

    def evaluate(_: nn.Module, data: Dataset) -> Evaluation:
        return Evaluation(loss=0.5, correct=next(results) % 20, total=len(data.test_images))

    def other_loss(_: nn.Module, data: Dataset) -> Evaluation:
        return Evaluation(loss=float(next(results)), correct=1, total=len(data.test_images))

    assert "correct predictions" in pure(built(Net, evaluate=evaluate)).observed
    assert "return the losses" in pure(built(Net, evaluate=other_loss)).observed
