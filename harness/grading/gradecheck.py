"""Test of an assignment with stock submissions: mutants and cheats must lose points, honest solutions must lose none."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from torch import nn

from harness.contracts.requirements import ParameterBudget
from harness.errors import InputError
from harness.files import temporary_folder
from harness.findings import Status
from harness.grading.assignment import Assignment
from harness.grading.examiner import Grader, grade
from harness.grading.stock import networks
from harness.grading.verdict import Verdict
from harness.sandbox import warm_workers
from harness.tables import refuse_unknown

Kind = Literal["honest", "mutant", "cheat"]
# A class that never ends needs no more.
_SECONDS_TO_END = 5.0


@dataclass(frozen=True, kw_only=True)
class StockResult:
    """How a stock submission was graded.

    ``problem`` says what is wrong with the assignment, such as that a mutant gets all points; empty if nothing is.
    """

    name: str
    kind: Kind
    description: str
    verdict: Verdict
    problem: str

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the requirements that failed."""
        return tuple(one.finding.requirement for one in self.verdict.requirements if one.finding.status is Status.FAIL)


def gradecheck(grader: Grader, on_result: Callable[[StockResult], None] = lambda _: None) -> tuple[StockResult, ...]:
    """Grade all stock submissions by an assignment, and compare their points with those of the plain honest solution.

    ``on_result`` is called with each result as soon as it is there.

    Raises:
        InputError: ``accepts`` of the assignment names no stock submission.
    """
    found: list[StockResult] = []
    kinds = {cls.__name__: kind for kind, classes in _stock(trained=True) for cls in classes}
    refuse_unknown(grader.assignment.accepts, kinds, where="accepts", error=InputError)
    with temporary_folder("gradecheck") as folder, warm_workers():
        parameters, best = 0, 0
        for kind, classes in _stock(trained=grader.data is not None):
            for cls in classes:
                verdict = _graded(cls, grader, folder, parameters)
                if not found:
                    best, parameters = verdict.score, verdict.model.parameters if verdict.model else 0
                found.append(
                    StockResult(
                        name=cls.__name__,
                        kind=kind,
                        description=(cls.__doc__ or "").strip(),
                        verdict=verdict,
                        problem=_problem(cls.__name__, kind, verdict, best, grader.assignment),
                    )
                )
                on_result(found[-1])
    return tuple(found)


def _stock(*, trained: bool) -> Iterator[tuple[Kind, tuple[type[nn.Module], ...]]]:
    yield "honest", networks.HONEST
    yield "mutant", networks.MUTANTS
    yield "cheat", networks.CHEATS
    if trained:
        yield "cheat", networks.TRAINED_CHEATS


def _graded(cls: type[nn.Module], grader: Grader, folder: Path, parameters: int) -> Verdict:
    """Grade a stock class as a submission of one file; ``parameters`` is the number that the plain solution has."""
    limit = _limit(grader.assignment)
    extra = {"AtLimit": limit - parameters, "AboveLimit": limit + 1 - parameters}.get(cls.__name__, 0)
    text = Path(networks.__file__).read_text("utf-8")
    file = folder / "networks.py"
    file.write_text(re.sub(r"^EXTRA = 0$", f"EXTRA = {max(extra, 0)}", text, flags=re.MULTILINE), "utf-8")
    assignment = replace(grader.assignment, file=file.name, class_name=cls.__name__)
    if cls is networks.NeverReady:
        assignment = replace(assignment, load_seconds=_SECONDS_TO_END)
    return grade(file, replace(grader, assignment=assignment), name=cls.__name__)


def _limit(assignment: Assignment) -> int:
    """The number of parameters that the contract names as its upper limit, inclusive or not; 0 if it names none."""
    budget = assignment.contract.find(ParameterBudget)
    return (budget.below or budget.max or 0) if budget else 0


def _problem(name: str, kind: Kind, verdict: Verdict, best: int, assignment: Assignment) -> str:
    if any(one.finding.status is Status.ERROR for one in verdict.requirements):
        return "the examiner failed"
    accepted = kind == "honest" or name in assignment.accepts
    failed = [one.finding for one in verdict.requirements if one.finding.status is Status.FAIL]
    if accepted and (failed or verdict.score < best):
        reasons = "; ".join(f"{finding.requirement}: {finding.observed}" for finding in failed)
        return f"gets {verdict.score} points, {best} are expected: {reasons}"
    if accepted or verdict.score < best:
        return ""
    costless = f", although {', '.join(finding.requirement for finding in failed)} failed" if failed else ""
    return f"gets all {best} points{costless}"
