"""`harness check`: findings, evidence and exit codes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import harness.sources
from harness.sources import load
from tests.pages import Outline

Command = Callable[..., tuple[int, str, str]]

# Exactly 8,000 parameters: 12 * 9 + 24 + 66 * 12 * 9 + 132 + 8 * 66 + 10 * 8.
EXACTLY_8000 = """\
from torch import nn


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 12, 3, bias=False), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(12, 66, 3, bias=False), nn.BatchNorm2d(66), nn.ReLU(), nn.Dropout(0.1),
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(66, 8, 1, bias=False), nn.Conv2d(8, 10, 1, bias=False), nn.Flatten(),
        )
"""


@pytest.mark.usefixtures("quick_load")
@pytest.mark.parametrize(
    ("name", "contract", "budget", "found"),
    [("five_step_1", "five-steps", "10,000", "6,379,786"), ("rf_study_5", "era-s7", "8,000", "8,018")],
)
def test_check_fails_a_model_over_budget(name: str, contract: str, budget: str, found: str, command: Command) -> None:
    """A model over its budget ends with exit code 1, both counts and a hint."""
    code, out, _ = command("check", name, "--contract", contract)
    lines = [" ".join(line.split()) for line in out.splitlines()]

    assert 1 == code
    assert f"fail parameters {found} parameters" in lines
    assert f"expected fewer than {budget} parameters" in lines
    assert any(line.startswith("hint remove at least ") for line in lines)
    assert f"FAIL {name} against {contract}, structure only" == lines[-1]


@pytest.mark.usefixtures("quick_load")
def test_check_skips_accuracy(command: Command) -> None:
    """A shipped model is checked against the contract of its card; accuracy is skipped; passed requirements have no evidence."""
    code, out, _ = command("check", "cloud_2")
    lines = [" ".join(line.split()) for line in out.splitlines()]

    assert 0 == code
    assert "pass parameters 5,048 parameters" in lines
    assert "skip accuracy not checked: harness check does not train, use harness verify" in lines
    assert "PASS cloud_2 against era-s7, structure only" == lines[-1]
    assert not any(line.startswith("evidence") for line in lines)


@pytest.mark.usefixtures("quick_load")
def test_check_shows_evidence_when_asked(command: Command) -> None:
    """--evidence shows the evidence for passed requirements, too."""
    _, out, _ = command("check", "cloud_2", "--evidence")

    assert "averages the whole 8x8 map, on every path to the output" in " ".join(out.split())


@pytest.mark.usefixtures("worker_here")
def test_8000_parameters_are_not_below_8000(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of exactly 8,000 parameters fails `below = 8000` and passes `max = 8000`."""
    net, at_most = tmp_path / "net.py", tmp_path / "at-most.toml"
    net.write_text(EXACTLY_8000, encoding="utf-8")
    at_most.write_text("[parameters]\nmax = 8000\n", encoding="utf-8")
    loaded = load(str(net))
    monkeypatch.setattr(harness.sources, "load", lambda *_, **__: loaded)

    strict_code, strict, _ = command("check", net, "--contract", "era-s7")
    inclusive_code, inclusive, _ = command("check", net, "--contract", at_most)

    assert (1, 0) == (strict_code, inclusive_code)
    assert "fail     parameters" in strict
    assert "remove at least 1" in strict
    assert "pass     parameters  8,000 parameters" in inclusive


@pytest.mark.usefixtures("quick_load")
def test_check_writes_a_page(command: Command, tmp_path: Path) -> None:
    """The page has the findings with their evidence, the layers, the receptive fields and the environment."""
    code, _, err = command("check", "cloud_2", "--html", tmp_path / "check.html")
    page = Outline((tmp_path / "check.html").read_bytes())

    assert (0, True) == (code, "page: " in err)
    for words in (
        "cloud_2 against era-s7, structure only",
        "5,048 parameters",
        "block1.0",
        "Conv2d 3x3",
        "Examined with",
    ):
        assert words in page.text
    (drawing,) = page.all("svg")
    assert "Receptive fields of 3, 5, 6, 10, 14, 18 pixels on an image of 28 by 28 pixels" == drawing["aria-label"]
