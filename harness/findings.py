"""Findings: each finding is the outcome of one requirement, with evidence."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


class Status(enum.StrEnum):
    """The outcome of a requirement.

    ``PASS``: the requirement is met. ``FAIL``: the requirement is not met. ``UNKNOWN``: the outcome could not be
    decided. ``ERROR``: an internal error of the harness, not caused by the model. ``SKIP``: the requirement was not
    checked.
    """

    PASS = "pass"
    FAIL = "fail"
    UNKNOWN = "unknown"
    ERROR = "error"
    SKIP = "skip"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The outcome of one requirement, with expectation, observation and evidence.

    Args:
        requirement: name of the requirement, such as ``parameters``, which is the same in all versions.
        status: the outcome.
        expected: what the contract requires.
        observed: what was found.
        evidence: facts by which a reader can check the outcome, most important first.
        hint: what to do; empty if there is nothing to do.
    """

    requirement: str
    status: Status
    expected: str
    observed: str
    evidence: tuple[str, ...] = ()
    hint: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the finding as plain JSON data."""
        return {
            "requirement": self.requirement,
            "status": self.status.value,
            "expected": self.expected,
            "observed": self.observed,
            "evidence": list(self.evidence),
            "hint": self.hint,
        }

    def describe(self) -> str:
        """Return the finding as lines of plain text, as a failing test prints them."""
        lines = [
            f"{self.requirement}: {self.status.value}",
            f"  expected: {self.expected}",
            f"  observed: {self.observed}",
            *(f"  evidence: {line}" for line in self.evidence),
        ]
        if self.hint:
            lines.append(f"  hint: {self.hint}")
        return "\n".join(lines)


def percent(correct: int, total: int) -> str:
    """Format ``correct`` of ``total`` as a percentage, rounded down to two decimals: 99.399 % is printed as 99.39 %."""
    hundredths = 10_000 * correct // total
    return f"{hundredths // 100}.{hundredths % 100:02d} %"


# In a summary, an earlier status overrides a later one.
_SEVERITY = (Status.ERROR, Status.FAIL, Status.UNKNOWN, Status.PASS, Status.SKIP)


def overall(findings: Iterable[Finding]) -> Status:
    """Return the overall status: the first of error, fail, unknown and pass that a finding has; otherwise skip.

    If there are no findings, the overall status is ``SKIP``.
    """
    present = {finding.status for finding in findings}
    return next((status for status in _SEVERITY if status in present), Status.SKIP)
