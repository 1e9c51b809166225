"""The training loop: a network, a recipe, data and a seed in, a run record out.

What is computed: the loss is the mean cross entropy of the network's output, that is the negative log-likelihood of
``log_softmax(output)``. For logits this is the usual loss; for log-probabilities, whose ``log_softmax`` is themselves, it is the
plain negative log-likelihood up to rounding. So both kinds of network train alike and none has to say which it is.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import lr_scheduler

from harness.data import Dataset
from harness.errors import InputError, RecipeError
from harness.training.checkpoint import Checkpoints
from harness.training.environment import environment
from harness.training.randomness import RandomStreams, preserved_randomness
from harness.training.recipe import Recipe, build_optimizer, build_schedule
from harness.training.record import EpochResult, RunRecord, state_digest

CLASSES = 10
_SECONDS_BETWEEN_LOOKS = 0.1


class Observer(Protocol):
    """Whoever wants to see a run as it goes. The calls come from the training loop, so they should be quick."""

    def on_start(self, *, recipe: Recipe, device: torch.device, steps: int, done: tuple[EpochResult, ...]) -> None:
        """The run begins: ``steps`` an epoch; ``done`` are the epochs that a checkpoint brought."""

    def on_step(self, *, epoch: int, step: int, steps: int, loss: float, correct: int, seen: int) -> None:
        """Some ten times a second and after an epoch's last step: the epoch's mean loss and right answers so far."""

    def on_epoch(self, result: EpochResult) -> None:
        """An epoch is whole, evaluated and, where there are checkpoints, on disk."""

    def on_warning(self, message: str) -> None:
        """Something the user should know that does not stop the run."""


class TrainingInterrupted(KeyboardInterrupt):
    """A run was stopped from outside; ``record`` holds its whole epochs. With checkpoints it can be resumed."""

    def __init__(self, record: RunRecord) -> None:
        super().__init__(f"interrupted after {len(record.epochs)} of {record.recipe.epochs} epochs")
        self.record = record


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A network's answers to the test images: mean cross entropy, right answers, images."""

    loss: float
    correct: int
    total: int
