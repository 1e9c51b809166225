"""The axes of the determinism check, which are the conditions that it varies, and their findings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum

from harness.findings import Finding, Status
from harness.reproducibility.comparison import Difference


class Axis(StrEnum):
    """The conditions that the check varies, in the order of its report."""

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
    Axis.FROZEN: "no random draw frozen into the graph",
    **dict.fromkeys((Axis.WEIGHTS, Axis.ORDER, Axis.AUGMENTATION, Axis.DROPOUT), "different for every seed"),
    Axis.PURE: "the same outputs twice, and all state unchanged",
}


def compared(axis: Axis, difference: Difference | None, *, evidence: Sequence[str] = (), hint: str = "") -> Finding:
    """The finding of an axis on which two trainings should be bit-equal.

    ``evidence`` describes the cause; by default, the one that the first difference suggests.
    """
    if difference is None:
        return finding(axis, Status.PASS, "bit-equal")
    evidence = evidence or (f"the first difference suggests: {difference.cause.value}",)
    if axis in _NOT_GUARANTEED:
        return finding(axis, Status.SKIP, f"{difference.describe()} (not guaranteed)", evidence, hint)
    return finding(axis, Status.FAIL, difference.describe(), evidence, hint)


def not_applicable(axis: Axis, why: str) -> Finding:
    """The finding of an axis that cannot be varied for this model or machine."""
    return finding(axis, Status.SKIP, f"not applicable: {why}")


def finding(axis: Axis, status: Status, observed: str, evidence: Iterable[str] = (), hint: str = "") -> Finding:
    """Build the finding of an axis, including the result expected on it."""
    return Finding(
        requirement=axis.value,
        status=status,
        expected=_EXPECTED.get(axis, "the same bits"),
        observed=observed,
        evidence=tuple(evidence),
        hint=hint,
    )
