"""The axes of the determinism check, which are the conditions that the check varies, and the findings on them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum

from harness.findings import Finding, Status
from harness.reproducibility.comparison import Difference


class Axis(StrEnum):
    """The conditions that the determinism check varies, in the order of the report."""

    REPEAT = "repeat in the process"
    FRESH = "fresh process"
    HASH = "other PYTHONHASHSEED"
    THREADS = "one thread against all"
    EVALUATION = "evaluation in between or not"
    RESUME = "stop and resume from a checkpoint"
    GRAPH = "original module against rebuilt graph"
    FROZEN = "captured graph draws anew"
    DETERMINISTIC = "deterministic algorithms on or off"
    WEIGHTS = "another seed: initial weights"
    ORDER = "another seed: order of images"
    AUGMENTATION = "another seed: augmentation"
    DROPOUT = "another seed: dropout stream"
    PURE = "evaluation alone is pure"


# No platform guarantees equal bits on these axes: a difference is reported with its size and is not a failure.
_NOT_GUARANTEED = (Axis.THREADS, Axis.DETERMINISTIC)
_EXPECTED = {
    Axis.THREADS: "the same bits, or a difference in rounding",
    Axis.DETERMINISTIC: "the same bits, or a difference in rounding",
    Axis.FROZEN: "no random number stored as a constant in the graph",
    **dict.fromkeys((Axis.WEIGHTS, Axis.ORDER, Axis.AUGMENTATION, Axis.DROPOUT), "different for every seed"),
    Axis.PURE: "the same outputs twice, and all state unchanged",
}


def compared(axis: Axis, difference: Difference | None, *, evidence: Sequence[str] = (), hint: str = "") -> Finding:
    """Build the finding on an axis for which two trainings should be bit-equal.

    ``difference`` is the first difference between the two trainings, or None. ``evidence`` describes the cause of the
    difference; by default, it names the likely cause. ``hint`` says how to remove the cause.
    """
    if difference is None:
        return finding(axis, Status.PASS, "bit-equal")
    evidence = evidence or (f"likely cause, derived from the first difference: {difference.cause.value}",)
    if axis in _NOT_GUARANTEED:
        return finding(axis, Status.SKIP, f"{difference.describe()} (not guaranteed)", evidence, hint)
    return finding(axis, Status.FAIL, difference.describe(), evidence, hint)


def not_applicable(axis: Axis, why: str) -> Finding:
    """Build a skipped finding on an axis that cannot be varied for this model or on this machine.

    ``why`` is the reason.
    """
    return finding(axis, Status.SKIP, f"not applicable: {why}")


def finding(axis: Axis, status: Status, observed: str, evidence: Iterable[str] = (), hint: str = "") -> Finding:
    """Build the finding on an axis with a given status and observation; the expected result depends on the axis only."""
    return Finding(
        requirement=axis.value,
        status=status,
        expected=_EXPECTED.get(axis, "the same bits"),
        observed=observed,
        evidence=tuple(evidence),
        hint=hint,
    )
