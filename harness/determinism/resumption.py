"""The axis that stops a training after an epoch and resumes it from the checkpoint, as a new process would."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.determinism.attribution import GLOBALS, NondeterminismSource, attribute
from harness.determinism.axes import Axis, compared, finding, not_applicable
from harness.determinism.model_under_test import ModelUnderTest
from harness.determinism.snapshot import RANDOM_STATES, TORCH_RANDOM, StateSnapshot
from harness.errors import HarnessError
from harness.findings import Finding, Status
from harness.reproducibility.comparison import Difference, first_difference
from harness.reproducibility.trace import Trace, Tracer
from harness.training import EpochResult, NullObserver, TrainingInterrupted


class _StopAfter(NullObserver):
    """Stops the training after an epoch, as Ctrl-C would."""

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch

    def on_epoch(self, result: EpochResult) -> None:  # type: ignore[override] # NullObserver accepts any arguments
        if result.epoch == self._epoch:
            raise KeyboardInterrupt


def resume(model: ModelUnderTest, reference: Trace) -> Finding:
    """Stop the training and resume it; if it differs, find the state that the checkpoint lacks."""
    original = model.imported
    try:
        return _resume(model, reference)
    finally:
        # The values that the files drew when they were imported are those of the reference training again.
        model.imported = original


def _resume(model: ModelUnderTest, reference: Trace) -> Finding:
    try:
        first = _stop_and_resume(model)
    except HarnessError:
        raise
    except Exception as error:  # noqa: BLE001 - a module's own load_state_dict may raise anything
        words = f"cannot be resumed: {type(error).__name__}: {error}"
        return finding(Axis.RESUME, Status.FAIL, words, hint="Let load_state_dict accept what state_dict returns.")
    difference = first_difference(reference, first.trace)
    if difference is None:
        return compared(Axis.RESUME, None)
    upto = difference.step
    model.reimport()
    if first_difference(reference[:upto], model.trace(upto=upto)) is not None:
        return not_applicable(Axis.RESUME, "the training differs when its files are imported again, stopped or not")
    sources = [*map(_lost_state, first.lost), GLOBALS]

    def again(released: frozenset[str]) -> Difference | None:
        kept = [source.name for source in sources if source.name not in released]
        model.reimport()
        return first_difference(reference[:upto], _stop_and_resume(model, kept, upto=upto).trace)

    found = attribute(sources, again)
    return compared(Axis.RESUME, difference, evidence=found.evidence, hint=found.hint)


@dataclass(frozen=True, kw_only=True)
class _Resumed:
    """A training that was stopped and resumed.

    Args:
        trace: all its steps, before the stop and after it.
        lost: names of the state that is neither in the checkpoint nor the same in a new module and a new process.
    """

    trace: Trace
    lost: tuple[str, ...]


def _stop_and_resume(model: ModelUnderTest, kept: Sequence[str] = (), *, upto: int | None = None) -> _Resumed:
    """Train up to a stop, and resume as a new process would, with the state of the names ``kept`` carried over."""
    with tempfile.TemporaryDirectory(prefix="harness-determinism-") as name:
        module, tracer = model.module(), Tracer(model.device)
        stop = _StopAfter((model.spec.recipe.epochs + 1) // 2)
        with suppress(TrainingInterrupted):
            model.trace(module, tracer=tracer, observer=stop, folder=Path(name))
        stopped = StateSnapshot(module, model.device)
        if GLOBALS.name not in kept:
            model.reimport()
        random.seed()
        np.random.seed()  # noqa: NPY002 - the legacy global generator is the one that others may share
        again = model.module()
        changed = stopped.changed(StateSnapshot(again, model.device))
        in_checkpoint = module.state_dict()
        lost = (name for name in changed if name != TORCH_RANDOM and name.partition(" ")[2] not in in_checkpoint)
        stopped.restore(again, kept)
        trace = model.trace(again, tracer=tracer, folder=Path(name), upto=upto)
        return _Resumed(trace=trace, lost=tuple(lost))


def _lost_state(name: str) -> NondeterminismSource:
    if name in RANDOM_STATES:
        words = f"continues with {name}, which no checkpoint holds"
        hint = "Draw with torch, whose state a checkpoint holds."
    else:
        words = f"keeps state outside its state_dict, in its {name}, which no checkpoint holds"
        hint = "Register state that has to survive as a buffer (register_buffer)."
    return NondeterminismSource(name=name, words=words, hint=hint)
