"""A training in a process of its own, for tests that kill it."""

from __future__ import annotations

import dataclasses
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from harness.training import EpochResult, RunRecord, Step, TrainingHooks, initialise, train
from harness.training.recipe import SGD
from tests.made_up import RECIPE, dataset, network, spec

# 120 steps an epoch, three epochs.
_DATA = dataset(train=1920)
_RECIPE = dataclasses.replace(RECIPE, optimizer=SGD(lr=0.05, momentum=0.9))


class Reporter:
    """Sends ``("step", number)`` before each step and ``("epoch", number)`` after each epoch."""

    def __init__(self, connection: Connection | None = None) -> None:
        self.connection = connection
        self.done = 0
        self.warnings: list[str] = []

    def on_start(self, *, done: tuple[EpochResult, ...], **_: object) -> None:
        """Keep the number of epochs restored from a checkpoint."""
        self.done = len(done)

    def on_step(self, **_: object) -> None:
        """Ignored."""

    def on_epoch(self, result: EpochResult) -> None:
        """Report that its checkpoint is on disk."""
        if self.connection:
            self.connection.send(("epoch", result.epoch))

    def on_warning(self, message: str) -> None:
        """Keep the warning."""
        self.warnings.append(message)

    def before_step(self, step: Step) -> None:
        """Report that it begins."""
        if self.connection:
            self.connection.send(("step", step.number))

    def after_step(self, step: Step) -> None:
        """Ignored."""


def run(folder: Path | None, reporter: Reporter) -> RunRecord:
    """Train, or resume from the folder."""
    return train(
        initialise(lambda: network(dropout=0.2), seed=1),
        spec(_RECIPE),
        _DATA,
        checkpoint_dir=folder,
        observer=reporter,
        hooks=TrainingHooks(callbacks=(reporter,)),
    )


def run_in_child(folder: Path, connection: Connection) -> None:
    """Runs in the process that is killed."""
    torch.set_num_threads(1)
    run(folder, Reporter(connection))
