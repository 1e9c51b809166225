"""Models with one defect each, for the tests of the determinism check."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from harness.determinism.interventions import Interventions
from harness.determinism.model_under_test import ImportedModel, ModelUnderTest
from harness.determinism.runner import shortened
from harness.determinism.variations import repeat
from harness.findings import Finding
from harness.training import DIGEST_EVERY, Recipe, RunSpec, TrainingHooks
from tests import made_up

CPU = torch.device("cpu")


def run_spec(source: str = "", recipe: Recipe = made_up.RECIPE) -> RunSpec:
    """A run of a model on the CPU with seed 1."""
    return RunSpec(
        model="net",
        source=source,
        arguments="",
        graph_digest="",
        recipe=recipe,
        seed=1,
        engine="eager",
        device="cpu",
        digest_every=DIGEST_EVERY,
    )


# Six steps in two epochs.
SPEC, DATA = shortened(run_spec(), made_up.dataset(), steps=6)


class Net(nn.Module):
    """A small network that calls ``disturb`` with its features in every forward pass."""

    calls = 0

    def __init__(self, disturb: Callable[[Net, Tensor], Tensor] = lambda _, features: features) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 7, stride=7)
        self.norm = nn.BatchNorm2d(2)
        self.head = nn.Linear(32, 10)
        self.noise = torch.Generator().manual_seed(3)
        self.memory: dict[str, Tensor] = {}
        self.disturb = disturb

    def forward(self, images: Tensor) -> Tensor:
        features = torch.relu(self.norm(self.conv(images))).flatten(1)
        logits: Tensor = self.head(self.disturb(self, features))
        return logits


class Buffered(Net):
    """Counts its training passes in a buffer that is not persistent."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Tensor
        self.register_buffer("count", torch.zeros(1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        self.count += self.training
        return super().forward(images) * (1 + self.count)


class Learning(Net):
    """Updates the statistics of its batch norm in eval mode, too."""

    def forward(self, images: Tensor) -> Tensor:
        self.norm.train()
        return super().forward(images)


class Constant(Net):
    """Holds a tensor that is neither parameter nor buffer, and one layer under two names."""

    def __init__(self, sign: float = 1.0) -> None:
        super().__init__()
        self.again = self.head
        self.scale = torch.full((1, 32), 0.5 * sign)
        self.disturb = lambda _, features: features * self.scale


def counts_training_passes(net: Net, features: Tensor) -> Tensor:
    """Scale the features by the number of training passes, which is kept in a plain attribute."""
    net.calls += net.training
    return features * (1 + net.calls / 10)


def counts_evaluation_passes(net: Net, features: Tensor) -> Tensor:
    """Scale the features by the number of evaluation passes, which is kept in a plain attribute."""
    net.calls += not net.training
    return features * (1 + net.calls / 10)


def model_of(load: Callable[[], ImportedModel]) -> ModelUnderTest:
    """A model under test that is loaded by this function and trained for six steps in two epochs."""
    return ModelUnderTest(load, spec=SPEC, data=DATA)


def built(build: Callable[[], nn.Module], **hooks: Any) -> ModelUnderTest:  # noqa: ANN401 - fields of `TrainingHooks`
    """A model under test that is built by this function."""
    imported = ImportedModel(build=lambda _: build(), hooks=TrainingHooks(**hooks))
    return model_of(lambda: imported)


def disturbed(disturb: Callable[[Net, Tensor], Tensor]) -> ModelUnderTest:
    """A model under test with this function in its forward pass."""
    return built(lambda: Net(disturb))


def repeated(model: ModelUnderTest) -> Finding:
    """The finding of the first axis."""
    with Interventions() as interventions:
        return repeat(model, model.trace(), interventions)
