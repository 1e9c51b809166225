from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from harness.data import Dataset
from harness.determinism.axes import Axis
from harness.determinism.model_under_test import ModelUnderTest
from harness.determinism.seed_variation import other_seeds
from harness.findings import Finding, Status
from harness.training import Batch, RandomStreams, Recipe
from tests.determinism_models import Net, built, disturbed

pytestmark = pytest.mark.usefixtures("one_thread", "known_environment")


def seeds(model: ModelUnderTest) -> dict[str, Finding]:
    """The findings of other seeds, by axis."""
    return {finding.requirement: finding for finding in other_seeds(model)}


def test_a_constructor_with_a_seed_of_its_own_is_found() -> None:
    """Initial weights that are equal under every seed are a failure."""

    def build() -> Net:
        torch.manual_seed(0)
        return Net()

    found = seeds(built(build))[Axis.WEIGHTS]

    assert (Status.FAIL, "bit-equal under seed=1 and seed=2") == (found.status, found.observed)
    assert "cause: the seed is ignored: initial weights equal under all 8 seeds" == found.evidence[0]


def test_a_forward_pass_with_a_seed_of_its_own_is_found() -> None:
    """A network that seeds torch in its forward pass draws the same numbers under every seed."""

    def reseed(_: Net, features: Tensor) -> Tensor:
        torch.manual_seed(0)
        return nn.functional.dropout(features, 0.5)

    assert Status.FAIL is seeds(disturbed(reseed))[Axis.DROPOUT].status


def test_a_loader_may_refuse_a_seed() -> None:
    """A loader may raise an error for a seed that it cannot use, which is better than truncating the seed."""

    def batches(data: Dataset, _recipe: Recipe, streams: RandomStreams, _epoch: int) -> Iterator[Batch]:
        order = np.random.RandomState(streams.seed).permutation(48)
        chosen = torch.from_numpy(order[:16])
        for _ in range(3):
            yield Batch(images=data.normalise(data.train_images[chosen]), labels=data.train_labels[chosen])

    found = seeds(built(Net, batches=batches))

    assert (Status.PASS, "differs in all 21 pairs of 7 seeds") == (found[Axis.ORDER].status, found[Axis.ORDER].observed)
    assert (
        "seed=4294967297 is refused: ValueError: Seed must be between 0 and 2**32 - 1" == found[Axis.ORDER].evidence[0]
    )
    assert (
        "not applicable: the loader is your own, and its images include what it draws"
        == found[Axis.AUGMENTATION].observed
    )


def test_the_declared_seed_may_not_be_refused() -> None:
    """A loader that raises an error for the seed of the run ends the check."""

    def batches(*_: object) -> Iterator[Batch]:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        seeds(built(Net, batches=batches))
