"""Training again what a run record declares, and what two records declare differently."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch

from harness.data import Dataset
from harness.errors import InputError
from harness.graph import CapturedModel
from harness.reproducibility.comparison import Cause
from harness.reproducibility.trace import Trace, TracedEnoughError, Tracer
from harness.training import (
    Environment,
    Observer,
    RunRecord,
    Step,
    StepCallback,
    TrainingHooks,
    TrainingInterrupted,
    train,
)

# The steps `after + 1` to `upto` of a record's training, done again.
Retrace = Callable[[int, int], Trace]

# Where one of these differs, the last bits of every figure may.
_DECISIVE = ("torch", "cpu_capability", "threads", "accelerator", "cuda", "driver", "deterministic")


@dataclass(frozen=True, kw_only=True, eq=False)
class Rerun:
    """A record with all that is needed to do its training again.

    Args:
        record: the record.
        captured: its model, with the initial weights of its seed.
        dataset: its data.
        device: where to train now.

    Raises:
        InputError: the model or the data are not those of the record.
    """

    record: RunRecord
    captured: CapturedModel
    dataset: Dataset
    device: torch.device

    def __post_init__(self) -> None:
        graph = self.captured.graph.exact_digest()
        if graph != self.record.graph_digest:
            msg = (
                f"expected the model that the record was made with, graph_digest={self.record.graph_digest}, found "
                f"{self.captured.name} with graph_digest={graph}: it runs other operations now. Take the code of that time, "
                "or name the right model with --model."
            )
            raise InputError(msg)
        if self.dataset.digest != self.record.data_digest:
            msg = (
                f"expected the data that the record was made with, {self.record.data_title} with "
                f"data_digest={self.record.data_digest}, found {self.dataset.title} with "
                f"data_digest={self.dataset.digest}. Name the right data with --data."
            )
            raise InputError(msg)

    def train(self, *, observer: Observer | None = None) -> RunRecord:
        """Train as many epochs as are on record."""
        whole = self.record.status == "complete"
        steps = None if whole else self.record.digests[-1].step
        try:
            return self._train(observer, None if steps is None else _StopAfter(steps))
        except TrainingInterrupted as stopped:
            if steps is None or len(stopped.record.epochs) < len(self.record.epochs):
                raise
            return stopped.record

    def retrace(self, after: int, upto: int, *, observer: Observer | None = None) -> Trace:
        """Train to step ``upto`` and keep what the steps after ``after`` saw and made."""
        tracer = Tracer(self.device, after=after, upto=upto)
        try:
            self._train(observer, tracer)
        except TracedEnoughError:
            return tracer.trace
        msg = f"expected a training of at least {upto} steps, got one of {len(tracer.trace) + after}."
        raise InputError(msg)

    def _train(self, observer: Observer | None, callback: StepCallback | None) -> RunRecord:
        spec = dataclasses.replace(self.record.spec, device=str(self.device))
        hooks = TrainingHooks(callbacks=() if callback is None else (callback,))
        return train(self.captured.to_module(), spec, self.dataset, observer=observer, hooks=hooks)


class _StopAfter:
    """A callback that interrupts the training before the step after ``steps``."""

    def __init__(self, steps: int) -> None:
        self._steps = steps

    def before_step(self, step: Step) -> None:
        if step.number > self._steps:
            raise KeyboardInterrupt

    def after_step(self, step: Step) -> None:
        pass


def environment_differences(one: Environment, other: Environment) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What differs between two environments, in words: first what decides the last bits, then the rest."""
    decisive: list[str] = []
    rest: list[str] = []
    for field in dataclasses.fields(Environment):
        left, right = getattr(one, field.name), getattr(other, field.name)
        if left != right:
            (decisive if field.name in _DECISIVE else rest).append(_against(field.name, left, right))
    return tuple(decisive), tuple(rest)


def declared_differences(one: RunRecord, other: RunRecord) -> tuple[tuple[str, ...], Cause]:
    """What two records declare differently, in words, and the cause that a differing state then points to.

    The cause is the first that applies of model, recipe, data and environment; arithmetic where none does.
    """
    named = {
        Cause.MODEL: ("graph_digest", "arguments"),
        Cause.DATA: ("data_name", "data_digest"),
        Cause.ENVIRONMENT: ("device", "engine"),
    }
    found: dict[Cause, list[str]] = {
        cause: [
            _against(name, getattr(one, name), getattr(other, name))
            for name in names
            if getattr(one, name) != getattr(other, name)
        ]
        for cause, names in named.items()
    }
    left, right = one.recipe.to_mapping(), other.recipe.to_mapping()
    found[Cause.RECIPE] = [
        _against(f"recipe {key}", left.get(key), right.get(key))
        for key in dict.fromkeys((*left, *right))
        if left.get(key) != right.get(key)
    ]
    decisive, rest = environment_differences(one.environment, other.environment)
    found[Cause.ENVIRONMENT] += [*decisive, *rest]
    seed = [_against("seed", one.seed, other.seed)] if one.seed != other.seed else []
    order = (Cause.MODEL, Cause.RECIPE, Cause.DATA, Cause.ENVIRONMENT)
    words = [*seed, *(line for cause in order for line in found[cause])]
    return tuple(words), next((cause for cause in order if found[cause]), Cause.ARITHMETIC)


def _against(name: str, one: object, other: object) -> str:
    return f"{name}: {one} against {other}"
