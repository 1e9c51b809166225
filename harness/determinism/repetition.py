"""The axes that repeat a training in the same process: unchanged, on one thread, and with other algorithms."""

from __future__ import annotations

import torch

from harness.determinism.attribution import SOURCES, attribute
from harness.determinism.axes import Axis, compared, not_applicable
from harness.determinism.interventions import Interventions, deterministic_algorithms
from harness.determinism.model_under_test import ModelUnderTest
from harness.findings import Finding
from harness.graph import computing_threads
from harness.reproducibility.comparison import Difference, first_difference
from harness.reproducibility.trace import Trace

# The cause is looked for in trainings of this many steps, or of as many as it took to differ.
_MIN_ATTRIBUTION_STEPS = 10


def repeat(model: ModelUnderTest, reference: Trace, interventions: Interventions) -> Finding:
    """Repeat the training; if it differs, find the causes."""
    difference = first_difference(reference, model.trace())
    if difference is None:
        return compared(Axis.REPEAT, None)
    upto = attribution_steps(difference, model.steps)

    def twice(released: frozenset[str]) -> Difference | None:
        return first_difference(*(pinned_trace(model, interventions, released, upto) for _ in range(2)))

    found = attribute(SOURCES, twice)
    model.reimport()
    evidence = (*found.evidence, *found.locations(interventions.callers))
    return compared(Axis.REPEAT, difference, evidence=evidence, hint=found.hint)


def attribution_steps(difference: Difference, steps: int) -> int:
    """How many steps of a training to repeat for each source of nondeterminism.

    Args:
        difference: the difference to explain.
        steps: steps of the whole training.
    """
    return min(max(difference.step, _MIN_ATTRIBUTION_STEPS), steps)


def pinned_trace(model: ModelUnderTest, interventions: Interventions, released: frozenset[str], upto: int) -> Trace:
    """Train for ``upto`` steps with all sources of nondeterminism pinned except the released ones."""
    with interventions.pinned(released, reimport=model.reimport):
        return model.trace(upto=upto)


def one_thread(model: ModelUnderTest, reference: Trace) -> Finding:
    """Train on one thread, if the process uses several."""
    if model.device.type != "cpu":
        return not_applicable(Axis.THREADS, f"the arithmetic is done on {model.device}")
    if torch.get_num_threads() == 1:
        return not_applicable(Axis.THREADS, "torch computes on one thread here")
    with computing_threads(1):
        return compared(Axis.THREADS, first_difference(reference, model.trace()))


def other_algorithms(model: ModelUnderTest, reference: Trace) -> Finding:
    """Train with torch's deterministic algorithms on if they were off, and off if they were on."""
    try:
        with deterministic_algorithms(on=not torch.are_deterministic_algorithms_enabled()):
            return compared(Axis.DETERMINISTIC, first_difference(reference, model.trace()))
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        refused = str(error).partition(". ")[0]
        return not_applicable(Axis.DETERMINISTIC, f"torch refuses an operation: {refused}")
