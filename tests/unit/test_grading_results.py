"""The folder of results: nothing half written, nothing old, and what is finished is found again."""

from __future__ import annotations

import dataclasses
import errno
import os
import threading
from pathlib import Path

import pytest

from harness.errors import InputError
from harness.findings import Finding, Status
from harness.grading import Results, Verdict, read_verdict
from harness.grading.examiner import examiner_failed
from harness.grading.results import places_for
from harness.grading.writers import WRITERS
from tests.graded import assignment, grader
from tests.made_up import ENVIRONMENT

# Without the format that needs environment variables.
_FORMATS = [writer for writer in WRITERS if writer.name != "classroom50"]


def verdict(name: str = "alice") -> Verdict:
    """A verdict on a submission of which nothing was checked."""
    graded, penalties = assignment().graded(
        [Finding(requirement=one, status=Status.SKIP, expected="e", observed="o") for one in assignment().requirements]
    )
    return Verdict(
        submission=name,
        submission_digest="d",
        assignment="small",
        assignment_digest="basis",
        requirements=graded,
        penalties=penalties,
        environment=ENVIRONMENT,
    )


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """Results in all formats, of a call that has begun with one submission."""
    found = Results(tmp_path, _FORMATS)
    found.begin(["alice"], verdict())
    return found


def test_a_verdict_is_read_back(results: Results, tmp_path: Path) -> None:
    """With all reports beside it."""
    results.write("alice", verdict())
    assert verdict() == read_verdict(tmp_path / "alice" / "verdict.json")
    assert sorted(one.file_name for one in _FORMATS if one.scope == "submission") == (_names(tmp_path / "alice"))


def test_the_next_call_takes_old_results_away(results: Results, tmp_path: Path) -> None:
    """Reports of the submission and of the class; the verdict is kept aside until the submission is reached."""
    results.write("alice", verdict())
    results.write_class([verdict()])
    Results(tmp_path, _FORMATS).begin(["alice"], verdict())
    assert ([".verdicts", "alice"], []) == (_names(tmp_path), _names(tmp_path / "alice"))
    assert verdict() == results.earlier("alice", "basis", "d")


@pytest.mark.parametrize(("basis", "digest"), [("other", "d"), ("basis", "other"), ("basis", "")])
def test_what_has_changed_is_not_found(results: Results, basis: str, digest: str) -> None:
    """Another assignment, another content."""
    results.write("alice", verdict())
    results.begin(["alice"], verdict())
    assert None is results.earlier("alice", basis, digest)


def test_errors_of_the_examiner_are_graded_again(results: Results) -> None:
    """Neither the submission's verdict nor that of the network is kept."""
    failed = examiner_failed(grader(), "alice", RuntimeError("out of order"))
    failed = dataclasses.replace(failed, submission_digest="d")
    results.write("alice", failed)
    results.put("key", failed)
    results.begin(["alice"], verdict())
    assert (None, None) == (results.earlier("alice", failed.assignment_digest, "d"), results.get("key"))


def test_what_a_time_limit_ended_is_graded_again(results: Results) -> None:
    """A faster or less busy machine may reach another verdict."""
    slow = dataclasses.replace(verdict(), timed_out=True)
    results.write("alice", slow)
    results.put("key", slow)
    results.begin(["alice"], verdict())
    assert (None, None) == (results.earlier("alice", "basis", "d"), results.get("key"))


def test_verdicts_on_networks_are_kept(results: Results) -> None:
    """Checkpoints of the training are deleted then."""
    results.checkpoints("key").mkdir()
    results.put("key", verdict())
    assert (verdict(), None, False) == (results.get("key"), results.get("other"), results.checkpoints("key").exists())


def test_the_first_verdict_on_a_network_stays(results: Results) -> None:
    """Equal networks get equal grades, whoever comes later."""
    results.put("key", verdict())
    results.put("key", verdict("bob"))
    assert verdict() == results.get("key")


def test_one_process_at_a_time_grades_a_network(results: Results, tmp_path: Path) -> None:
    """Another one waits until the first has kept its verdict; other networks are free."""
    found: list[Verdict | None] = []

    def grade_too() -> None:
        with Results(tmp_path, _FORMATS).held("key"):
            found.append(results.get("key"))

    other = threading.Thread(target=grade_too, daemon=True)
    with results.held("key"):
        other.start()
        with results.held("another"):
            other.join(0.2)
        assert [] == found
        results.put("key", verdict())
    other.join(10)
    assert [verdict()] == found


def test_a_damaged_verdict_is_no_verdict(results: Results, tmp_path: Path) -> None:
    """As after a crash of the machine."""
    results.put("key", verdict())
    (file,) = (tmp_path / ".verdicts" / "networks").iterdir()
    file.write_text(file.read_text().replace('"score": 0', '"score": 9'))
    assert None is results.get("key")


def test_a_format_that_cannot_be_written_is_an_error_at_once(tmp_path: Path) -> None:
    """Not after hours of training."""
    with pytest.raises(InputError, match="Classroom 50"):
        Results(tmp_path, WRITERS).begin(["alice"], verdict())


def test_a_full_disk_is_an_error(results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing half written is left."""

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left"):
        results.write("alice", verdict())
    assert [] == _names(tmp_path / "alice")


def test_a_file_in_the_way_is_an_error(results: Results, tmp_path: Path) -> None:
    """The message names the folder and the option."""
    (tmp_path / "bob").write_text("")
    with pytest.raises(InputError, match="choose another folder with --out"):
        results.write("bob", verdict("bob"))


def test_names_of_folders_are_distinct_and_plain() -> None:
    """Names that differ in unusual characters or in case only get a digest; no name leads elsewhere."""
    found = places_for(["a/b", "a b", "A-B", "../x", ".verdicts", "x" * 300])
    assert 6 == len({place.casefold() for place in found})
    assert all(place.replace("-", "").isalnum() and len(place) <= 109 for place in found)
    assert ["plain"] == places_for(["plain"])


def test_reports_are_not_written_into_the_submission_they_are_about(tmp_path: Path) -> None:
    """A file of the submission could have the name of a report."""
    with pytest.raises(InputError, match="beside the submissions"):
        Results(tmp_path, []).require_apart(tmp_path / "alice", "alice")
    Results(tmp_path / "alice" / "out", []).require_apart(tmp_path / "alice", "alice")


def test_only_reports_are_taken_away(results: Results, tmp_path: Path) -> None:
    """What else is in the folder stays."""
    results.write("alice", verdict())
    (tmp_path / "alice" / "notes.txt").write_text("mine")
    results.begin(["alice"], verdict())
    assert ["notes.txt"] == _names(tmp_path / "alice")
