"""`harness train --seeds`: what is asked for, what is said, the document, exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from harness.cli.console import SeedsProgress
from harness.files import sole_writer
from harness.training import RunRecord, SeedOutcome, train_seeds

Command = Callable[..., tuple[int, str, str]]

SCHEMA = Path(__file__).parents[2] / "docs" / "schemas" / "train-seeds.schema.json"
RECIPE = """\
batch_size = 512
epochs = 2

[optimizer]
name = "sgd"
lr = 0.1
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe of two epochs of three steps, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "short.toml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


def arguments(recipe: Path, *more: object) -> tuple[object, ...]:
    """Short trainings on the digits, into the folder here."""
    return "train", "cloud_2", "--recipe", recipe, "--data", "digits", "--out", "here", *more


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--seeds", "some"), "expected seeds such as 0-31 or 1,5,8-11, from 0 to 2**63 - 1, got 'some'"),
        (("--seeds", ""), "expected seeds such as 0-31"),
        (("--seeds", "1,,2"), "expected seeds such as 0-31"),
        (("--seeds", "-1"), "expected seeds such as 0-31"),
        (("--seeds", str(2**63)), "expected seeds such as 0-31"),
        (("--seeds", "5-3"), "expected ranges that rise, of at most 10,000 seeds, got '5-3'"),
        (("--seeds", "0-10000"), "expected ranges that rise, of at most 10,000 seeds"),
        (("--seeds", "1,0-3"), "expected each seed once, got '1,0-3'"),
        (("--seeds", "0-3", "--seed", "1"), "expected --seed or --seeds, found both"),
        (("--seeds", "0-3", "--threads", "2"), "expected one thread a seed with --seeds, found --threads 2"),
        (("--jobs", "2"), "expected --seeds with --jobs"),
        (("--engine", "warp"), "engine='warp'"),
    ],
)
@pytest.mark.usefixtures("quick_load")
def test_what_cannot_be_done_is_said_before_anything_is(
    recipe: Path, command: Command, options: tuple[str, ...], words: str
) -> None:
    """Exit code 2, with what was expected and found; no folder is made."""
    code, _, err = command(*arguments(recipe, *options))

    assert code == 2
    assert words in " ".join(err.split())
    assert not Path("here").exists()


@pytest.mark.smoke
def test_seeds_are_trained_summed_up_and_kept(recipe: Path, command: Command) -> None:
    """A table, a valid document, a record a seed; given again, the command trains nothing and says the same."""
    code, out, err = command(*arguments(recipe, "--seeds", "3,0-1", "--json", "seeds.json"))
    document = json.loads(Path("seeds.json").read_text(encoding="utf-8"))
    written = {seed: Path(f"here/seed-{seed}/record.json").read_bytes() for seed in (0, 1, 3)}
    again_code, again_out, _ = command(*arguments(recipe, "--seeds", "3,0-1", "--json", "again.json"))

    assert (code, again_code) == (0, 0)
    Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8"))).validate(document)
    assert [entry["seed"] for entry in document["seeds"]] == [3, 0, 1]
    for entry in document["seeds"]:
        record = RunRecord.read(Path(entry["folder"]) / "record.json")
        assert entry["test_correct"] == [epoch.test_correct for epoch in record.epochs]
        assert (entry["status"], record.engine, record.source) == ("complete", "fast", "cloud_2")
    assert "3 of 3 seeds complete; last epoch: mean" in " ".join(out.split())
    assert "seed 3 complete, epoch 2: test" in " ".join(err.split())
    assert out == again_out
    assert document == json.loads(Path("again.json").read_text(encoding="utf-8"))
    assert written == {seed: Path(f"here/seed-{seed}/record.json").read_bytes() for seed in written}


@pytest.mark.smoke
def test_a_solo_run_on_one_thread_has_the_bits_of_the_group(recipe: Path, command: Command) -> None:
    """``--seed 1 --threads 1`` gives what ``--seeds 0-1`` gave."""
    command(*arguments(recipe, "--seeds", "0-1"))
    code, _, _ = command(*arguments(recipe)[:-1], "solo", "--seed", "1", "--threads", "1")

    assert code == 0
    solo, grouped = RunRecord.read("solo/record.json"), RunRecord.read("here/seed-1/record.json")
    assert solo.state_digest == grouped.state_digest
    assert solo.digests == grouped.digests


@pytest.mark.smoke
def test_two_groups_do_not_share_a_folder(recipe: Path, command: Command) -> None:
    """The second is refused, and touches nothing."""
    Path("here").mkdir()
    with sole_writer(Path("here")):
        code, _, err = command(*arguments(recipe, "--seeds", "0-1"))

    assert code == 2
    assert "which another process is busy with" in " ".join(err.split())
    assert [".lock"] == [path.name for path in Path("here").iterdir()]


@pytest.mark.smoke
def test_interrupted_the_command_says_what_is_kept(
    recipe: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 130; the same command goes on."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SeedsProgress, "on_seed_end", interrupt)
        code, _, err = command(*arguments(recipe, "--seeds", "0-1", "--jobs", "1"))
    again_code, out, _ = command(*arguments(recipe, "--seeds", "0-1"))

    assert (code, again_code) == (130, 0)
    assert "of 2 seeds are finished and kept" in " ".join(err.split())
    assert "2 of 2 seeds complete" in " ".join(out.split())


@pytest.mark.smoke
def test_a_seed_that_is_not_finished_is_exit_code_3(
    recipe: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the table says why."""

    def lose_one(*given: Any, **options: Any) -> tuple[SeedOutcome, ...]:  # noqa: ANN401 - passed on as they are
        first, second = train_seeds(*given, **options)
        return first, SeedOutcome(seed=second.seed, folder=second.folder, record=None, problem="its process was killed")

    monkeypatch.setattr("harness.training.train_seeds", lose_one)
    code, out, _ = command(*arguments(recipe, "--seeds", "0-1", "--json", "seeds.json"))
    document = json.loads(Path("seeds.json").read_text(encoding="utf-8"))

    assert code == 3
    assert "not finished: its process was killed" in " ".join(out.split())
    assert "1 of 2 seeds complete; the same command goes on with the others" in " ".join(out.split())
    assert [entry["status"] for entry in document["seeds"]] == ["complete", "unfinished"]


@pytest.mark.smoke
def test_a_seed_that_diverges_is_a_failure(recipe: Path, command: Command) -> None:
    """Exit code 1, as for a single run."""
    recipe.write_text(RECIPE.replace("0.1", "1e30"), encoding="utf-8")

    code, out, _ = command(*arguments(recipe, "--seeds", "0-1"))

    assert code == 1
    assert "diverged" in out
    assert "0 of 2 seeds complete" in " ".join(out.split())
