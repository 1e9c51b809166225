"""`harness bench`: compares two saved benchmark runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.console import Output, announce
from harness.cli.options import FiniteRange, report_options
from harness.errors import InputError
from harness.findings import Status

if TYPE_CHECKING:
    from harness.benchmarking import Comparison, SavedRun


@click.group()
def bench() -> None:
    """Compare the speed of two versions of the code, as measured and saved by `tox -e bench`."""


@bench.command()
@click.argument("baseline", required=False)
@click.argument("current", required=False)
@click.option(
    "--allow",
    type=FiniteRange(min=1),
    default=1.1,
    show_default=True,
    metavar="RATIO",
    help="Largest accepted ratio of the current time to the baseline time.",
)
@report_options
def compare(baseline: str | None, current: str | None, allow: float, output: Output) -> int:
    """Compare two saved benchmark runs.

    The exit code is 1 if a benchmark is significantly slower than allowed, that is, if the confidence interval of the
    ratio of the current time to the baseline time lies entirely above the allowed ratio. CURRENT defaults to the newest
    run under .benchmarks, BASELINE to the run saved before the newest.
    """
    from harness.benchmarking import CONFIDENCE, compare_runs, newest_runs, read_run
    from harness.reporting import plain_table, verdict_line

    if baseline is None or current is None:
        saved = newest_runs(2 if baseline is None else 1)
        baseline, current = baseline or saved[0], saved[-1]
    if Path(baseline).resolve() == Path(current).resolve():
        raise InputError(
            f"expected two saved benchmark runs, got {str(baseline)!r} as baseline and as current. Run the benchmarks again with "
            "--benchmark-autosave, or name another baseline."
        )
    before, now = read_run(baseline), read_run(current)
    for title, run in (("baseline", before), ("current", now)):
        announce(f"{title}: {run.path}, commit {run.commit or 'unknown'}, {run.when}")
    comparisons = compare_runs(before, now, allowed=allow)
    slower = [found.name for found in comparisons if found.slower]
    status = Status.FAIL if slower else Status.PASS
    headers = ("benchmark", "baseline", "current", "ratio", f"{CONFIDENCE:.0%} interval", "detectable", "")
    summary = f"{len(slower)} of {len(comparisons)} significantly slower than {allow:g} times the baseline"
    output.print(plain_table(headers, map(_row, comparisons), right=range(1, 6)), verdict_line(status, summary))
    content = {
        "baseline": _origin(before),
        "current": _origin(now),
        "machine": dict(now.machine),
        "allowed": allow,
        "confidence": CONFIDENCE,
        "status": status.value,
        "benchmarks": [_to_json(found) for found in comparisons],
    }
    output.write("bench-compare", content)
    return 1 if slower else 0


def _row(found: Comparison) -> tuple[str, ...]:
    low, high = found.interval
    return (
        found.name.rpartition("::")[2],
        f"{found.baseline:.3f}",
        f"{found.current:.3f}",
        f"{found.ratio:.3f}",
        f"{low:.3f} to {high:.3f}",
        f"{found.smallest_visible:.3f}",
        "slower" if found.slower else "",
    )


def _origin(run: SavedRun) -> dict[str, Any]:
    return {"path": run.path, "commit": run.commit, "when": run.when}


def _to_json(found: Comparison) -> dict[str, Any]:
    return {
        "name": found.name,
        "status": "fail" if found.slower else "pass",
        "baseline": found.baseline,
        "current": found.current,
        "ratio": found.ratio,
        "interval": list(found.interval),
        "smallest_visible": found.smallest_visible,
    }
