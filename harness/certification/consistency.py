"""The consistency rule: the target must be reached in each of the last epochs, compared as counts of images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any, Literal, Self

from harness.errors import ContractError, InputError
from harness.findings import Finding, Status, percent
from harness.tables import Range, read_table, require_ranges
from harness.training import EpochResult, RunRecord


@dataclass(frozen=True, kw_only=True)
class ConsistencyRule:
    """How accurate a run must be, and when. The ``[accuracy]`` section of a contract.

    Args:
        target: percent of the test images that must be predicted correctly, above 0 and at most 100; exact, as written.
        rule: ``last``: the target must be reached in each of the last epochs; ``best``: in the best epoch.
        last: the number of last epochs for the rule ``last``; None with ``best``.
        max_epochs: the largest number of epochs that the recipe may declare.

    Raises:
        ContractError: a value out of range, or ``last`` with the wrong rule.
    """

    target: Annotated[Decimal, Range(above=0, most=100)]
    rule: Literal["last", "best"]
    last: int | None = None
    max_epochs: Annotated[int, Range(least=1)]

    def __post_init__(self) -> None:
        require_ranges(self, ContractError)
        if self.rule == "best" and self.last is not None:
            raise ContractError(
                f"expected rule='best' without the key 'last', since it looks at one epoch only, got last={self.last}. Remove it."
            )
        if self.rule == "last" and (self.last is None or not 1 <= self.last <= self.max_epochs):
            raise ContractError(
                f"expected last from 1 to max_epochs={self.max_epochs} with rule='last', got last={self.last}."
            )

    @classmethod
    def from_table(cls, table: Mapping[str, Any], *, where: str = "[accuracy]") -> Self:
        """Read the section from a parsed TOML table; the target keeps its decimal value: 99.4 is exactly 99.4.

        Raises:
            ContractError: an unknown key (with the nearest known one), a missing one, a wrong type or a value out of range.
                The message begins with ``where``.
        """
        return read_table(cls, table, where=where, error=ContractError)

    def required(self, total: int) -> int:
        """The fewest correct predictions of ``total`` that reach the target: 9,940 of 10,000 for 99.4 percent."""
        return math.ceil(Fraction(self.target) * total / 100)

    def judge(self, record: RunRecord) -> tuple[Finding, Finding]:
        """Two findings about one run, ``epochs`` and ``accuracy``.

        A run that did not complete the epochs that its recipe declares fails ``epochs``. Its ``accuracy`` is judged on
        the completed epochs if they suffice: with rule ``best`` it can pass; with rule ``last`` it is ``unknown`` if
        the run was interrupted.

        Raises:
            InputError: the run was tested on training images, so its accuracy is not that of the rule.
        """
        if record.validation:
            raise InputError(
                f"expected a run tested on the test images of {record.data_name}, got validation={record.validation}, a run that "
                "was tested on training images, to choose between models. Train without --validation."
            )
        return self._judge_epochs(record), self._judge_accuracy(record)

    def counted(self, correct: Sequence[int]) -> tuple[int, ...]:
        """Select the epochs that the rule looks at from a complete run's correct predictions per epoch."""
        return (max(correct),) if self.last is None else tuple(correct[-self.last :])

    def skipped(self, reason: str) -> tuple[Finding, Finding]:
        """The same two findings, skipped, for a command that does not train; ``reason`` is what they observed."""
        return (
            Finding(requirement="epochs", status=Status.SKIP, expected=self._epochs_expected, observed=reason),
            Finding(requirement="accuracy", status=Status.SKIP, expected=self._accuracy_expected, observed=reason),
        )

    @property
    def _epochs_expected(self) -> str:
        return f"at most {self.max_epochs} epochs declared, and all of them completed"

    @property
    def _accuracy_expected(self) -> str:
        when = "the best epoch" if self.rule == "best" else f"each of the last {self.last} epochs"
        return f"at least {self.target} % of the test images correct in {when}"

    def _judge_epochs(self, record: RunRecord) -> Finding:
        declared, completed = record.recipe.epochs, len(record.epochs)
        faults, hints = [], []
        if declared > self.max_epochs:
            faults.append(f"{declared} epochs declared, {declared - self.max_epochs} too many")
            hints.append(f"Train with a recipe of at most {self.max_epochs} epochs.")
        if record.status == "interrupted":
            faults.append(f"interrupted after {completed} of {declared} epochs")
            hints.append("Resume the run.")
        if record.status == "diverged":
            faults.append(f"diverged at epoch {completed + 1} of {declared}: the loss was not finite")
            hints.append("Lower the learning rate.")
        return Finding(
            requirement="epochs",
            status=Status.FAIL if faults else Status.PASS,
            expected=self._epochs_expected,
            observed="; ".join(faults) or f"{declared} epochs declared and completed",
            evidence=(f"recipe {record.recipe.name}, seed {record.seed}, on {record.device}, {record.data_title}",),
            hint=" ".join(hints),
        )

    def _judge_accuracy(self, record: RunRecord) -> Finding:
        missing = self._missing(record)
        reached, observed = False, missing
        evidence: tuple[str, ...] = ()
        if record.epochs:
            best = max(record.epochs, key=_correct)
            counted = (best,) if self.last is None else record.epochs[-self.last :]
            lowest = min(counted, key=_correct)
            required = self.required(lowest.test_total)
            margin = lowest.test_correct - required
            reached = margin >= 0 and not missing
            observed = (
                missing or f"{_score(lowest)}, {abs(margin):,} {'above' if margin >= 0 else 'below'} the required count"
            )
            evidence = (
                f"required: {required:,} of {lowest.test_total:,}",
                f"best: {_score(best)}",
                f"last: {_score(record.epochs[-1])}",
                *(f"counted: {_score(result)}" for result in counted),
            )
        if reached:
            status, hint = Status.PASS, ""
        elif record.status == "interrupted":
            status, hint = Status.UNKNOWN, "Resume the run."
        else:
            status, hint = Status.FAIL, "Let the learning rate decay before the epochs that count."
        return Finding(
            requirement="accuracy",
            status=status,
            expected=self._accuracy_expected,
            observed=observed,
            evidence=evidence,
            hint=hint,
        )

    def _missing(self, record: RunRecord) -> str:
        """Describe which of the epochs that count are missing from the record; empty if none is."""
        completed = len(record.epochs)
        if completed == 0:
            return "no epoch was completed"
        if self.last is not None and record.status != "complete":
            whole = f"{completed} of {record.recipe.epochs} epochs"
            return f"{record.status} after {whole}, so the last {self.last} are missing"
        if self.last is not None and completed < self.last:
            return f"the run has {completed} epochs, fewer than the {self.last} that count"
        return ""


def _correct(result: EpochResult) -> int:
    return result.test_correct


def _score(result: EpochResult) -> str:
    share = percent(result.test_correct, result.test_total)
    return f"epoch {result.epoch}: {result.test_correct:,} of {result.test_total:,} ({share})"
