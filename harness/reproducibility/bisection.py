"""Where two recorded runs part: by their digests to a stretch of steps, by training that stretch again to the step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harness.reproducibility.comparison import Difference, first_difference, first_differing_digests
from harness.reproducibility.rerun import Retrace, declared_differences
from harness.reproducibility.trace import Trace, same_inputs, same_state
from harness.training import RunRecord


@dataclass(frozen=True, kw_only=True)
class Bisection:
    """Where two runs part.

    Args:
        steps: the last step that both have digests of.
        agreed: the last step at which all digests agree.
        difference: the first difference; None if there is none.
        exact: whether its step is exact; if not, the runs part after ``agreed`` and at the latest there.
        declared: what the records declare differently.
        notes: what was found out, or could not be, on the way.
    """

    steps: int
    agreed: int
    difference: Difference | None
    exact: bool
    declared: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def words(self) -> str:
        """The result in a sentence."""
        if self.difference is None:
            return f"bit-equal at all steps up to {self.steps} that both records have digests of"
        words = self.difference.words()
        if not self.exact:
            step = self.difference.step
            words = words.replace(f"at step {step}", f"after step {self.agreed} and by step {step}")
        return f"{words}; likely cause: {self.difference.cause.value}"

    def to_json(self) -> dict[str, Any]:
        """The result as plain JSON data."""
        found = self.difference
        return {
            "steps": self.steps,
            "agreed": self.agreed,
            "exact": self.exact,
            "difference": found
            and {
                "step": found.step,
                "kind": found.kind,
                "between_steps": found.between_steps,
                "tensor": found.tensor,
                "size": None if found.size is None else repr(found.size),
                "cause": found.cause.value,
                "detail": found.detail,
            },
            "declared": list(self.declared),
            "notes": list(self.notes),
        }


def bisect(
    one: RunRecord, other: RunRecord, *, retrace_one: Retrace | None = None, retrace_other: Retrace | None = None
) -> Bisection:
    """Find the first difference of two runs.

    Args:
        one: a run's record.
        other: another's.
        retrace_one: does a stretch of the first one's training again; without both the step and the tensor are known
            only as far as the digests on record tell.
        retrace_other: likewise for the other.
    """
    common = {digests.step for digests in one.digests} & {digests.step for digests in other.digests}
    declared, unexplained = declared_differences(one, other)
    found = first_differing_digests(one.digests, other.digests, unexplained=unexplained)
    if found is None:
        last = max(common)
        return Bisection(steps=last, agreed=last, difference=None, exact=True, declared=declared)
    agreed, difference = found
    exact = difference.step - agreed <= 1
    notes: list[str] = []
    if retrace_one and retrace_other:
        upto = max(difference.step, 1)
        traces = retrace_one(agreed, upto), retrace_other(agreed, upto)
        notes = [
            f"trained again, the {name} run takes another course than its record by step {upto}: what made the difference is "
            "not in the record"
            for name, trace, record in zip(("first", "second"), traces, (one, other), strict=True)
            if not _reproduces(trace, record)
        ]
        if not notes:
            difference, exact = first_difference(*traces, unexplained=unexplained) or difference, True
    return Bisection(
        steps=max(common), agreed=agreed, difference=difference, exact=exact, declared=declared, notes=tuple(notes)
    )


def _reproduces(trace: Trace, record: RunRecord) -> bool:
    """Whether a trace agrees with the record's digests wherever both have some."""
    inputs = {step.number: step.start for step in trace}
    states = {step.number: step.end for step in trace}
    if trace[0].number == 1:
        # Ahead of a later step the state may have changed since the one before was digested.
        states[0] = trace[0].start
    return all(
        same_inputs(digests, inputs.get(digests.step, digests))
        and same_state(digests, states.get(digests.step, digests))
        for digests in record.digests
    )
