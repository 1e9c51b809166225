"""Finding the first step at which two recorded runs differ.

The recorded digests show in which range of steps the runs begin to differ; training this range again, with a trace,
gives the exact step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from harness.reproducibility.comparison import (
    Difference,
    declared_differences,
    first_difference,
    first_differing_digests,
    first_differing_kind,
)
from harness.reproducibility.trace import Trace
from harness.training import INPUTS, STATES, RunRecord

# Trains a recorded run again and returns the trace of the steps `after + 1` to `upto`.
TraceSteps = Callable[[int, int], Trace]


@dataclass(frozen=True, kw_only=True)
class Bisection:
    """The first difference between two runs, if any, and the declared settings in which their records differ.

    ``steps``: the last step with digests in both records; ``agreed``: the last step before the difference at which all
    digests are equal. If not ``exact``, the runs first differ after ``agreed`` and no later than at the step of
    ``difference``. ``figures``: if all digests are equal, a phrase on the first other result that differs, else empty.
    ``notes``: why the result is less precise than requested.
    """

    steps: int
    agreed: int
    exact: bool
    difference: Difference | None
    declared: tuple[str, ...]
    figures: str = ""
    notes: tuple[str, ...] = ()

    @property
    def equal(self) -> bool:
        """Whether all digests and results that both records hold are equal."""
        return self.difference is None and not self.figures

    def describe(self) -> str:
        """Describe the first difference, or that there is none, as a phrase."""
        if self.figures:
            return f"equal digests, but {self.figures}"
        if self.difference is None:
            return f"bit-equal at all steps up to {self.steps} that both records have digests of"
        text = self.difference.describe()
        if not self.exact:
            step = self.difference.step
            text = text.replace(f"at step {step}", f"after step {self.agreed} and by step {step}")
        return f"{text}; likely cause: {self.difference.cause.value}"

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain JSON data."""
        found = self.difference
        size = None if found is None or found.size is None else repr(found.size)
        difference = found and {**dataclasses.asdict(found), "size": size, "cause": found.cause.value}
        lists = {"declared": list(self.declared), "notes": list(self.notes)}
        return {**dataclasses.asdict(self), "difference": difference, **lists}


def bisect(one: RunRecord, other: RunRecord, *, trace_steps: tuple[TraceSteps, TraceSteps] | None = None) -> Bisection:
    """Find the first difference between two runs.

    ``trace_steps`` holds a function for each run that trains the run again; without these, the recorded digests alone
    give the result.
    """
    common = {digests.step for digests in one.digests} & {digests.step for digests in other.digests}
    declared, unexplained = declared_differences(one, other)
    found = first_differing_digests(one.digests, other.digests, unexplained=unexplained)
    if found is None:
        last = max(common)
        figures = _first_differing_figure(one, other)
        return Bisection(steps=last, agreed=last, difference=None, exact=True, declared=declared, figures=figures)
    agreed, difference = found
    exact = difference.step - agreed <= 1
    notes: list[str] = []
    if trace_steps:
        upto = max(difference.step, 1)
        first, second = (trace(agreed, upto) for trace in trace_steps)
        notes = [
            f"trained again, the {name} run differs from its own record by step {upto}: the cause of that difference is "
            "not recorded"
            for name, trace, record in (("first", first, one), ("second", second, other))
            if not _agrees_with_record(trace, record)
        ]
        if not notes:
            difference, exact = first_difference(first, second, unexplained=unexplained) or difference, True
    return Bisection(
        steps=max(common), agreed=agreed, difference=difference, exact=exact, declared=declared, notes=tuple(notes)
    )


def _first_differing_figure(one: RunRecord, other: RunRecord) -> str:
    """Describe the first result of an epoch that differs between two records, apart from wall time.

    If there is none, compare the digest of the final state; the description is empty if this is equal, too.
    """
    for left, right in zip(one.epochs, other.epochs, strict=False):
        for name, value in dataclasses.asdict(left).items():
            if name != "seconds" and value != getattr(right, name):
                return f"{name} of epoch {left.epoch}: {value} -> {getattr(right, name)}"
    if len(one.epochs) == len(other.epochs) and one.state_digest != other.state_digest:
        return f"state_digest: {one.state_digest[:16]} -> {other.state_digest[:16]}"
    return ""


def _agrees_with_record(trace: Trace, record: RunRecord) -> bool:
    """Return whether a trace and a record have equal digests at all steps for which both have digests."""
    inputs = {step.number: step.start for step in trace}
    states = {step.number: step.end for step in trace}
    if trace[0].number == 1:
        # Before a later step, the state may differ from that after the previous step, which the record describes.
        states[0] = trace[0].start
    return all(
        first_differing_kind(digests, traced.get(digests.step, digests), kinds) is None
        for digests in record.digests
        for traced, kinds in ((inputs, INPUTS), (states, STATES))
    )
