"""`harness bisect`: finds the first difference between two recorded runs."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import click

from harness.cli.console import Output, announce
from harness.cli.inputs import rerun_for
from harness.cli.options import report_options, rerun_options
from harness.cli.progress import TrainingProgress

if TYPE_CHECKING:
    from harness.reproducibility import Bisection, Rerun
    from harness.reproducibility.trace import Trace
    from harness.training import RunRecord


@click.command()
@click.argument("first", metavar="A.json")
@click.argument("second", metavar="B.json")
@click.option(
    "--rerun/--no-rerun",
    default=True,
    help="Repeat the steps between the last equal and the first different digest to find the exact step and tensor, or use only "
    "the recorded digests.",
)
@rerun_options
@report_options
def bisect(first: str, second: str, output: Output, *, rerun: bool, **chosen: str | None) -> int:
    """Find the first difference between two runs.

    Reports the first step at which the runs differ, the first tensor that differs in this step, the size of the
    difference, and the likely cause. The recorded digests give a range of steps; repeating these steps gives the exact
    step.
    """
    from harness.reporting import plain_table
    from harness.reproducibility import bisect as bisect_records
    from harness.training import RunRecord

    one, other = RunRecord.read(first), RunRecord.read(second)
    found = bisect_records(one, other)
    if rerun and found.difference is not None:
        found = _refine(one, other, found, **chosen)
    output.print(found.describe())
    if found.difference and found.difference.detail:
        output.print(f"  {found.difference.detail}")
    output.print(*(f"  {note}" for note in found.notes))
    if found.declared:
        rows = [line.partition(": ")[::2] for line in found.declared]
        output.print("differences between the descriptions of the two runs", plain_table(("", "A -> B"), rows))
    output.write("bisect", {"first": first, "second": second, **found.to_json()})
    return 0 if found.equal else 1


def _refine(one: RunRecord, other: RunRecord, found: Bisection, **chosen: str | None) -> Bisection:
    """Repeat the steps that may differ to find the exact step; return ``found`` unchanged if the steps cannot be repeated."""
    from harness.errors import InputError
    from harness.reproducibility import bisect as bisect_records

    def trace(rerun: Rerun, after: int, upto: int) -> Trace:
        announce(f"repeating the training up to step {upto} to trace the steps after {after}")
        with TrainingProgress() as progress:
            return rerun.trace(after, upto, observer=progress)

    try:
        first, second = (functools.partial(trace, rerun_for(record, **chosen)) for record in (one, other))
        return bisect_records(one, other, trace_steps=(first, second))
    except InputError as error:
        announce(f"steps are not repeated, so the difference is located only by the recorded digests: {error}")
        return found
