"""Observers: what a program implements to follow a training, such as a progress bar."""

from __future__ import annotations

from typing import Protocol

from harness.training.record import EpochResult
from harness.training.run_spec import RunSpec


class Observer(Protocol):
    """Follows one run. The training loop waits for each call, so they should return quickly."""

    def on_start(self, *, spec: RunSpec, steps: int, done: tuple[EpochResult, ...]) -> None:
        """Called before the first step: ``steps`` per epoch; ``done`` are the epochs restored from a checkpoint."""

    def on_step(self, *, epoch: int, step: int, steps: int, loss: float, correct: int, seen: int) -> None:
        """Called about ten times a second and after the last step of an epoch.

        Args:
            epoch: number of the epoch, from 1.
            step: number of the step in the epoch, from 1.
            steps: steps in an epoch.
            loss: mean loss of the epoch so far.
            correct: correct predictions of the epoch so far.
            seen: images of the epoch so far.
        """

    def on_epoch(self, result: EpochResult) -> None:
        """Called after an epoch, its evaluation and its checkpoint."""

    def on_warning(self, message: str) -> None:
        """Called with something that the user should know and that does not stop the run."""


class NullObserver:
    """An observer that ignores every call."""

    def _ignore(self, *_: object, **__: object) -> None:
        pass

    on_start = on_step = on_epoch = on_warning = _ignore
