"""`harness gradecheck`: what slips through an assignment is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from harness.grading import load_assignment
from harness.grading.stock import networks

Command = Callable[..., tuple[int, str, str]]
pytestmark = pytest.mark.smoke


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few stock submissions; all take a minute."""
    monkeypatch.setattr(networks, "HONEST", (networks.Modules, networks.Means))
    monkeypatch.setattr(networks, "MUTANTS", (networks.WithoutPooling, networks.AtLimit))
    monkeypatch.setattr(networks, "CHEATS", (networks.TrainedBefore,))


@pytest.mark.usefixtures("few")
def test_a_built_in_assignment_lets_nothing_through(command: Command) -> None:
    """Honest solutions get all points."""
    code, out, _ = command("gradecheck", "era-s7")
    assert 0 == code
    assert "era-s7: all 5 stock submissions are graded as they should be" in out


@pytest.mark.usefixtures("few")
def test_a_weakened_assignment_is_told_what_slips_through(command: Command, tmp_path: Path) -> None:
    """Global average pooling is not required, `<=` stands for `<`, and a penalty is missing."""
    points = load_assignment("era-s7").points
    table = "\n".join(f'"{name}" = {value}' for name, value in points.items() if name != "gap")
    weak = tmp_path / "weak.toml"
    weak.write_text(
        'recipe = "reference"\n[contract]\nextends = "era-s7"\n[contract.gap]\nrequired = false\n'
        "[contract.parameters]\nmax = 8000\n"
        f"[points]\n{table}\n"
    )
    code, out, _ = command("gradecheck", str(weak))
    assert 1 == code
    slips = [line.partition(" slips through")[0] for line in out.splitlines() if " slips through" in line]
    assert ["WithoutPooling", "AtLimit", "TrainedBefore"] == slips
    assert "gets all 50 points, although initial weights failed" in " ".join(out.split())


@pytest.mark.usefixtures("few")
def test_accepted_mutants_may_pass(command: Command, tmp_path: Path) -> None:
    """But not every name is a stock submission's."""
    text = 'contract = "five-steps"\nrecipe = "reference"\naccepts = {}\n[points]\n'
    text += "\n".join(f'"{name}" = {value}' for name, value in load_assignment("five-steps").points.items())
    text += '\n[penalties]\n"initial weights" = 9\n'
    path = tmp_path / "five.toml"
    path.write_text(text.replace("{}", '["WithoutPooling"]'))
    assert 0 == command("gradecheck", str(path))[0]
    path.write_text(text.replace("{}", '["Nobody"]'))
    code, _, err = command("gradecheck", str(path))
    assert 2 == code
    assert "accepts: 'Nobody' is not a known key" in err
