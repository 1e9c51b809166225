"""Observers: objects whose methods the training loop calls, for example to update a progress bar."""

from __future__ import annotations

from typing import Protocol

from harness.training.record import EpochResult
from harness.training.run_spec import RunSpec


class Observer(Protocol):
    """The methods that the training loop calls during one run.

    The loop waits for each call, so methods should return quickly.
    """

    def on_start(self, *, spec: RunSpec, steps: int, done: tuple[EpochResult, ...]) -> None:
        """Called before the first step.

        ``steps`` is the number of steps per epoch, ``done`` holds the epochs that were restored from a checkpoint.
        """

    def on_step(self, *, epoch: int, step: int, steps: int, loss: float, correct: int, seen: int) -> None:
        """Called about ten times a second and after the last step of an epoch.

        Args:
            epoch: number of the epoch, from 1.
            step: number of the step in the epoch, from 1.
            steps: number of steps in an epoch.
            loss: mean training loss in the epoch so far.
            correct: number of correct predictions in the epoch so far.
            seen: number of training images in the epoch so far.
        """

    def on_epoch(self, result: EpochResult) -> None:
        """Called after each epoch, when the model has been evaluated and the checkpoint written."""

    def on_warning(self, message: str) -> None:
        """Called with a message for the user about a problem that does not stop the run, such as a damaged checkpoint."""


class NullObserver:
    """An observer that ignores every call."""

    def _ignore(self, *_: object, **__: object) -> None:
        pass

    on_start = on_step = on_epoch = on_warning = _ignore
