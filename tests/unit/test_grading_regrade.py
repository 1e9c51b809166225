"""Comparison of two gradings: what changed, and why."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from harness.errors import InputError
from harness.findings import Finding, Status
from harness.grading import Results, Verdict
from harness.grading.regrade import Change, differences
from tests.graded import assignment
from tests.made_up import ENVIRONMENT


def verdict(name: str, status: Status = Status.PASS, **changes: object) -> Verdict:
    """A verdict whose findings all have a status, except for the build, which passes."""
    findings = [
        Finding(requirement=one, status=Status.PASS if one == "build" else status, expected="e", observed="o")
        for one in assignment().requirements
    ]
    graded, penalties = assignment().graded(findings)
    plain = Verdict(
        submission=name,
        assignment="small",
        assignment_digest="a",
        requirements=graded,
        penalties=penalties,
        environment=ENVIRONMENT,
    )
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]  # the types of the fields


def folder(path: Path, *verdicts: Verdict) -> Path:
    """A folder of results."""
    path.mkdir()
    results = Results(path, [])
    results.begin([], verdict("nobody"))
    for one in verdicts:
        results.write(one.submission, one)
    return path


def test_equal_verdicts_are_no_difference(tmp_path: Path) -> None:
    """The machine does not matter."""
    other = verdict("alice", environment=dataclasses.replace(ENVIRONMENT, python="3.12.0"))
    assert () == differences(folder(tmp_path / "old", verdict("alice")), folder(tmp_path / "new", other))


def test_changed_points_are_named_by_requirement(tmp_path: Path) -> None:
    """With status, observation and penalties."""
    found = differences(
        folder(tmp_path / "old", verdict("alice")), folder(tmp_path / "new", verdict("alice", Status.FAIL))
    )
    (change,) = found
    assert ("alice", 78, 0) == (change.submission, change.before, change.after)
    assert "accuracy: 12 points (pass, o), now 0 (fail, o)" in change.reasons
    assert "penalties: 0 points, now 20" in change.reasons
    assert not any(reason.startswith("build") for reason in change.reasons)


def test_causes_come_first(tmp_path: Path) -> None:
    """Another submission, another assignment."""
    new = verdict("alice", assignment_digest="b", submission_digest="d")
    (change,) = differences(folder(tmp_path / "old", verdict("alice")), folder(tmp_path / "new", new))
    assert ("the assignment, the salt, the data or the version of the harness changed", "the submission changed") == (
        change.reasons
    )


def test_submissions_of_one_side_are_named(tmp_path: Path) -> None:
    """A score is missing there."""
    found = differences(folder(tmp_path / "old", verdict("alice")), folder(tmp_path / "new", verdict("bob")))
    assert (
        Change(submission="alice", before=78, after=None, reasons=("only in the old results",)),
        Change(submission="bob", before=None, after=78, reasons=("only in the new results",)),
    ) == found


def test_two_files_are_compared_whatever_their_names(tmp_path: Path) -> None:
    """For an appeal."""
    old, new = (folder(tmp_path / name, verdict(name)) / name / "verdict.json" for name in ("first", "second"))
    assert () == differences(old, new)


def test_a_folder_without_verdicts_is_an_error(tmp_path: Path) -> None:
    """It is named."""
    with pytest.raises(InputError, match="without one"):
        differences(tmp_path, tmp_path)
