"""Findings: the outcome of one requirement, with its evidence."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


class Status(enum.StrEnum):
    """The outcome of a requirement.

    ``UNKNOWN``: it could not be decided. ``ERROR``: an internal error of the harness, never caused by the model. ``SKIP``: it was
    not checked.
    """

    PASS = "pass"
    FAIL = "fail"
    UNKNOWN = "unknown"
    ERROR = "error"
    SKIP = "skip"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The outcome of one requirement.

    Args:
        requirement: stable name of the requirement, such as ``parameters``.
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
        """The finding as lines of plain text, as a failing test prints it."""
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
    """A percentage rounded down to two decimals, so that a value below a target never prints as the target."""
    hundredths = 10_000 * correct // total
    return f"{hundredths // 100}.{hundredths % 100:02d} %"


# In a summary, an earlier status overrides a later one.
_SEVERITY = (Status.ERROR, Status.FAIL, Status.UNKNOWN, Status.PASS, Status.SKIP)


def overall(findings: Iterable[Finding]) -> Status:
    """The overall status: the first that occurs of error, fail, unknown and pass; skip if all findings are skipped.

    Without findings it is ``SKIP``.
    """
    present = {finding.status for finding in findings}
    return next((status for status in _SEVERITY if status in present), Status.SKIP)
