"""Repeating the training that a run record declares."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

from harness.data import Dataset
from harness.errors import InputError
from harness.graph import CapturedModel
from harness.reproducibility.trace import Trace, TraceCompleteError, Tracer
from harness.training import Observer, RunRecord, Step, StepCallback, TrainingHooks, TrainingInterrupted, train


@dataclass(frozen=True, kw_only=True, eq=False)
class Rerun:
    """A run record with the model and data to repeat its training; the initial weights are drawn under the record's seed.

    Raises:
        InputError: model or data differ from those recorded.
    """

    record: RunRecord
    captured: CapturedModel
    dataset: Dataset
    device: torch.device

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
        """Train as many epochs as the record has."""
        if self.record.status == "complete":
            return self._train(observer, None)
        try:
            return self._train(observer, _StopAfter(self.record.digests[-1].step))
        except TrainingInterrupted as stopped:
            if len(stopped.record.epochs) < len(self.record.epochs):
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
        raise InputError(f"expected a training of at least {upto} steps, got {len(tracer.trace) + after}.")

    def _train(self, observer: Observer | None, callback: StepCallback | None) -> RunRecord:
        spec = dataclasses.replace(self.record.spec, device=str(self.device))
        hooks = TrainingHooks(callbacks=() if callback is None else (callback,))
        return train(self.captured.to_module(), spec, self.dataset, observer=observer, hooks=hooks)


class _StopAfter:
    """A step callback that interrupts the training after ``steps`` steps."""

    def __init__(self, steps: int) -> None:
        self._steps = steps

    def before_step(self, step: Step) -> None:
        if step.number > self._steps:
            raise KeyboardInterrupt

    def after_step(self, step: Step) -> None:
        pass
