"""`harness list`, `show`, `check` and `doctor`: what they print and what they decide."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

import harness.sources
from harness.datasets import PUBLISHED
from harness.sources import load_model
from mnist_models import list_models, model_card

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


def test_list_has_a_row_for_each_model(command: Command) -> None:
    """Below its header the list has the 17 models, each with its number of parameters, a line each."""
    code, out, _ = command("list")
    rows = [line.split()[:2] for line in out.splitlines()[1:]]

    assert code == 0
    assert rows == [[name, f"{model_card(name).parameters:,}"] for name in list_models()]
    assert len(rows) == 17


@pytest.mark.usefixtures("quick_load")
def test_show_prints_the_layers(command: Command) -> None:
    """The layer table has the published shapes and counts, and names the module that is never called."""
    code, out, _ = command("show", "cloud_1")
    lines = [" ".join(line.split()) for line in out.splitlines()]

    assert code == 0
    assert "Conv2d 3x3 block1.0 16x26x26 144 3" in lines
    assert "MaxPool2d 2x2 pool 10x12x12 0 6" in lines
    assert "parameters 13,808, 13,808 of them trainable" in lines
    assert "never called dropout (Dropout)" in lines
    assert any(line.startswith("expected misses the accuracy rule of era-s7") for line in lines)


@pytest.mark.usefixtures("quick_load")
@pytest.mark.parametrize(("name", "reported"), [("five_step_4", True), ("cloud_2", False)])
def test_show_reports_what_follows_the_last_convolution(name: str, reported: object, command: Command) -> None:
    """The ReLU between the last convolution and the output of five_step_4 is told; where nothing is, nothing is."""
    _, out, _ = command("show", name)

    assert reported is ("ReLU stand between Conv2d head and the output" in out)


@pytest.mark.usefixtures("quick_load")
@pytest.mark.parametrize(
    ("name", "contract", "budget", "found"),
    [("five_step_1", "five-steps", "10,000", "6,379,786"), ("rf_study_5", "era-s7", "8,000", "8,018")],
)
def test_check_fails_a_model_over_budget(name: str, contract: str, budget: str, found: str, command: Command) -> None:
    """A model over its budget ends with exit code 1, both figures and what to remove."""
    code, out, _ = command("check", name, "--contract", contract)
    lines = [" ".join(line.split()) for line in out.splitlines()]

    assert code == 1
    assert f"fail parameters {found} parameters" in lines
    assert f"expected fewer than {budget} parameters" in lines
    assert any(line.startswith("hint remove at least ") for line in lines)
    assert lines[-1] == f"FAIL {name} against {contract}, structure only"


@pytest.mark.usefixtures("quick_load")
def test_check_asks_no_accuracy(command: Command) -> None:
    """A shipped model is checked by its card's contract; accuracy is skipped, and what holds is left unexplained."""
    code, out, _ = command("check", "cloud_2")
    lines = [" ".join(line.split()) for line in out.splitlines()]

    assert code == 0
    assert "pass parameters 5,048 parameters" in lines
    assert "skip accuracy not asked: check trains nothing, verify does" in lines
    assert lines[-1] == "PASS cloud_2 against era-s7, structure only"
    assert not any(line.startswith("evidence") for line in lines)


@pytest.mark.usefixtures("quick_load")
def test_check_shows_evidence_when_asked(command: Command) -> None:
    """--evidence explains what holds, too."""
    _, out, _ = command("check", "cloud_2", "--evidence")

    assert "averages the whole 8x8 map; feeds the head" in " ".join(out.split())


@pytest.mark.usefixtures("worker_here")
def test_8000_parameters_are_not_below_8000(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's model of exactly 8,000 parameters fails `below = 8000` and passes `max = 8000`."""
    net, at_most = tmp_path / "net.py", tmp_path / "at-most.toml"
    net.write_text(EXACTLY_8000, encoding="utf-8")
    at_most.write_text("[parameters]\nmax = 8000\n", encoding="utf-8")
    captured = load_model(str(net))
    monkeypatch.setattr(harness.sources, "load_model", lambda *_, **__: captured)

    strict_code, strict, _ = command("check", net, "--contract", "era-s7")
    inclusive_code, inclusive, _ = command("check", net, "--contract", at_most)

    assert (1, 0) == (strict_code, inclusive_code)
    assert "fail     parameters" in strict
    assert "remove at least 1" in strict
    assert "pass     parameters  8,000 parameters" in inclusive


@pytest.mark.usefixtures("quick_load")
def test_names_are_printed_as_they_are(command: Command, tmp_path: Path) -> None:
    """Brackets and colons in a name are neither styles nor pictures."""
    contract = tmp_path / "[bold] :smile: [].toml"
    contract.write_text("[parameters]\nmax = 8000\n", encoding="utf-8")

    code, out, _ = command("check", "cloud_2", "--contract", contract)

    assert code == 0
    assert "cloud_2 against [bold] :smile: []" in out


def test_json_on_standard_output_stands_alone(command: Command) -> None:
    """With --json - nothing but the document is printed."""
    code, out, err = command("list", "--json", "-")

    assert (code, err) == (0, "")
    assert json.loads(out)["schema"] == "harness.list/1"


def test_json_in_a_file_comes_with_the_usual_output(command: Command, tmp_path: Path) -> None:
    """With --json PATH the result is printed and written; an earlier file is replaced."""
    path = tmp_path / "list.json"
    path.write_text("earlier", encoding="utf-8")

    code, out, _ = command("list", "--json", path)

    assert code == 0
    assert out.startswith("name ")
    assert len(json.loads(path.read_text(encoding="utf-8"))["models"]) == 17


@pytest.mark.parametrize("place", ["nosuch/list.json", "."])
def test_an_unwritable_json_is_refused_before_the_work(
    place: str, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A place that cannot be written to is a usage error, before anything is examined."""
    monkeypatch.setattr(harness.sources, "load_model", lambda *_, **__: pytest.fail("the model was loaded"))

    code, out, err = command("check", "cloud_2", "--json", tmp_path / place)

    assert (code, out) == (2, "")
    assert "Invalid value for '--json': expected a file that can be written" in " ".join(err.split())


def test_a_json_that_fails_late_leaves_the_earlier_file(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where writing fails in the end, what was there stays and the exit code is 2."""
    path = tmp_path / "list.json"
    path.write_text("earlier", encoding="utf-8")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)

    code, _, err = command("list", "--json", path)

    assert code == 2
    assert "No space left on device" in err
    assert path.read_text(encoding="utf-8") == "earlier"
    assert [path] == list(tmp_path.iterdir())


def test_doctor_says_what_is_missing_and_how_to_get_it(command: Command) -> None:
    """Versions, devices and threads are named; MNIST is missing here, and the remedy is told."""
    code, out, _ = command("doctor")
    words = " ".join(out.split())

    assert code == 0
    assert [
        name for name in ("torch", "threads", "devices", "data (cache)", "data (embedded)") if name not in words
    ] == []
    assert "missing MNIST: Name a folder with the four MNIST files by HARNESS_DATA or --data" in words


def test_doctor_names_a_damaged_file(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file with other content is named as damaged, one that is not there as missing."""
    name = PUBLISHED["mnist"].files[1].name
    (tmp_path / name).write_bytes(b"not MNIST")
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))

    _, out, _ = command("doctor")
    words = " ".join(out.split())

    assert f"{name} damaged" in words
    assert f"{PUBLISHED['mnist'].files[0].name} missing" in words
