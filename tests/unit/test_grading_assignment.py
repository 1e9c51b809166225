"""Assignments: every requirement has points, every key is known, and points are counted as integers."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from harness.certification import SequentialDesign
from harness.errors import ContractError, InputError
from harness.findings import Finding, Status
from harness.grading import Visibility, builtin_assignments, load_assignment
from tests.graded import TEXT, assignment


def finding(requirement: str, status: Status) -> Finding:
    """A finding with a status."""
    return Finding(requirement=requirement, status=status, expected="this", observed="that")


def test_requirements_are_those_of_the_contract_the_checks_and_the_rule() -> None:
    """The order is that of reports."""
    expected = (
        *("build", "capture", "output", "parameters", "batch_norm"),
        *("initial weights", "state budget", "batch independence", "pure evaluation"),
        *("permuted labels", "epochs", "accuracy"),
    )
    assert expected == assignment().requirements


@pytest.mark.parametrize("name", builtin_assignments())
def test_built_in_assignments_give_100_points(name: str) -> None:
    """They can be read, and their contract has the same name."""
    found = load_assignment(name)
    assert (100, name) == (sum(found.points.values()), found.contract.name)


def test_no_file_replaces_a_built_in_contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in the working folder nor beside the assignment."""
    (tmp_path / "era-s7").write_text("classes = 10\n")
    monkeypatch.chdir(tmp_path)
    text = TEXT[TEXT.index("[recipe]") :]
    with pytest.raises(InputError, match=r"none for .*gap"):
        assignment(f"contract = 'era-s7'\n{text}", folder=tmp_path)
    assert "gap" in load_assignment("era-s7").requirements


def test_built_in_assignments_are_those_of_the_courses() -> None:
    """Their names are documented."""
    assert ("era-s6", "era-s7", "five-steps") == builtin_assignments()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("build = 1\n", "", "[points] to name each requirement of the assignment, got none for build"),
        ("build = 1", "bild = 1", "[points]: 'bild' is not a known key. Did you mean 'build'?"),
        ("build = 1", "build = -1", "expected 0 <= points.build"),
        ("build = 1", "build = 1.5", "a whole number"),
        ("[penalties]", "[penalties]\ngap = 1", "[penalties]: 'gap' is not a known key"),
        ("[penalties]", "[visibility]\nbuild = 'never'\n[penalties]", "one of 'visible', 'after_due_date'"),
        ("inconclusive", "undecided", "'undecided' is not a known key"),
        ('"fail"', '"half"', "one of 'fail', 'pass'"),
        ("inconclusive", "sandbox = 'walls'\ninconclusive", "expected layers of the sandbox"),
        ("classes = 10", "classes = 0", "expected classes"),
        ("lr = 0.1", "lr = 0", "expected lr > 0"),
        ("[recipe]", "recipe = 'nobody'\n[nothing]", "'nothing' is not a known key"),
        ("inconclusive", "load_seconds = 0\ninconclusive", "expected load_seconds > 0"),
        ("inconclusive", "=", "not valid TOML"),
    ],
)
def test_mistakes_are_named(old: str, new: str, words: str) -> None:
    """The message begins with the place and says what was expected."""
    assert TEXT != TEXT.replace(old, new, 1)
    with pytest.raises(InputError) as caught:
        assignment(TEXT.replace(old, new, 1))
    assert words in str(caught.value)


def test_no_points_at_all_is_a_mistake() -> None:
    """An assignment that gives nothing grades nothing."""
    start, end = TEXT.index("[points]"), TEXT.index("[penalties]")
    text = TEXT[:start] + re.sub(r"= \d+", "= 0", TEXT[start:end]) + TEXT[end:]
    with pytest.raises(InputError, match="a sum above 0"):
        assignment(text)


def test_a_rule_needs_a_recipe() -> None:
    """Without an accuracy rule, nothing is trained, and no recipe is needed."""
    start, end = TEXT.index("[recipe]"), TEXT.index("[points]")
    with pytest.raises(InputError, match="expected a recipe, since the contract has an accuracy rule"):
        assignment(TEXT[:start] + TEXT[end:])


def test_files_are_relative_to_the_assignment(tmp_path: Path) -> None:
    """Contract and recipe may be files beside it; a name is that of a built-in contract or a shipped model."""
    (tmp_path / "mine.toml").write_text('extends = "five-steps"\n')
    (tmp_path / "slow.toml").write_text('batch_size = 8\nepochs = 2\n[optimizer]\nname = "adam"\nlr = 0.1\n')
    points = load_assignment("five-steps").points
    table = "\n".join(f'"{name}" = {value}' for name, value in points.items())
    own = tmp_path / "session.toml"
    own.write_text(f'contract = "mine.toml"\nrecipe = "slow.toml"\n[points]\n{table}\n')
    found = load_assignment(str(own))
    assert found.recipe is not None
    assert ("session", "mine", 8) == (found.name, found.contract.name, found.recipe.batch_size)


def test_unknown_assignments_get_a_suggestion() -> None:
    """The message lists the names."""
    with pytest.raises(InputError, match="Did you mean era-s7"):
        load_assignment("era-s77")


def test_a_contract_that_does_not_exist_is_named() -> None:
    """As in `harness check`."""
    text = TEXT.replace("[contract]", "[none]")
    text = 'contract = "nowhere"\n' + text[text.index("[recipe]") :]
    with pytest.raises(ContractError, match="no contract 'nowhere'"):
        assignment(text)


def test_points_follow_the_findings() -> None:
    """A pass gives all points, anything else none; a failure costs the penalty, an error of the examiner does not."""
    found = [finding("build", Status.PASS), finding("capture", Status.FAIL), finding("initial weights", Status.FAIL)]
    graded, penalties = assignment().graded([*found, finding("accuracy", Status.SKIP)])
    points = {one.finding.requirement: (one.points, one.max_points, one.finding.status) for one in graded}
    assert (1, 1, Status.PASS) == points["build"]
    assert (0, 2, Status.FAIL) == points["capture"]
    assert (0, 12, Status.SKIP) == points["accuracy"]
    assert (0, 3, Status.ERROR) == points["output"]
    assert [("initial weights is not met", 20)] == [(one.reason, one.points) for one in penalties]


@pytest.mark.parametrize(("counts", "points", "taken"), [("fail", 0, 20), ("pass", 6, 0)])
def test_what_is_undecided_counts_as_the_assignment_says(counts: str, points: int, taken: int) -> None:
    """Both points and penalties."""
    chosen = assignment(TEXT.replace('"fail"', f'"{counts}"'))
    graded, penalties = chosen.graded([finding("initial weights", Status.UNKNOWN)])
    (one,) = [one for one in graded if one.finding.requirement == "initial weights"]
    assert (points, taken) == (one.points, sum(penalty.points for penalty in penalties))


def test_visibility_is_visible_by_default() -> None:
    """Only what the section names is hidden."""
    text = TEXT.replace("[penalties]", "[penalties]\naccuracy = 1") + "\n[visibility]\naccuracy = 'hidden'\n"
    failed = [finding(name, Status.FAIL) for name in ("accuracy", "initial weights")]
    graded, penalties = assignment(text).graded(failed)
    shown = {one.finding.requirement: one.visibility for one in graded}
    assert (Visibility.HIDDEN, Visibility.VISIBLE) == (shown["accuracy"], shown["build"])
    assert [("initial weights is not met", Visibility.VISIBLE), ("accuracy is not met", Visibility.HIDDEN)] == [
        (one.reason, one.visibility) for one in penalties
    ]


def test_seeds_depend_on_name_and_salt() -> None:
    """They are distinct, and two more than the certificate needs."""
    certified = dataclasses.replace(assignment(), certificate=SequentialDesign(runs=7))
    renamed = dataclasses.replace(assignment(), name="other")
    seeds = [assignment().seeds("a"), assignment().seeds("b"), renamed.seeds("a")]
    assert 9 == len({seed for one in seeds for seed in one})
    assert (3, 9) == (len(seeds[0]), len(set(certified.seeds("a"))))
    assert seeds[0] == certified.seeds("a")[:3]


def test_the_digest_covers_what_grades_depend_on() -> None:
    """Points, contract and recipe enter; what only `harness gradecheck` reads does not."""
    changes = [("below = 1000", "below = 1001"), ("build = 1", "build = 2"), ("lr = 0.1", "lr = 0.2")]
    changed = [assignment(TEXT.replace(*change)).digest() for change in changes]
    assert 4 == len({assignment().digest(), *changed})
    assert assignment().digest() == dataclasses.replace(assignment(), accepts=("AtLimit",)).digest()
