"""The vocabulary of verdicts: a finding is one requirement's outcome, with its evidence."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


class Status(enum.StrEnum):
    """What came of a requirement.

    ``UNKNOWN`` means that it could not be shown either way; ``ERROR`` is the examiner's own fault, never the model's;
    ``SKIP`` means that it was not asked here.
    """

    PASS = "pass"
    FAIL = "fail"
    UNKNOWN = "unknown"
    ERROR = "error"
    SKIP = "skip"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One requirement's outcome.

    Args:
        requirement: stable name of the requirement, such as ``parameters``.
        status: the outcome.
        expected: what the contract asks, in words.
        observed: what is the case, in words.
        evidence: lines that let a reader check it, most important first.
        hint: what to do about it; empty when nothing needs doing.
    """

    requirement: str
    status: Status
    expected: str
    observed: str
    evidence: tuple[str, ...] = ()
    hint: str = ""

    def to_json(self) -> dict[str, Any]:
        """The finding as plain JSON data."""
        return {
            "requirement": self.requirement,
            "status": self.status.value,
            "expected": self.expected,
            "observed": self.observed,
            "evidence": list(self.evidence),
            "hint": self.hint,
        }

    def describe(self) -> str:
        """The finding as a few lines of plain text, as a failing test prints it."""
        lines = [
            f"{self.requirement}: {self.status.value}",
            f"  expected: {self.expected}",
            f"  observed: {self.observed}",
            *(f"  evidence: {line}" for line in self.evidence),
        ]
        if self.hint:
            lines.append(f"  hint: {self.hint}")
        return "\n".join(lines)


# The order in which one outcome overrides another in a summary; the examiner's own failure comes before any verdict.
_SEVERITY = (Status.ERROR, Status.FAIL, Status.UNKNOWN, Status.PASS, Status.SKIP)


def overall(findings: Iterable[Finding]) -> Status:
    """The status of several findings together: error, fail, unknown, pass, in this order; skip only if all are skipped.

    No findings at all is ``SKIP``: nothing was asked.
    """
    present = {finding.status for finding in findings}
    return next((status for status in _SEVERITY if status in present), Status.SKIP)
