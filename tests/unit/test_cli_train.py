"""`harness train`: records, resuming, many seeds, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.cli.progress import SeedsProgress, TrainingProgress
from harness.cli.train import train
from harness.data.digits import DIGITS_TITLE
from harness.files import sole_writer
from harness.training import DIGEST_EVERY, EpochResult, RunRecord, SeedOutcome, train_seeds
from tests.documents import schema_errors

Command = Callable[..., tuple[int, str, str]]

SHORT_RECIPE = """\
batch_size = 128
epochs = 2

[optimizer]
name = "sgd"
lr = 0.1
momentum = 0.9
"""
SEEDS_RECIPE = """\
batch_size = 512
epochs = 2

[optimizer]
name = "sgd"
lr = 0.1
"""


@pytest.fixture
def short_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe of two short epochs, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "short.toml"
    path.write_text(SHORT_RECIPE, encoding="utf-8")
    return path


@pytest.fixture
def seeds_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe of two epochs with three steps each, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "short.toml"
    path.write_text(SEEDS_RECIPE, encoding="utf-8")
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
    """The parts of a record that must repeat: everything except the times."""
    return record.state_digest, [(epoch.train_loss, epoch.test_correct, epoch.test_loss) for epoch in record.epochs]


def train_arguments(short_recipe: Path, *more: object) -> tuple[object, ...]:
    """A short training on the digits."""
    return "train", "cloud_2", "--recipe", short_recipe, "--data", "digits", "--device", "cpu", *more


@pytest.mark.smoke
@pytest.mark.usefixtures("quick_load", "few_digits")
def test_train_records_every_epoch(short_recipe: Path, command: Command) -> None:
    """A training prints each epoch and the title of the digits, and leaves a complete record."""
    code, out, err = command(*train_arguments(short_recipe))
    path = short_recipe.parent / "runs/cloud_2-short-2-digits-cpu-fast-seed1/record.json"
    record = RunRecord.read(path)

    assert 0 == code
    assert f"data: {DIGITS_TITLE}, embedded in the package" == err.splitlines()[0]
    assert [line.split()[1] for line in err.splitlines() if line.startswith("epoch")] == ["1/2", "2/2"]
    assert f"record: {path.relative_to(short_recipe.parent)}" == err.splitlines()[-1]
    assert "complete after epoch 2" in " ".join(out.split())
    assert ("complete", 2, "digits", DIGITS_TITLE) == (
        record.status,
        len(record.epochs),
        record.data_name,
        record.data_title,
    )


@pytest.mark.smoke
@pytest.mark.usefixtures("quick_load", "few_digits")
def test_epochs_replace_those_of_the_recipe(short_recipe: Path, command: Command) -> None:
    """--epochs replaces the epochs of the recipe, in the training and in the record."""
    code, out, _ = command(*train_arguments(short_recipe, "--epochs", 1, "--out", "here", "--json", "-"))

    assert 0 == code
    assert json.loads(out) == RunRecord.read("here/record.json").to_json()
    assert 1 == json.loads(out)["recipe"]["epochs"]


@pytest.mark.smoke
@pytest.mark.usefixtures("quick_load", "few_digits")
def test_an_interrupted_run_resumes_to_the_same_bits(
    short_recipe: Path, command: Command, interrupted: Callable[[], None]
) -> None:
    """Ctrl-C leaves a record and exit code 130; the same command resumes, with the bits of an uninterrupted run."""
    command(*train_arguments(short_recipe, "--out", "whole"))

    interrupted()
    code, _, err = command(*train_arguments(short_recipe, "--out", "broken"))
    so_far = RunRecord.read("broken/record.json")
    again_code, _, again_err = command(*train_arguments(short_recipe, "--out", "broken"))

    assert (130, 0) == (code, again_code)
    assert "error: interrupted after 1 of 2 epochs" == err.splitlines()[-1]
    assert "run the same command again to resume" in err
    assert ("interrupted", 1) == (so_far.status, len(so_far.epochs))
    assert "resuming after epoch 1" in again_err
    assert bits(RunRecord.read("whole/record.json")) == bits(RunRecord.read("broken/record.json"))


@pytest.mark.smoke
@pytest.mark.usefixtures("quick_load", "few_digits")
def test_a_fresh_run_keeps_the_record_of_the_finished_one(
    short_recipe: Path, command: Command, interrupted: Callable[[], None]
) -> None:
    """--fresh starts over; the record of the finished run is kept, even if the new run is interrupted."""
    command(*train_arguments(short_recipe, "--out", "here"))
    finished = RunRecord.read("here/record.json")

    interrupted()
    code, _, err = command(*train_arguments(short_recipe, "--out", "here", "--fresh"))
    records = sorted(Path("here").glob("record*.json"))

    assert 130 == code
    assert "resuming" not in err
    assert 2 == len(records)
    assert ["complete", "interrupted"] == sorted(RunRecord.read(path).status for path in records)
    assert finished in [RunRecord.read(path) for path in records]


@pytest.mark.smoke
@pytest.mark.usefixtures("quick_load", "few_digits")
def test_another_run_in_the_same_folder_is_refused(short_recipe: Path, command: Command) -> None:
    """The checkpoints of another run are not resumed."""
    command(*train_arguments(short_recipe, "--out", "here"))

    code, _, err = command(*train_arguments(short_recipe, "--out", "here", "--seed", 2))

    assert 2 == code
    assert "seed" in err.splitlines()[-1]


@pytest.mark.smoke
@pytest.mark.usefixtures("quick_load", "few_digits")
def test_an_impossible_folder_is_an_error(short_recipe: Path, command: Command) -> None:
    """--out below a file is an input error."""
    code, _, err = command(*train_arguments(short_recipe, "--out", short_recipe / "here"))

    assert 2 == code
    assert "--out" in err


@pytest.mark.smoke
@pytest.mark.usefixtures("quick_load", "few_digits")
def test_a_diverged_run_is_a_failure(short_recipe: Path, command: Command) -> None:
    """A loss that is not finite ends the run with exit code 1 and status diverged."""
    short_recipe.write_text(SHORT_RECIPE.replace("0.1", "1e30"), encoding="utf-8")

    code, out, _ = command(*train_arguments(short_recipe, "--out", "here"))

    assert 1 == code
    assert "diverged" in out
    assert "diverged" == RunRecord.read("here/record.json").status


@pytest.mark.smoke
@pytest.mark.usefixtures("quick_load", "few_digits")
def test_two_runs_do_not_share_a_folder(short_recipe: Path, command: Command) -> None:
    """A folder in use by another process is refused, until that process ends."""
    arguments = train_arguments(short_recipe, "--out", "shared")
    Path("shared").mkdir()
    holder = (
        "import sys, filelock; lock = filelock.FileLock('shared/.lock'); lock.acquire(); "
        "print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", holder], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        code, _, err = command(*arguments)
        assert (2, True) == (code, "into which another process is writing" in err)
        assert [".lock"] == [path.name for path in Path("shared").iterdir()]
        other.kill()
    code, _, _ = command(*arguments)
    assert 0 == code


def seeds_arguments(seeds_recipe: Path, *more: object) -> tuple[object, ...]:
    """Short trainings on the digits, into the folder here."""
    return "train", "cloud_2", "--recipe", seeds_recipe, "--data", "digits", "--out", "here", *more


@pytest.mark.usefixtures("quick_load")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--seeds", "some"), "expected seeds such as 0-31 or 1,5,8-11, from 0 to 2**63 - 1, got 'some'"),
        (("--seeds", ""), "expected seeds such as 0-31"),
        (("--seeds", "1,,2"), "expected seeds such as 0-31"),
        (("--seeds", "-1"), "expected seeds such as 0-31"),
        (("--seeds", str(2**63)), "expected seeds such as 0-31"),
        (("--seeds", "5-3"), "expected ascending ranges of at most 10,000 seeds, got '5-3'"),
        (("--seeds", "0-10000"), "expected ascending ranges of at most 10,000 seeds"),
        (("--seeds", "1,0-3"), "expected distinct seeds, got '1,0-3'"),
        (("--seeds", "0-3", "--seed", "1"), "expected --seed or --seeds, got both"),
        (("--seeds", "0-3", "--threads", "2"), "expected one thread per seed with --seeds, got --threads 2"),
        (("--jobs", "2"), "expected --seeds together with --jobs"),
        (("--engine", "warp"), "engine='warp'"),
    ],
)
def test_wrong_seeds_options_are_refused_first(
    seeds_recipe: Path, command: Command, options: tuple[str, ...], words: str
) -> None:
    """Wrong options are exit code 2 with what was expected and what was given; no folder is created."""
    code, _, err = command(*seeds_arguments(seeds_recipe, *options))

    assert 2 == code
    assert words in " ".join(err.split())
    assert not Path("here").exists()


@pytest.mark.smoke
def test_seeds_are_trained_summed_up_and_kept(seeds_recipe: Path, command: Command) -> None:
    """A table, a valid document and one record per seed; repeated, the command trains nothing and prints the same."""
    code, out, err = command(*seeds_arguments(seeds_recipe, "--seeds", "3,0-1", "--json", "seeds.json"))
    document = json.loads(Path("seeds.json").read_text(encoding="utf-8"))
    written = {seed: Path(f"here/seed-{seed}/record.json").read_bytes() for seed in (0, 1, 3)}
    again_code, again_out, _ = command(*seeds_arguments(seeds_recipe, "--seeds", "3,0-1", "--json", "again.json"))

    assert (0, 0) == (code, again_code)
    assert [] == schema_errors(document)
    assert [entry["seed"] for entry in document["seeds"]] == [3, 0, 1]
    for entry in document["seeds"]:
        record = RunRecord.read(Path(entry["folder"]) / "record.json")
        assert entry["test_correct"] == [epoch.test_correct for epoch in record.epochs]
        assert ("complete", "fast", "cloud_2") == (entry["status"], record.engine, record.source)
    assert "3 of 3 seeds complete; last epoch: mean" in " ".join(out.split())
    assert "seed 3 complete, epoch 2: test" in " ".join(err.split())
    assert out == again_out
    assert document == json.loads(Path("again.json").read_text(encoding="utf-8"))
    assert written == {seed: Path(f"here/seed-{seed}/record.json").read_bytes() for seed in written}


@pytest.mark.smoke
def test_one_seed_on_one_thread_equals_its_run_among_many(seeds_recipe: Path, command: Command) -> None:
    """``--seed 1 --threads 1`` computes the bits of seed 1 in ``--seeds 0-1``."""
    command(*seeds_arguments(seeds_recipe, "--seeds", "0-1"))
    code, _, _ = command(*seeds_arguments(seeds_recipe)[:-1], "solo", "--seed", "1", "--threads", "1")

    assert 0 == code
    solo, grouped = RunRecord.read("solo/record.json"), RunRecord.read("here/seed-1/record.json")
    assert solo.state_digest == grouped.state_digest
    assert solo.digests == grouped.digests


@pytest.mark.smoke
def test_two_trainings_of_seeds_do_not_share_a_folder(seeds_recipe: Path, command: Command) -> None:
    """A folder in use is refused and not changed."""
    Path("here").mkdir()
    with sole_writer(Path("here")):
        code, _, err = command(*seeds_arguments(seeds_recipe, "--seeds", "0-1"))

    assert 2 == code
    assert "into which another process is writing" in " ".join(err.split())
    assert [".lock"] == [path.name for path in Path("here").iterdir()]


@pytest.mark.smoke
def test_interrupted_seeds_resume(seeds_recipe: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupted training of seeds is exit code 130; the same command resumes."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SeedsProgress, "on_seed_end", interrupt)
        code, _, err = command(*seeds_arguments(seeds_recipe, "--seeds", "0-1", "--jobs", "1"))
    again_code, out, _ = command(*seeds_arguments(seeds_recipe, "--seeds", "0-1"))

    assert (130, 0) == (code, again_code)
    assert "of 2 seeds are finished, and their results are kept" in " ".join(err.split())
    assert "2 of 2 seeds complete" in " ".join(out.split())


@pytest.mark.smoke
def test_a_seed_that_is_not_finished_is_exit_code_3(
    seeds_recipe: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unfinished seed is exit code 3, and the table gives the reason."""

    def lose_one(*given: Any, **options: Any) -> tuple[SeedOutcome, ...]:  # noqa: ANN401 - passed on as they are
        first, second = train_seeds(*given, **options)
        return first, SeedOutcome(seed=second.seed, folder=second.folder, record=None, problem="its process was killed")

    monkeypatch.setattr("harness.training.train_seeds", lose_one)
    code, out, _ = command(*seeds_arguments(seeds_recipe, "--seeds", "0-1", "--json", "seeds.json"))
    document = json.loads(Path("seeds.json").read_text(encoding="utf-8"))

    assert 3 == code
    assert "not finished: its process was killed" in " ".join(out.split())
    assert "1 of 2 seeds complete; when their problems are solved, the same command trains the others" in " ".join(
        out.split()
    )
    assert [entry["status"] for entry in document["seeds"]] == ["complete", "unfinished"]


@pytest.mark.smoke
def test_a_diverged_seed_is_a_failure(seeds_recipe: Path, command: Command) -> None:
    """A diverged seed is exit code 1, as for a single run."""
    seeds_recipe.write_text(SEEDS_RECIPE.replace("0.1", "1e30"), encoding="utf-8")

    code, out, _ = command(*seeds_arguments(seeds_recipe, "--seeds", "0-1"))

    assert 1 == code
    assert "diverged" in out
    assert "0 of 2 seeds complete" in " ".join(out.split())


def test_the_default_digest_interval_is_the_librarys() -> None:
    """The default of --digest-every is the interval of a training by the library."""
    (option,) = (parameter for parameter in train.params if parameter.name == "digest_every")

    assert DIGEST_EVERY == option.default
