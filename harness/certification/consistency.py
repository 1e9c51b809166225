"""The accuracy rule of a contract: a run must reach a target accuracy in each of its last epochs, or in its best epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any, Literal, Self

from harness.errors import ContractError, InputError
from harness.findings import Finding, Status, percent
from harness.tables import Range, read_table, require_ranges
from harness.training import EpochResult, Recipe, RunRecord


@dataclass(frozen=True, kw_only=True)
class ConsistencyRule:
    """The accuracy rule of a contract: how accurate a run must be, and in which epochs. The contract's ``[accuracy]`` section.

    Args:
        target: percent of the test images that must be predicted correctly, at least 1 and at most 100, as an exact
            decimal number.
        rule: ``last``: the target must be reached in each of the last epochs; ``best``: in the best epoch.
        last: the number of last epochs for the rule ``last``; None with the rule ``best``.
        max_epochs: the largest number of epochs that the recipe may declare.

    Raises:
        ContractError: a value is out of range, or ``last`` is given with the rule ``best`` or not given with the rule
            ``last``.
    """

    target: Annotated[Decimal, Range(above=0, most=100)]
    rule: Literal["last", "best"]
    last: int | None = None
    max_epochs: Annotated[int, Range(least=1)]

    def __post_init__(self) -> None:
        require_ranges(self, ContractError)
        if self.target < 1:
            raise ContractError(
                f"expected target in percent of the test images, at least 1, got target={self.target}. Did you mean target="
                f"{(100 * self.target).normalize():f}?"
            )
        if self.rule == "best" and self.last is not None:
            raise ContractError(
                f"expected rule='best' without the key 'last', because the rule counts only the best epoch, got "
                f"last={self.last}. Remove the key 'last'."
            )
        if self.rule == "last" and (self.last is None or not 1 <= self.last <= self.max_epochs):
            raise ContractError(
                f"expected the key 'last' to be from 1 to max_epochs={self.max_epochs} with rule='last', got last={self.last}. "
                "Set the key 'last' to the number of last epochs that the rule counts."
            )

    @classmethod
    def from_table(cls, table: Mapping[str, Any], *, where: str = "[accuracy]") -> Self:
        """Read the section ``[accuracy]`` from a parsed TOML table; the target 99.4 is read as exactly 99.4, not as a float.

        Raises:
            ContractError: the table has an unknown key or lacks a key, or a value has the wrong type or is out of
                range. The message begins with ``where``.
        """
        return read_table(cls, table, where=where, error=ContractError)

    def required(self, total: int) -> int:
        """Return how many of ``total`` predictions must be correct to reach the target: 9,940 of 10,000 for 99.4 percent."""
        return math.ceil(Fraction(self.target) * total / 100)

    def judge(self, record: RunRecord) -> tuple[Finding, Finding]:
        """Judge a run by the rule; return two findings, for the requirements ``epochs`` and ``accuracy``.

        A run that did not complete all epochs of its recipe fails ``epochs``. With the rule ``best``, such a run passes
        ``accuracy`` if one of the completed epochs reached the target. Otherwise ``accuracy`` is ``unknown`` for an
        interrupted run and fails for a diverged run.

        Raises:
            InputError: the run was tested on training images (``--validation``), to which the rule does not apply.
        """
        require_test_images(record)
        return self._judge_epochs(record), self._judge_accuracy(record)

    def judge_recipe(self, recipe: Recipe) -> tuple[Finding, ...]:
        """Judge a recipe before the training: findings as those of `judge`, if no run of it can pass; empty otherwise."""
        counted = self.last or 1
        if counted <= recipe.epochs <= self.max_epochs:
            return ()
        epochs, accuracy = self.skipped("not trained: no run of the recipe can meet the rule")
        return (
            replace(
                epochs,
                status=Status.FAIL,
                expected=f"a recipe of {counted} to {self.max_epochs} epochs",
                observed=f"{recipe.epochs} epochs declared by the recipe {recipe.name}",
                hint=f"Choose a recipe of {counted} to {self.max_epochs} epochs.",
            ),
            accuracy,
        )

    def counted(self, correct: Sequence[int]) -> tuple[int, ...]:
        """Select the epochs to which the rule applies, given a complete run's numbers of correct predictions after each epoch."""
        return (max(correct),) if self.last is None else tuple(correct[-self.last :])

    def skipped(self, reason: str) -> tuple[Finding, Finding]:
        """Return the findings ``epochs`` and ``accuracy`` with the status skip; ``reason`` says why the rule was not checked."""
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
            status, hint = Status.FAIL, "Let the learning rate decay before the epochs that the rule counts."
        return Finding(
            requirement="accuracy",
            status=status,
            expected=self._accuracy_expected,
            observed=observed,
            evidence=evidence,
            hint=hint,
        )

    def _missing(self, record: RunRecord) -> str:
        """Describe which of the epochs that the rule counts are missing from the record; empty if none is missing."""
        completed = len(record.epochs)
        if completed == 0:
            return "no epoch was completed"
        if self.last is not None and record.status != "complete":
            whole = f"{completed} of {record.recipe.epochs} epochs"
            return f"{record.status} after {whole}, so the last {self.last} epochs are not complete"
        if self.last is not None and completed < self.last:
            return f"the run has {completed} epochs, fewer than the last {self.last} that the rule counts"
        return ""


def _correct(result: EpochResult) -> int:
    return result.test_correct


def _score(result: EpochResult) -> str:
    share = percent(result.test_correct, result.test_total)
    return f"epoch {result.epoch}: {result.test_correct:,} of {result.test_total:,} ({share})"


def require_test_images(record: RunRecord) -> None:
    """Refuse a run that was tested on training images.

    Raises:
        InputError: the run was trained with ``--validation``.
    """
    if record.validation:
        raise InputError(
            f"expected a run tested on the test images of {record.data_name}, got a run with validation={record.validation}, "
            f"which was tested on {record.validation} training images. Train again without --validation."
        )
