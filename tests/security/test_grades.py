"""No attack changes a grade: the whole corpus, graded as a class is."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.findings import Status
from harness.grading import Grader, grade, load_assignment
from harness.grading.results import context
from harness.grading.writers import WRITERS
from harness.sandbox import warm_workers
from tests.graded import outcomes
from tests.model_files import write
from tests.security.attacks import ATTACKS, NET, Attack

pytestmark = pytest.mark.smoke
ASSIGNMENT = load_assignment("five-steps")


@pytest.fixture(scope="module", autouse=True)
def _warm() -> Iterator[None]:
    with warm_workers():
        yield


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory, _warm: None) -> tuple[int, str]:
    """Points and graph of the network that most attacks define, without an attack."""
    verdict = grade(write(tmp_path_factory.mktemp("honest"), {"net.py": NET}), Grader(assignment=ASSIGNMENT))
    assert verdict.model is not None
    return verdict.score, verdict.model.graph_digest


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_no_attack_changes_a_grade(attack: Attack, tmp_path: Path, honest: tuple[int, str]) -> None:
    """A submission gets what its network deserves, or less."""
    folder, outside = tmp_path / "submission", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (outside / "secret").write_text("secret")
    grader = Grader(assignment=dataclasses.replace(ASSIGNMENT, load_seconds=attack.seconds))
    verdict = grade(attack.build(folder, outside), grader, name="submission")
    found = outcomes(verdict)
    assert verdict.status in (Status.PASS, Status.FAIL)
    assert verdict.score <= honest[0]
    if verdict.model is None:
        assert ("fail", 0) == (found["build"], verdict.score)
    elif attack.findings:
        assert attack.findings.items() <= found.items()
    else:
        # An attack that is too slow, or that a layer refuses, leaves the network as it is.
        assert honest[1] == verdict.model.graph_digest
    assert ["secret"] == [path.name for path in outside.iterdir()]
    for writer in WRITERS:
        if writer.name not in ("classroom50", "github"):
            assert len(writer.write([verdict], context())) < 2**20
