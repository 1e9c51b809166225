"""`harness replay` and `bisect` on the embedded digits: verdicts, exit codes, wrong inputs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.training import RunRecord
from tests.made_up import record

Command = Callable[..., tuple[int, str, str]]

pytestmark = [pytest.mark.smoke, pytest.mark.usefixtures("quick_load")]  # it trains

RECIPE = 'batch_size = 512\nepochs = 2\n[optimizer]\nname = "sgd"\nlr = 0.1\n'


@pytest.fixture
def run(tmp_path: Path, command: Command) -> Callable[..., Path]:
    """Trains for a few steps; returns where the record is."""
    recipe = tmp_path / "short.toml"
    recipe.write_text(RECIPE, encoding="utf-8")

    def train(name: str, *options: object) -> Path:
        folder = tmp_path / name
        shared = ("--recipe", recipe, "--data", "digits", "--device", "cpu", "--out", folder)
        code, _, _ = command("train", "cloud_2", *shared, *options)
        assert code == 0
        return folder / "record.json"

    return train


def edited(path: Path, change: Callable[[str], str]) -> Path:
    """A copy of a record with its text changed."""
    copy = path.with_name("edited.json")
    copy.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")
    return copy


def test_a_record_made_here_is_replayed_bit_for_bit(run: Callable[..., Path], command: Command) -> None:
    """Exit code 0, and the JSON holds the finding and the repetition."""
    path = run("a")
    code, out, _ = command("replay", path, "--json", "-")
    document = json.loads(out)

    assert (0, "pass", "bit-equal over 2 epochs, 6 steps") == (
        code,
        document["status"],
        document["findings"][0]["observed"],
    )
    assert RunRecord.read(path).digests == RunRecord.from_json(document["record"]).digests


def test_a_record_from_elsewhere_is_compared_statistically(run: Callable[..., Path], command: Command) -> None:
    """Another version of torch or number of threads: said, exit code 3 for want of noise, 0 seeds claimed."""
    path = run("a")
    threads = RunRecord.read(path).environment.threads
    for name, old, new in (
        ("torch", '"torch": "', '"torch": "1'),
        ("threads", f'"threads": {threads}', '"threads": 64'),
    ):
        text = path.read_text(encoding="utf-8").replace(old, new)
        path.with_name("elsewhere.json").write_text(text, encoding="utf-8")
        code, out, _ = command("replay", path.with_name("elsewhere.json"))

        assert code == 3
        assert f"the environment differs: {name}" in out
        assert "the seed noise of this training is not known" in " ".join(out.split())


def test_a_replay_with_the_seeds_of_a_folder(run: Callable[..., Path], command: Command, tmp_path: Path) -> None:
    """Records of other seeds in a folder are the noise; an empty folder is an error."""
    path = run("a")
    for seed in range(2, 7):
        other = json.loads(path.read_text(encoding="utf-8"))
        other["seed"] = seed
        other["epochs"][-1]["test_correct"] = 30 + seed
        (tmp_path / f"{seed}.json").write_text(json.dumps(other), encoding="utf-8")
    elsewhere = edited(path, lambda text: text.replace('"torch": "', '"torch": "1'))
    shutil.rmtree(path.parent / "checkpoints")

    code, out, _ = command("replay", elsewhere, "--seeds", tmp_path)
    assert code == 3
    assert "from 5 other seeds: two runs differ by at most" in " ".join(out.split())

    code, _, err = command("replay", elsewhere, "--seeds", tmp_path / "none")
    assert (2, True) == (code, "which contains none" in err)


def test_a_record_that_was_touched_up_fails(run: Callable[..., Path], command: Command) -> None:
    """A count that does not come again is exit code 1."""
    path = run("a")
    count = RunRecord.read(path).epochs[-1].test_correct
    touched = edited(path, lambda text: text.replace(f'"test_correct": {count}', f'"test_correct": {count + 1}'))
    code, out, _ = command("replay", touched)

    assert code == 1
    assert f"recorded {count + 1}, now {count}" in " ".join(out.split())


def test_two_runs_that_part_are_bisected(run: Callable[..., Path], command: Command) -> None:
    """Another seed parts before the first step, in the first tensor; exit code 1 and valid JSON."""
    one, other = run("a"), run("b", "--seed", 2)
    code, out, _ = command("bisect", one, other)
    assert code == 1
    assert out.startswith("differs before the first step in tensor block1.0.weight by ")
    assert "seed" in out.splitlines()[-1]

    code, out, _ = command("bisect", one, other, "--no-rerun", "--json", "-")
    document = json.loads(out)
    assert (1, 0, None, "initialisation") == (
        code,
        document["difference"]["step"],
        document["difference"]["tensor"],
        document["difference"]["cause"],
    )


def test_equal_runs_do_not_part(run: Callable[..., Path], command: Command) -> None:
    """Exit code 0, without training again."""
    path = run("a")
    code, out, err = command("bisect", path, path)

    assert (0, "bit-equal at all steps up to 6 that both records have digests of\n") == (code, out)
    assert "training again" not in err


def test_a_bisection_goes_on_without_its_model(run: Callable[..., Path], command: Command) -> None:
    """Where the model is gone, the digests on record are what there is, and a notice says why."""
    one, other = run("a"), run("b", "--seed", 2)
    gone = edited(one, lambda text: text.replace('"source": "cloud_2"', '"source": "gone.py"'))
    code, out, err = command("bisect", gone, other)

    assert (1, True) == (code, out.startswith("differs before the first step in the parameters"))
    assert "not trained again" in err
    assert "'gone.py' does not exist" in err


def test_a_model_that_changed_is_not_replayed(run: Callable[..., Path], command: Command) -> None:
    """Another graph than on record is an input error that says so, and --model names the right one."""
    code, _, err = command("replay", run("a"), "--model", "cloud_3")

    assert (2, True) == (code, "whose operations differ" in err)


@pytest.mark.parametrize("arguments", [("replay", "none.json"), ("bisect", "none.json", "none.json")])
def test_a_missing_record_is_named(arguments: tuple[str, ...], command: Command) -> None:
    """A path with nothing there is exit code 2."""
    code, _, err = command(*arguments)
    assert (2, True) == (code, "expected a run record, got path='none.json'" in err)


def test_a_record_without_a_source_asks_for_it(tmp_path: Path, command: Command) -> None:
    """What a program trained has no name on the command line."""
    record([9_900]).write(tmp_path / "record.json")
    code, _, err = command("replay", tmp_path / "record.json")
    assert (2, True) == (code, "Name the model with --model" in err)
