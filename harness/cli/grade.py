"""`harness grade`: grades submissions of an assignment, and writes reports."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli.console import Output, announce, exit_code
from harness.cli.inputs import contract_on, dataset_for
from harness.cli.options import data_option, debug_option, device_option, sandbox_option, trust_submission_option
from harness.cli.progress import GradingProgress, TrainingProgress
from harness.errors import InputError
from harness.findings import Status

if TYPE_CHECKING:
    from harness.grading import Task, Verdict
    from harness.grading.writers import Writer
    from harness.sandbox import SandboxRequirement

_SALT_VARIABLE = "HARNESS_SALT"
_MAX_SALT_BYTES, _MAX_ROSTER_BYTES = 2**12, 2**26
FORMATS = ("json", "classroom50", "gradescope", "junit", "markdown", "csv", "html", "github")


@click.command()
@click.argument("submissions", metavar="SUBMISSION...", nargs=-1)
@click.option(
    "--assignment",
    "assignment_name",
    metavar="NAME|FILE",
    help="Assignment to grade by: a built-in name, see --list, or a TOML file.",
)
@click.option(
    "--out", metavar="FOLDER", help="Folder for the reports: a folder for each submission, and the class files."
)
@click.option(
    "--format",
    "formats",
    multiple=True,
    type=click.Choice(FORMATS),
    help="Format to write to --out, beside the verdicts as JSON; may be repeated.",
)
@click.option(
    "--roster",
    metavar="FILE",
    help="Export of a learning platform (Canvas, Moodle): fill the grades into this file; nothing else in it changes.",
)
@click.option(
    "--roster-map",
    metavar="FILE",
    help="CSV with a student, as in --roster, and the name of a submission in each row, where the names differ.",
)
@click.option(
    "--jobs", default=1, show_default=True, type=click.IntRange(min=1), help="Number of submissions to grade at a time."
)
@click.option(
    "--no-train", is_flag=True, help="Examine the structure only; requirements on trained models give no points."
)
@click.option("--strict", is_flag=True, help="Exit with 1 if a requirement failed, and with 3 if one is undecided.")
@click.option(
    "--salt-file",
    metavar="FILE",
    help=f"File with the instructor's secret text, from which the seeds are derived. Default: the variable {_SALT_VARIABLE}.",
)
@device_option("Device to train on.", default="cpu")
@data_option
@sandbox_option("seccomp+bubblewrap,seccomp+landlock+user")
@trust_submission_option
@click.option(
    "--diff", nargs=2, metavar="OLD NEW", help="Compare two folders of results, or two verdicts, and grade nothing."
)
@click.option("--list", "show_list", is_flag=True, help="List the built-in assignments.")
@debug_option
def grade(
    submissions: tuple[str, ...],
    assignment_name: str | None,
    out: str | None,
    formats: tuple[str, ...],
    roster: str | None,
    roster_map: str | None,
    jobs: int,
    salt_file: str | None,
    device: str,
    data: str,
    sandbox: SandboxRequirement,
    diff: tuple[str, str] | None,
    *,
    no_train: bool,
    strict: bool,
    trust_submission: bool,
    show_list: bool,
) -> int:
    """Grade submissions of an assignment.

    SUBMISSION is a folder, a file or an archive. Its code runs in a confined process, which returns the model as data;
    all else is done by the harness. Every submission gets a verdict. With --out, a repeated call grades only what has
    changed or is not finished.

    The exit code is 0 if every submission got a verdict, and 4 if the harness itself failed on one.
    """
    if show_list:
        return _list()
    if diff:
        return _diff(*map(Path, diff))
    if not submissions or not assignment_name:
        raise click.UsageError("expected SUBMISSION... and --assignment. See `harness grade --help`")
    if (formats or roster) and not out:
        raise click.UsageError("expected --out together with --format and --roster. Name a folder for the reports")
    if roster_map and not roster:
        raise click.UsageError(
            "expected --roster together with --roster-map. Name the export that grades are filled into"
        )
    from harness.grading import Grader, Results, grade_all, load_assignment, tasks_for
    from harness.sandbox import NO_REQUIREMENT
    from harness.training import keep_freed_memory, opened, resolve_device

    assignment = load_assignment(assignment_name)
    tasks = tasks_for(_existing(submissions))
    salt = _salt(salt_file)
    filled = _Roster(Path(roster), roster_map) if roster else None
    dataset = None
    if assignment.rule and not no_train:
        dataset = dataset_for(data)
        assignment = replace(assignment, contract=contract_on(assignment.contract, dataset))
    results = Results(Path(out), [writer for writer in _writers() if writer.name in formats]) if out else None
    keep_freed_memory()
    with contextlib.ExitStack() as stack:
        if out:
            stack.enter_context(opened(Path(out)))
        observer = stack.enter_context(TrainingProgress()) if len(tasks) == 1 else None
        progress = stack.enter_context(GradingProgress(len(tasks)))
        grader = Grader(
            assignment=assignment,
            salt=salt,
            data=dataset,
            device=resolve_device(device),
            sandbox=NO_REQUIREMENT if trust_submission else sandbox,
            observer=observer,
        )
        verdicts = grade_all(tasks, grader, results, jobs=jobs, on_verdict=progress.on_verdict)
    _report(verdicts)
    if out:
        announce(f"results: {out}")
    if filled:
        filled.write(verdicts, tasks)
    if any(verdict.status is Status.ERROR for verdict in verdicts):
        return 4
    return exit_code(one.finding for verdict in verdicts for one in verdict.requirements) if strict else 0


def _existing(submissions: Sequence[str]) -> list[Path]:
    for text in submissions:
        if not Path(text).exists():
            raise InputError(f"expected submissions that exist, got {text!r}. Correct the path.")
    return [Path(text) for text in submissions]


def _salt(file: str | None) -> str:
    from harness.files import read_whole

    if file is None:
        return os.environ.get(_SALT_VARIABLE, "")
    content = read_whole(Path(file), "a file with the salt", most=_MAX_SALT_BYTES)
    return content.decode(errors="surrogateescape").strip()


class _Roster:
    """The export of a learning platform that grades are filled into; it is checked before anything is graded."""

    def __init__(self, path: Path, map_file: str | None) -> None:
        from harness.files import read_whole
        from harness.grading.writers import fill_roster, read_roster_map

        self._path = path
        fill_roster(self._read(), (), {})
        self._mapping = {}
        if map_file:
            self._mapping = read_roster_map(read_whole(Path(map_file), "a roster map", most=_MAX_ROSTER_BYTES))

    def _read(self) -> bytes:
        from harness.files import read_whole

        return read_whole(self._path, "an export of a learning platform", most=_MAX_ROSTER_BYTES)

    def write(self, verdicts: Sequence[Verdict], tasks: Sequence[Task]) -> None:
        from harness.files import write_whole
        from harness.grading.writers import fill_roster

        folders = {task.name for task in tasks if task.path.is_dir()}
        # Read again: it may have been changed during hours of grading.
        filled = fill_roster(self._read(), verdicts, self._mapping, folders)
        write_whole(self._path, filled.content)
        for reason in filled.unmatched:
            announce(f"not in {self._path}: {reason}")
        announce(f"grades: {self._path}")


def _report(verdicts: Sequence[Verdict]) -> None:
    from harness.grading.writers import with_harmless_texts
    from harness.reporting import findings_table, plain_table, verdict_line

    output, verdicts = Output(None), [with_harmless_texts(one) for one in verdicts]
    if len(verdicts) == 1:
        (verdict,) = verdicts
        title = f"{verdict.submission} against {verdict.assignment}: {verdict.summary}"
        findings = [one.finding for one in verdict.requirements]
        output.print(findings_table(findings), *verdict.notes, verdict_line(verdict.status, title))
        return
    rows = [
        (one.submission, f"{one.score} of {one.max_score}", one.status.value, ", ".join(_open(one))) for one in verdicts
    ]
    output.print(plain_table(("submission", "points", "status", "not met"), rows, right=(1,)))


def _open(verdict: Verdict) -> list[str]:
    """The requirements that were checked and are not met."""
    return [
        one.finding.requirement
        for one in verdict.requirements
        if not one.is_met and one.finding.status is not Status.SKIP
    ]


def _list() -> int:
    from harness.grading import builtin_assignments, load_assignment
    from harness.reporting import plain_table

    rows = [(name, load_assignment(name).description) for name in builtin_assignments()]
    Output(None).print(plain_table(("name", "assignment"), rows))
    return 0


def _diff(old: Path, new: Path) -> int:
    from harness.grading.regrade import differences
    from harness.reporting import plain_table

    changes = differences(old, new)
    rows = [
        (one.submission, _points(one.before), _points(one.after), reason) for one in changes for reason in one.reasons
    ]
    output = Output(None)
    output.print(
        plain_table(("submission", "old", "new", "difference"), rows, right=(1, 2)) if rows else "no differences"
    )
    return 1 if changes else 0


def _points(score: int | None) -> str:
    return "-" if score is None else str(score)


def _writers() -> Sequence[Writer]:
    from harness.grading.writers import WRITERS

    return WRITERS
