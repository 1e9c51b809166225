"""Runs of the made-up network for the tests of the training package."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn

from harness.data import Augmentation, Dataset
from harness.training import EpochResult, Recipe, RunRecord, initialise, train
from harness.training.recipe import SGD, WarmupCosine
from tests.made_up import RECIPE, dataset, network, spec

DATA = dataset()
# Everything that draws random numbers or changes from step to step.
NOISY = dataclasses.replace(
    RECIPE,
    optimizer=SGD(lr=0.1, momentum=0.9),
    schedule=WarmupCosine(warmup=0.2, until=0.8, floor=0.1),
    augmentation=Augmentation(rotation=10.0, shift=0.1),
)


class RecordingObserver:
    """An observer that keeps the arguments of its calls, and can interrupt the run in an epoch."""

    def __init__(self, *, stop_in: int | None = None) -> None:
        self.started: list[dict[str, Any]] = []
        self.steps: list[dict[str, Any]] = []
        self.epochs: list[EpochResult] = []
        self.warnings: list[str] = []
        self._stop_in = stop_in

    def on_start(self, **arguments: Any) -> None:  # noqa: ANN401 - kept as they are
        """Keep the arguments."""
        self.started.append(arguments)

    def on_step(self, **arguments: Any) -> None:  # noqa: ANN401 - kept as they are
        """Keep the arguments, and interrupt the run if it is in the given epoch."""
        self.steps.append(arguments)
        if arguments["epoch"] == self._stop_in:
            raise KeyboardInterrupt

    def on_epoch(self, result: EpochResult) -> None:
        """Keep the result."""
        self.epochs.append(result)

    def on_warning(self, message: str) -> None:
        """Keep the message."""
        self.warnings.append(message)


class ConstantOutput(nn.Module):
    """The same output for every image; its only weight has no effect."""

    def __init__(self, row: list[float]) -> None:
        super().__init__()
        self.row = torch.tensor(row)
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 10)."""
        return self.row.expand(len(images), -1) + 0 * self.weight


def run(
    module: nn.Module | None = None,
    recipe: Recipe = RECIPE,
    data: Dataset = DATA,
    *,
    seed: int = 1,
    digest_every: int = 100,
    **options: Any,  # noqa: ANN401 - passed to train
) -> RunRecord:
    """Train the made-up network, or another module, on the CPU."""
    if module is None:
        module = initialise(lambda: network(dropout=0.2), seed=seed)
    return train(module, spec(recipe, seed=seed, digest_every=digest_every), data, **options)


def bits(record: RunRecord) -> tuple[Any, ...]:
    """Everything in a record that must repeat; times need not."""
    return record.state_digest, record.status, [dataclasses.replace(each, seconds=0.0) for each in record.epochs]
