"""`harness evaluate`: the counts of the record, the answers as data, the picture, and files that are no weights."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from harness.training import RunRecord

Command = Callable[..., tuple[int, str, str]]

pytestmark = [pytest.mark.smoke, pytest.mark.usefixtures("quick_load")]  # it trains


@pytest.fixture
def folder(tmp_path: Path, command: Command) -> Path:
    """A finished run of a few steps."""
    recipe = tmp_path / "short.toml"
    recipe.write_text('batch_size = 256\nepochs = 2\n[optimizer]\nname = "sgd"\nlr = 0.1\n', encoding="utf-8")
    options = ("--recipe", recipe, "--data", "digits", "--device", "cpu", "--out", tmp_path)
    code, _, _ = command("train", "cloud_2", *options)
    assert code == 0
    return tmp_path


def evaluate(command: Command, folder: Path, *more: object) -> tuple[int, str, str]:
    """Evaluate the run's weights on the digits."""
    weights = folder / "weights.safetensors"
    return command("evaluate", "cloud_2", "--weights", weights, "--data", "digits", "--device", "cpu", *more)


def test_the_counts_are_those_of_the_record(folder: Path, command: Command) -> None:
    """Right answers, loss and digest of the saved weights are those after the run's last epoch, exactly."""
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


def test_the_answers_agree(folder: Path, command: Command) -> None:
    """Confusion matrix, wrong images, table and CSV tell one story."""
    path = folder / "answers.csv"
    _, out, _ = evaluate(command, folder, "--json", "-", "--answers", path)
    found = json.loads(out)
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    wrong = [int(row["index"]) for row in rows if row["label"] != row["answer"]]
    _, table, _ = evaluate(command, folder)

    assert found["correct"] == sum(counts[label] for label, counts in enumerate(found["confusion"]))
    assert found["total"] == len(rows) == sum(map(sum, found["confusion"]))
    assert wrong == [one["index"] for one in found["wrong"]]
    assert f"{found['correct']} of {found['total']} right" in table
    assert 10 == len([line for line in table.splitlines() if line.split()[:1] and line.split()[0].isdigit()])


def test_the_wrong_images_are_drawn(folder: Path, command: Command) -> None:
    """A picture is written; another format than PNG and SVG is refused."""
    code, _, err = evaluate(command, folder, "--plot", folder / "wrong.png")
    assert (0, True) == (code, "picture: " in err)
    assert (folder / "wrong.png").read_bytes().startswith(b"\x89PNG")

    code, _, err = evaluate(command, folder, "--plot", folder / "wrong.gif")
    assert (2, True) == (code, "expected a picture's name that ends in .png or .svg" in err)


def test_nan_is_no_answer(folder: Path, command: Command) -> None:
    """Weights that are no numbers answer nothing: no image is right, and the JSON is still JSON."""
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
    """Exit code 2 and the names that do not fit."""
    weights = folder / "weights.safetensors"
    code, _, err = command("evaluate", "cloud_1", "--weights", weights, "--data", "digits")
    assert (2, True) == (code, "expected the weights of this model" in err)


def test_a_later_run_moves_the_weights_aside(folder: Path, command: Command) -> None:
    """A finished run's weights stay beside its record, named by the same time."""
    recipe = folder / "short.toml"
    options = ("--recipe", recipe, "--data", "digits", "--device", "cpu", "--out", folder, "--fresh")
    command("train", "cloud_2", *options)
    stamps = [
        path.stem.partition("-")[2] for path in (*folder.glob("record-*.json"), *folder.glob("weights-*.safetensors"))
    ]

    assert 2 == len(stamps)
    assert stamps[0] == stamps[1]
