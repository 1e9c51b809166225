"""`harness grade`: points, reports, exit codes, and a second call that repeats nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.cli.grade import FORMATS
from harness.errors import ExaminerError, ModelSourceError
from harness.grading import batch, read_verdict
from harness.grading.writers import WRITERS
from tests.graded import TEXT, Builds, built

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with an assignment and two submissions."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(TEXT)
    for name in ("alice", "bob"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "net.py").write_text(f"# {name}\n")
    return tmp_path


def stand_in(monkeypatch: pytest.MonkeyPatch, *models: object) -> Builds:
    """Let every submission be these models; by default, those of an honest one."""
    builds = Builds(*(models or (built(1), built(1), built(2))))  # type: ignore[arg-type]  # models and errors
    here = batch._graded_here  # noqa: SLF001 - another process would not have the models
    monkeypatch.setattr(batch, "_graded_in_processes", lambda tasks, by, results, _: here(tasks, by, results))
    monkeypatch.setattr("harness.grading.examiner.load_builds", builds)
    return builds


def test_formats_are_those_of_the_writers() -> None:
    """`--help` lists them without importing torch."""
    assert {writer.name for writer in WRITERS} == set(FORMATS)


@pytest.mark.usefixtures("folder")
def test_one_submission_is_reported_in_full(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every requirement has a line, and the last line has the points."""
    stand_in(monkeypatch)
    code, out, _ = command("grade", "alice", "--assignment", "small.toml", "--no-train", "--jobs", "2")
    assert 0 == code
    assert "PASS  alice against small: 45 of 78 points." in out
    assert "skip     accuracy            not checked: the model was not trained" in out


def test_names_carry_no_workflow_command(folder: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log of GitHub's runner takes no name of a submission for a command, and a terminal none for an escape code."""
    stand_in(monkeypatch, ModelSourceError("no model."))
    for name in ("::error::one", "::stop\x1b[2J"):
        (folder / "alice").rename(folder / name)
        (folder / "alice").mkdir()
    code, out, err = command("grade", "::error::one", "::stop\x1b[2J", "--assignment", "small.toml", "--no-train")

    assert 0 == code
    assert ": :error: :one" in out
    assert ": :error: :one" in err
    assert [] == [words for words in ("::", "\x1b") if words in out + err]


@pytest.mark.usefixtures("folder")
def test_strict_fails_if_a_requirement_does(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the exit code says only that every submission has a verdict."""
    stand_in(monkeypatch, ModelSourceError("alice has no model."))
    grade = ("grade", "alice", "--assignment", "small.toml", "--no-train")
    assert (0, 1) == (command(*grade)[0], command(*grade, "--strict")[0])


@pytest.mark.usefixtures("folder")
def test_an_error_of_the_examiner_is_exit_code_4(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """A grader in CI must not take it for a grade."""
    stand_in(monkeypatch, ExaminerError("out of order"))
    code, out, _ = command("grade", "alice", "--assignment", "small.toml", "--no-train")
    assert 4 == code
    assert "ERROR  alice against small: 0 of 78 points" in out


def test_a_class_is_graded_once(folder: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second call grades what has changed only, and equal networks only once."""
    builds = stand_in(monkeypatch)
    grade = ("grade", "alice", "bob", "--assignment", "small.toml", "--no-train", "--out", "out", "--format", "csv")
    code, out, err = command(*grade)
    assert (0, 2) == (code, builds.calls)
    assert "alice       45 of 78  pass" in out
    assert "bob  45 of 78  pass  (2 of 2)" in err
    assert 3 == len((folder / "out" / "grades.csv").read_text().splitlines())
    (folder / "bob" / "net.py").write_text("# changed\n")
    assert (0, 3) == (command(*grade)[0], builds.calls)
    assert "bob" == read_verdict(folder / "out" / "bob" / "verdict.json").submission


def test_results_in_the_submission_are_no_part_of_it(
    folder: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a student does at home: the second call repeats nothing."""
    builds = stand_in(monkeypatch)
    monkeypatch.chdir(folder / "alice")
    grade = ("grade", ".", "--assignment", "../small.toml", "--no-train", "--out", "grade", "--format", "html")

    assert [(0, 1), (0, 1)] == [(command(*grade)[0], builds.calls) for _ in range(2)]


def test_two_gradings_are_compared(folder: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 1 if they differ."""
    stand_in(monkeypatch)
    grade = ("grade", "alice", "bob", "--no-train", "--out")
    command(*grade, "old", "--assignment", "small.toml")
    (folder / "harder.toml").write_text(TEXT.replace("below = 1000", "below = 800"))
    command(*grade, "new", "--assignment", "harder.toml")
    code, out, _ = command("grade", "--diff", "old", "new")
    assert 1 == code
    assert "parameters: 4 points (pass, 858 parameters), now 0 (fail, 858 parameters)" in " ".join(out.split())
    assert (0, "no differences\n") == command("grade", "--diff", "old", "old")[:2]


def test_grades_are_filled_into_a_roster(folder: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of Canvas, here; submissions without a row are named."""
    stand_in(monkeypatch)
    roster = folder / "canvas.csv"
    roster.write_text("Student,ID,Section,small (77)\n    Points Possible,,,78\nalice,7,A,\n")
    code, _, err = command(
        *("grade", "alice", "bob", "--assignment", "small.toml", "--no-train", "--out", "out", "--roster", "canvas.csv")
    )
    assert 0 == code
    assert "alice,7,A,45" in roster.read_text()
    assert "not in canvas.csv: bob" in err


def test_a_roster_that_is_changed_while_grading_keeps_the_change(
    folder: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Grading takes hours, and the instructor goes on with the gradebook meanwhile."""
    builds = stand_in(monkeypatch)
    roster = folder / "canvas.csv"
    roster.write_text("Student,ID,Section,small (77),Other (78)\n    Points Possible,,,78,10\nalice,7,A,,\nbob,8,A,,\n")

    def changed(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - passed on
        roster.write_text(roster.read_text().replace("bob,8,A,,\n", "bob,8,A,,9\n"))
        return builds(*arguments, **options)

    monkeypatch.setattr("harness.grading.examiner.load_builds", changed)
    command(
        *("grade", "alice", "bob", "--assignment", "small.toml", "--no-train", "--out", "out", "--roster", "canvas.csv")
    )
    assert ["alice,7,A,45,", "bob,8,A,45,9"] == roster.read_text().splitlines()[2:]


def test_a_roster_map_gives_the_students_of_submissions(
    folder: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A student has a submission of any name; the option alone is a mistake."""
    stand_in(monkeypatch)
    roster = folder / "canvas.csv"
    roster.write_text("Student,ID,Section,small (77)\n    Points Possible,,,78\nJoe,7,A,\nJane,8,A,\n")
    (folder / "map.csv").write_text("7,bob\nJane,alice\n")
    options = ["--assignment", "small.toml", "--no-train", "--out", "out", "--roster-map", "map.csv"]
    assert 2 == command("grade", "alice", "bob", *options)[0]
    assert 0 == command("grade", "alice", "bob", *options, "--roster", "canvas.csv")[0]
    assert ["Joe,7,A,45", "Jane,8,A,45"] == roster.read_text().splitlines()[2:]


@pytest.mark.usefixtures("folder")
def test_the_salt_changes_the_grade_s_basis_and_is_not_printed(
    command: Command, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    """It comes from a file or from the environment."""
    stand_in(monkeypatch)
    (folder / "salt").write_text("open sesame\n")
    grade = ("grade", "alice", "--assignment", "small.toml", "--no-train", "--out")
    printed = [*command(*grade, "plain"), *command(*grade, "filed", "--salt-file", "salt")]
    monkeypatch.setenv("HARNESS_SALT", "open sesame")
    printed += command(*grade, "set")
    verdicts = [(folder / name / "alice" / "verdict.json") for name in ("plain", "filed", "set")]
    found = [read_verdict(path).assignment_digest for path in verdicts]
    assert (2, found[1]) == (len(set(found)), found[2])
    assert not any("sesame" in str(text) for text in (*printed, *(path.read_text() for path in verdicts)))


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("alice",), "expected SUBMISSION... and --assignment"),
        (("--assignment", "small.toml"), "expected SUBMISSION... and --assignment"),
        (("alice", "--assignment", "small.toml", "--format", "csv"), "expected --out together with --format"),
        (("carol", "--assignment", "small.toml"), "expected submissions that exist, got 'carol'"),
        (("alice", "--assignment", "large.toml"), "expected an assignment, got 'large.toml'"),
        (("alice", "--assignment", "small.toml", "--no-train", "--out", "small.toml/x"), "could not create the folder"),
        (("alice", "--assignment", "small.toml", "--salt-file", "none"), "expected a file with the salt"),
    ],
)
def test_mistakes_are_exit_code_2(arguments: tuple[str, ...], words: str, command: Command) -> None:
    """Before anything is graded."""
    code, _, err = command("grade", *arguments)
    assert 2 == code
    assert words in " ".join(err.split())


def test_the_list_has_all_assignments(command: Command) -> None:
    """With a line on each."""
    code, out, _ = command("grade", "--list")
    assert (0, ["era-s6", "era-s7", "five-steps"]) == (code, [line.split()[0] for line in out.splitlines()[1:]])
