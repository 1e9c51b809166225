"""`harness gradecheck`: tests an assignment with stock submissions before it is published."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from harness.cli.console import Output, announce
from harness.cli.inputs import contract_on, dataset_for
from harness.cli.options import debug_option
from harness.datasets import DIGITS

if TYPE_CHECKING:
    from harness.grading.gradecheck import StockResult


@click.command()
@click.argument("assignment_name", metavar="ASSIGNMENT")
@click.option("--train", is_flag=True, help="Train each stock submission on the embedded digits, which takes minutes.")
@debug_option
def gradecheck(assignment_name: str, *, train: bool) -> int:
    """Test an assignment with stock submissions.

    ASSIGNMENT is a built-in name or a TOML file. Cheats, and mutants that each lack one requirement, must get fewer points
    than a correct solution; correct solutions in several equivalent implementations must get all. Those that get the
    wrong points are printed, and the exit code is 1.
    """
    from harness.grading import Grader, load_assignment
    from harness.grading.gradecheck import gradecheck as check
    from harness.reporting import plain_table
    from harness.sandbox import NO_REQUIREMENT

    assignment = load_assignment(assignment_name)
    dataset = None
    if train and assignment.rule:
        dataset = dataset_for(DIGITS)
        assignment = replace(assignment, contract=contract_on(assignment.contract, dataset))
    # The stock submissions are the harness's own code.
    grader = Grader(assignment=assignment, data=dataset, sandbox=NO_REQUIREMENT)
    results = check(grader, lambda one: announce(f"{one.name}  {one.verdict.score} of {one.verdict.max_score}"))
    output = Output(None)
    output.print(
        plain_table(("stock submission", "kind", "points", "failed", "verdict"), map(_row, results), right=(2,))
    )
    wrong = [one for one in results if one.problem]
    for one in wrong:
        slips = "slips through" if one.kind != "honest" else "is turned down"
        output.print(f"{one.name} {slips}: {one.description} {one.problem}")
    if not wrong:
        output.print(f"{assignment.name}: all {len(results)} stock submissions are graded as they should be")
    return 1 if wrong else 0


def _row(one: StockResult) -> tuple[str, ...]:
    return one.name, one.kind, str(one.verdict.score), ", ".join(one.failed), "WRONG" if one.problem else "ok"
