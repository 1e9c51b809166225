"""`harness bisect`: where two recorded runs part."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import click

from harness.cli.console import TrainingProgress, announce, results, write_json
from harness.cli.options import debug_option, json_option
from harness.cli.reruns import rerun_for, rerun_options

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
    help="Train the stretch in question again, to the exact step and tensor, or go by the digests on record alone.",
)
@rerun_options
@json_option
@debug_option
@click.pass_context
def bisect(
    ctx: click.Context,
    first: str,
    second: str,
    model: str | None,
    data: str | None,
    device: str | None,
    json_path: str | None,
    *,
    rerun: bool,
) -> None:
    """Find where two runs part.

    The first step, the first tensor in it, how far apart, and what that points to. The digests on record give a stretch of
    steps; training it again gives the step.
    """
    from harness.reporting import document, plain_table
    from harness.reproducibility import bisect as bisect_records
    from harness.training import RunRecord

    one, other = RunRecord.read(first), RunRecord.read(second)
    found = bisect_records(one, other)
    if rerun and found.difference is not None:
        found = _closer(one, other, found, model=model, data=data, device=device)
    if json_path != "-":
        console = results()
        console.print(found.describe())
        if found.difference and found.difference.detail:
            console.print(f"  {found.difference.detail}")
        for note in found.notes:
            console.print(f"  {note}")
        if found.declared:
            console.print("what the two records declare differently")
            rows = [line.partition(": ")[::2] for line in found.declared]
            console.print(plain_table(("", "A -> B"), rows))
    write_json(json_path, document("bisect", {"first": first, "second": second, **found.to_json()}))
    ctx.exit(0 if found.difference is None else 1)


def _closer(
    one: RunRecord, other: RunRecord, found: Bisection, *, model: str | None, data: str | None, device: str | None
) -> Bisection:
    """The bisection with the stretch trained again; as it was where that cannot be."""
    from harness.errors import InputError
    from harness.reproducibility import bisect as bisect_records

    try:
        reruns = [rerun_for(record, model=model, data=data, device=device) for record in (one, other)]
    except InputError as error:
        announce(f"not trained again, so the step is known by the digests on record only: {error}")
        return found

    def trace(rerun: Rerun, after: int, upto: int) -> Trace:
        announce(f"training again to step {upto}, to trace the steps after {after}")
        with TrainingProgress() as progress:
            return rerun.trace(after, upto, observer=progress)

    first, second = reruns
    return bisect_records(one, other, trace_steps=(functools.partial(trace, first), functools.partial(trace, second)))
