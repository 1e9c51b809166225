"""Repeating the training that a run record declares, and comparing the repetition with the record.

In the recorded environment, the comparison is bit for bit; in any other environment, it is statistical.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch

from harness.data import Dataset
from harness.errors import InputError
from harness.findings import Finding, Status
from harness.graph import CapturedModel, computing_threads
from harness.reproducibility.bisection import bisect
from harness.reproducibility.comparison import environment_differences
from harness.reproducibility.noise import FEWEST_SEEDS, SeedNoise
from harness.reproducibility.trace import Trace, TraceCompleteError, Tracer
from harness.sandbox import LayerState
from harness.training import (
    Observer,
    RunRecord,
    Step,
    StepCallback,
    TrainingHooks,
    TrainingInterrupted,
    train,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Rerun:
    """A run record with the data and the initial model for repeating the training, on the recorded number of threads.

    ``sandbox`` are the layers that confined the code of the model, as in a `RunSpec`.

    Raises:
        InputError: model or data differ from those recorded.
    """

    record: RunRecord
    captured: CapturedModel
    dataset: Dataset
    device: torch.device
    sandbox: tuple[LayerState, ...] | None = None

    def __post_init__(self) -> None:
        graph = self.captured.graph.exact_digest()
        if graph != self.record.graph_digest:
            raise InputError(
                f"expected the recorded model, graph_digest={self.record.graph_digest}, got {self.captured.name} with "
                f"graph_digest={graph}, whose operations differ. Check out the code that the record was made with, or name "
                "the recorded model with --model."
            )
        if self.dataset.digest != self.record.data_digest:
            raise InputError(
                f"expected the recorded data, {self.record.data_title} with data_digest={self.record.data_digest}, got "
                f"{self.dataset.title} with data_digest={self.dataset.digest}. Name the recorded data with --data."
            )

    def train(self, *, observer: Observer | None = None) -> RunRecord:
        """Repeat the recorded epochs, and the one in which a run diverged; return the record of the repetition."""
        if self.record.status == "complete":
            return self._train(observer, None)
        epochs = len(self.record.epochs) + (self.record.status == "diverged")
        steps = math.ceil(len(self.dataset.train_images) / self.record.recipe.batch_size)
        try:
            return self._train(observer, _StopAfter(epochs * steps))
        except TrainingInterrupted as stopped:
            if not isinstance(stopped.__cause__, _StopError):
                raise
            return stopped.record

    def trace(self, after: int, upto: int, *, observer: Observer | None = None) -> Trace:
        """Train to step ``upto`` and return the trace of the steps ``after + 1`` to ``upto``.

        Raises:
            InputError: the training ends before step ``upto``.
        """
        tracer = Tracer(self.device, after=after, upto=upto)
        try:
            self._train(observer, tracer)
        except TraceCompleteError:
            return tracer.trace
        raise InputError(f"expected a training of at least {upto} steps, got one of {len(tracer.trace) + after} steps.")

    def _train(self, observer: Observer | None, callback: StepCallback | None) -> RunRecord:
        spec = dataclasses.replace(
            self.record.spec, device=str(self.device), model=self.captured.name, sandbox=self.sandbox
        )
        hooks = TrainingHooks(callbacks=() if callback is None else (callback,))
        with computing_threads(self.record.environment.threads):
            return train(self.captured.to_module(), spec, self.dataset, observer=observer, hooks=hooks)


class _StopError(KeyboardInterrupt):
    """Raised by `_StopAfter`, unlike the KeyboardInterrupt of a user."""


class _StopAfter:
    """A step callback that stops the training after ``steps`` steps."""

    def __init__(self, steps: int) -> None:
        self._steps = steps

    def before_step(self, step: Step) -> None:
        if step.number > self._steps:
            raise _StopError

    def after_step(self, step: Step) -> None:
        pass


@dataclass(frozen=True, kw_only=True)
class Replay:
    """A run record and the record of its repetition; ``noise`` is None if the seed noise is unknown."""

    record: RunRecord
    repeated: RunRecord
    noise: SeedNoise | None

    def finding(self) -> Finding:
        """Return the finding ``replay``, which compares the repetition with the record.

        In an environment other than the recorded one, only the accuracy is compared, and the best status is
        ``unknown``.
        """
        relevant, irrelevant = environment_differences(self.record.environment, self.repeated.environment)
        if self.record.device != self.repeated.device:
            relevant = (f"device: {self.record.device} -> {self.repeated.device}", *relevant)
        difference = self._first_difference()
        if relevant or (difference and irrelevant):
            return self._compare_accuracy((*relevant, *irrelevant), difference)
        return self._compare_bits(difference, irrelevant)

    def _first_difference(self) -> str:
        """Describe the first difference between the recorded and the repeated run; empty if there is none.

        Digests, results of the epochs, and the numbers of epochs and digests are compared.
        """
        found = bisect(self.record, self.repeated)
        if not found.equal:
            return found.describe()
        if len(self.record.epochs) != len(self.repeated.epochs):
            return f"completed epochs: recorded {len(self.record.epochs)}, now {len(self.repeated.epochs)}"
        recorded, now = ([digests.step for digests in run.digests] for run in (self.record, self.repeated))
        if recorded != now:
            return f"equal digests, but taken at other steps: {len(recorded)} recorded, {len(now)} now"
        return ""

    def _compare_bits(self, difference: str, irrelevant: tuple[str, ...]) -> Finding:
        epochs, steps = len(self.record.epochs), self.record.digests[-1].step
        hint = "The environment equals the recorded one. `harness repro MODEL` shows why the training does not repeat."
        return Finding(
            requirement="replay",
            status=Status.FAIL if difference else Status.PASS,
            expected="the recorded digests and results, bit for bit",
            observed=difference or f"bit-equal over {epochs} epoch{'' if epochs == 1 else 's'}, {steps} steps",
            evidence=(
                *self._counts(),
                f"state digest {self.repeated.state_digest}",
                *(f"differs from the record, without effect on the bits: {line}" for line in irrelevant),
            ),
            hint=hint if difference else "",
        )

    def _compare_accuracy(self, environment: tuple[str, ...], difference: str) -> Finding:
        status, observed, hint = self._accuracy_within_noise()
        return Finding(
            requirement="replay",
            status=status,
            expected="in another environment: as many correct predictions as recorded, within the seed noise",
            observed=observed,
            evidence=(
                *(f"the environment differs: {line}" for line in environment),
                *self._counts(),
                f"comparison of the bits: {difference or 'all equal'}",
            ),
            hint=hint,
        )

    def _accuracy_within_noise(self) -> tuple[Status, str, str]:
        """Compare the correct predictions after the last epoch; return status, observation and hint of the finding."""
        epochs = len(self.record.epochs)
        if len(self.repeated.epochs) < epochs:
            epoch = len(self.repeated.epochs) + 1
            return Status.FAIL, f"the loss became infinite or NaN in epoch {epoch}, which the record completed", ""
        if self.noise is None:
            observed = "accuracy not compared: another environment, and the seed noise of this training is not known"
            hint = f"Train with {FEWEST_SEEDS} or more other seeds and pass the folder of their records as --seeds."
            return Status.UNKNOWN, observed, hint
        bound = self.noise.bound(epochs)
        count = abs(self.record.epochs[-1].test_correct - self.repeated.epochs[-1].test_correct)
        within = count <= bound
        observed = (
            f"another environment; correct predictions differ by {count}, {'within' if within else 'outside'} the seed noise: "
            f"at most {bound:.1f} in 99 of 100 cases, from {len(self.noise.counts)} other seeds"
        )
        if within:
            hint = "A statistical comparison does not show that the training repeats bit for bit."
            return Status.UNKNOWN, observed, hint
        hint = "Chance does not explain this difference. Look for what changed since the record was made."
        return Status.FAIL, observed, hint

    def _counts(self) -> tuple[str, ...]:
        if not self.record.epochs or not self.repeated.epochs:
            return ()
        recorded, now = self.record.epochs[-1], self.repeated.epochs[-1]
        before = f"recorded {recorded.test_correct:,} of {recorded.test_total:,} after epoch {recorded.epoch}"
        return (f"correct predictions: {before}, now {now.test_correct:,} after epoch {now.epoch}",)
