"""`harness evaluate`: counts, predictions, the picture, and unusable weights."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from harness.training import RunRecord
from tests.pages import Outline

Command = Callable[..., tuple[int, str, str]]

pytestmark = [pytest.mark.smoke, pytest.mark.usefixtures("quick_load")]  # it trains


@pytest.fixture
def folder(tmp_path: Path, command: Command) -> Path:
    """A finished run of a few steps."""
    recipe = tmp_path / "short.toml"
    recipe.write_text('batch_size = 256\nepochs = 2\n[optimizer]\nname = "sgd"\nlr = 0.1\n', encoding="utf-8")
    options = ("--recipe", recipe, "--data", "digits", "--device", "cpu", "--out", tmp_path)
    code, _, _ = command("train", "cloud_2", *options)
    assert 0 == code
    return tmp_path


def evaluate(command: Command, folder: Path, *more: object) -> tuple[int, str, str]:
    """Evaluate the run's weights on the digits."""
    weights = folder / "weights.safetensors"
    return command("evaluate", "cloud_2", "--weights", weights, "--data", "digits", "--device", "cpu", *more)


def test_the_counts_equal_those_of_the_record(folder: Path, command: Command) -> None:
    """Correct predictions, loss and digest of the saved weights equal those of the run's last epoch."""
    code, out, _ = evaluate(command, folder, "--json", "-")
    found, record = json.loads(out), RunRecord.read(folder / "record.json")
    last = record.epochs[-1]

    assert (0, last.test_correct, last.test_total, last.test_loss, record.state_digest) == (
        code,
        found["correct"],
        found["total"],
        found["loss"],
        found["state_digest"],
    )


def test_the_outputs_are_consistent(folder: Path, command: Command) -> None:
    """Confusion matrix, misclassified images, table and CSV are consistent."""
    path = folder / "answers.csv"
    _, out, _ = evaluate(command, folder, "--json", "-", "--answers", path)
    found = json.loads(out)
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    wrong = [int(row["index"]) for row in rows if row["label"] != row["answer"]]
    _, table, _ = evaluate(command, folder, "--html", folder / "page.html")
    page = Outline((folder / "page.html").read_bytes())

    assert found["correct"] == sum(counts[label] for label, counts in enumerate(found["confusion"]))
    assert found["total"] == len(rows) == sum(map(sum, found["confusion"]))
    assert wrong == [one["index"] for one in found["wrong"]]
    assert f"{found['correct']} of {found['total']} correct" in table
    assert f"{len(wrong)} wrongly predicted test images; the first 24" in page.text
    assert 24 == len(page.all("img"))
    assert 10 == len([line for line in table.splitlines() if line.split()[:1] and line.split()[0].isdigit()])


def test_misclassified_images_are_drawn(folder: Path, command: Command) -> None:
    """The picture is written as PNG; a format other than PNG and SVG is refused."""
    code, _, err = evaluate(command, folder, "--plot", folder / "wrong.png")
    assert (0, True) == (code, "picture: " in err)
    assert (folder / "wrong.png").read_bytes().startswith(b"\x89PNG")

    code, _, err = evaluate(command, folder, "--plot", folder / "wrong.gif")
    assert (2, True) == (code, "expected a file name that ends in .png or .svg" in err)


def test_nan_is_no_prediction(folder: Path, command: Command) -> None:
    """With NaN weights no prediction is correct, and the document is valid JSON."""
    trained = load_file(folder / "weights.safetensors")
    state = {
        name: torch.full_like(tensor, torch.nan) if tensor.is_floating_point() else tensor
        for name, tensor in trained.items()
    }
    torch.save(state, folder / "nan.pt")
    shared = ("--data", "digits", "--device", "cpu", "--json", "-", "--answers", folder / "nan.csv")
    code, out, _ = command("evaluate", "cloud_2", "--weights", folder / "nan.pt", *shared)
    found = json.loads(out)

    assert (0, 0, None, None) == (code, found["correct"], found["loss"], found["wrong"][0]["answer"])
    assert "0,0,," in (folder / "nan.csv").read_text(encoding="utf-8")


def test_weights_of_another_model_are_refused(folder: Path, command: Command) -> None:
    """Weights of another model are exit code 2."""
    weights = folder / "weights.safetensors"
    code, _, err = command("evaluate", "cloud_1", "--weights", weights, "--data", "digits")
    assert (2, True) == (code, "expected the weights of this model" in err)


def test_a_fresh_run_keeps_the_earlier_weights(folder: Path, command: Command) -> None:
    """Record and weights of the finished run are renamed with the same time stamp."""
    recipe = folder / "short.toml"
    options = ("--recipe", recipe, "--data", "digits", "--device", "cpu", "--out", folder, "--fresh")
    command("train", "cloud_2", *options)
    stamps = [
        path.stem.partition("-")[2] for path in (*folder.glob("record-*.json"), *folder.glob("weights-*.safetensors"))
    ]

    assert 2 == len(stamps)
    assert stamps[0] == stamps[1]
