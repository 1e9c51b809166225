"""`harness train` and `verify` on the embedded digits: records, resuming, verdicts, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import harness.data
from harness.cli.console import TrainingProgress
from harness.data import Dataset
from harness.data.digits import DIGITS_TITLE
from harness.training import EpochResult, RunRecord

Command = Callable[..., tuple[int, str, str]]

pytestmark = [pytest.mark.smoke, pytest.mark.usefixtures("quick_load")]  # it trains

RECIPE = """\
batch_size = 128
epochs = 2

[optimizer]
name = "sgd"
lr = 0.1
momentum = 0.9
"""


@pytest.fixture(autouse=True)
def _few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave so few of the digits that an epoch takes no time."""
    load = harness.data.load_dataset

    def load_few(choice: str, **options: Any) -> Dataset:  # noqa: ANN401 - passed on as they are
        data = load(choice, **options)
        return replace(
            data,
            train_images=data.train_images[:256],
            train_labels=data.train_labels[:256],
            test_images=data.test_images[:100],
            test_labels=data.test_labels[:100],
        )

    monkeypatch.setattr(harness.data, "load_dataset", load_few)


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe of two quick epochs, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "short.toml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Interrupts the next training after its first epoch, as Ctrl-C would."""

    def arm() -> None:
        show = TrainingProgress.on_epoch

        def interrupt(self: TrainingProgress, result: EpochResult) -> None:
            show(self, result)
            monkeypatch.setattr(TrainingProgress, "on_epoch", show)
            raise KeyboardInterrupt

        monkeypatch.setattr(TrainingProgress, "on_epoch", interrupt)

    return arm


def bits(record: RunRecord) -> tuple[object, ...]:
    """What of a record must repeat: everything but the times."""
    return record.state_digest, [(epoch.train_loss, epoch.test_correct, epoch.test_loss) for epoch in record.epochs]


def train_arguments(recipe: Path, *more: object) -> tuple[object, ...]:
    """A short training on the digits."""
    return "train", "cloud_2", "--recipe", recipe, "--data", "digits", "--device", "cpu", *more


def test_train_records_every_epoch(recipe: Path, command: Command) -> None:
    """A training shows each epoch, names the digits as what they are, and leaves a whole record."""
    code, out, err = command(*train_arguments(recipe))
    path = recipe.parent / "runs/cloud_2-short-2-digits-cpu-fast-seed1/record.json"
    record = RunRecord.read(path)

    assert code == 0
    assert err.splitlines()[0] == f"data: {DIGITS_TITLE}, embedded in the package"
    assert [line.split()[1] for line in err.splitlines() if line.startswith("epoch")] == ["1/2", "2/2"]
    assert err.splitlines()[-1] == f"record: {path.relative_to(recipe.parent)}"
    assert "complete after epoch 2" in " ".join(out.split())
    assert ("complete", 2, "digits", DIGITS_TITLE) == (
        record.status,
        len(record.epochs),
        record.data_name,
        record.data_title,
    )


def test_epochs_replace_those_of_the_recipe(recipe: Path, command: Command) -> None:
    """--epochs trains for so many epochs, and the record declares them."""
    code, out, _ = command(*train_arguments(recipe, "--epochs", 1, "--out", "here", "--json", "-"))

    assert code == 0
    assert json.loads(out) == RunRecord.read("here/record.json").to_json()
    assert json.loads(out)["recipe"]["epochs"] == 1


def test_an_interrupted_run_goes_on_to_the_same_end(
    recipe: Path, command: Command, interrupted: Callable[[], None]
) -> None:
    """Ctrl-C leaves a record and exit code 130; the same command goes on, to the bits of an unbroken run."""
    command(*train_arguments(recipe, "--out", "whole"))

    interrupted()
    code, _, err = command(*train_arguments(recipe, "--out", "broken"))
    so_far = RunRecord.read("broken/record.json")
    again_code, _, again_err = command(*train_arguments(recipe, "--out", "broken"))

    assert (code, again_code) == (130, 0)
    assert err.splitlines()[-1] == "error: interrupted after 1 of 2 epochs"
    assert "the same command goes on from there" in err
    assert ("interrupted", 1) == (so_far.status, len(so_far.epochs))
    assert "going on after epoch 1" in again_err
    assert bits(RunRecord.read("whole/record.json")) == bits(RunRecord.read("broken/record.json"))


def test_a_fresh_run_keeps_the_record_of_the_finished_one(
    recipe: Path, command: Command, interrupted: Callable[[], None]
) -> None:
    """--fresh starts over; the finished run's record is kept, even where the new run is interrupted."""
    command(*train_arguments(recipe, "--out", "here"))
    finished = RunRecord.read("here/record.json")

    interrupted()
    code, _, err = command(*train_arguments(recipe, "--out", "here", "--fresh"))
    records = sorted(Path("here").glob("record*.json"))

    assert code == 130
    assert "going on" not in err
    assert len(records) == 2
    assert ["complete", "interrupted"] == sorted(RunRecord.read(path).status for path in records)
    assert finished in [RunRecord.read(path) for path in records]


def test_another_run_in_the_same_folder_is_refused(recipe: Path, command: Command) -> None:
    """A folder with another run's checkpoints is not gone on from."""
    command(*train_arguments(recipe, "--out", "here"))

    code, _, err = command(*train_arguments(recipe, "--out", "here", "--seed", 2))

    assert code == 2
    assert "seed" in err.splitlines()[-1]


def test_a_folder_that_cannot_be_made(recipe: Path, command: Command) -> None:
    """--out under a file is an input error."""
    code, _, err = command(*train_arguments(recipe, "--out", recipe / "here"))

    assert code == 2
    assert "--out" in err


def test_a_run_that_diverges_is_a_failure(recipe: Path, command: Command) -> None:
    """A loss that is no number ends the run with exit code 1 and a record that says so."""
    recipe.write_text(RECIPE.replace("0.1", "1e30"), encoding="utf-8")

    code, out, _ = command(*train_arguments(recipe, "--out", "here"))

    assert code == 1
    assert "diverged" in out
    assert RunRecord.read("here/record.json").status == "diverged"


def verify_arguments(recipe: Path, *more: object) -> tuple[object, ...]:
    """A short verification on the digits."""
    return "verify", "cloud_2", "--recipe", recipe, "--device", "cpu", "--out", "here", *more


def test_verify_without_mnist_says_so_first_and_last(recipe: Path, command: Command) -> None:
    """Without MNIST and network the digits stand in: in the first line, in the verdict and in the record."""
    code, out, err = command(*verify_arguments(recipe))
    verdict = " ".join(out.split("FAIL")[-1].split())

    assert "using the embedded handwritten digits" in err.splitlines()[0]
    assert f"cloud_2 against era-s7 with the accuracy of digits, on {DIGITS_TITLE}" == verdict
    assert RunRecord.read("here/record.json").data_title == DIGITS_TITLE
    # Two epochs are fewer than the rule looks at.
    assert code == 1


def test_verify_passes_what_meets_its_contract(recipe: Path, command: Command) -> None:
    """A contract that two epochs can meet ends with exit code 0, all parts of the examination shown."""
    contract = recipe.with_name("easy.toml")
    contract.write_text(
        'name = "digits"\n[parameters]\nbelow = 8000\n[accuracy]\ntarget = 1\nrule = "best"\nmax_epochs = 2\n',
        encoding="utf-8",
    )

    code, out, _ = command(*verify_arguments(recipe, "--contract", contract, "--data", "digits"))
    shown = [line.split()[:2] for line in out.splitlines()]

    assert code == 0
    assert [name for name in ("parameters", "smoke", "epochs", "accuracy") if ["pass", name] not in shown] == []
    assert out.splitlines()[-1].startswith("PASS")


def test_quick_leaves_the_long_run_out(recipe: Path, command: Command) -> None:
    """--quick skips epochs and accuracy by name, and writes no record."""
    code, out, _ = command(*verify_arguments(recipe, "--data", "digits", "--quick"))
    shown = [line.split()[:2] for line in out.splitlines()]

    assert code == 0
    assert [name for name in ("epochs", "accuracy") if ["skip", name] not in shown] == []
    assert not Path("here").exists()


def test_verify_fails_what_does_not_learn(recipe: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """A smoke run in which nothing is learnt fails, with what to look for."""
    monkeypatch.setattr("harness.training.smoke._MARGIN", 0.999)

    code, out, _ = command(*verify_arguments(recipe, "--data", "digits", "--quick"))

    assert code == 1
    assert "Look for a layer that passes no gradient" in out


def test_two_runs_do_not_share_a_folder(recipe: Path, command: Command) -> None:
    """While a process trains into a folder another one is refused; once that has ended, by whatever end, it goes on."""
    arguments = train_arguments(recipe, "--out", "shared")
    Path("shared").mkdir()
    holder = (
        "import sys, filelock; lock = filelock.FileLock('shared/.lock'); lock.acquire(); "
        "print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", holder], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        code, _, err = command(*arguments)
        assert (2, True) == (code, "which another process is busy with" in err)
        assert [".lock"] == [path.name for path in Path("shared").iterdir()]
        other.kill()
    code, _, _ = command(*arguments)
    assert code == 0
