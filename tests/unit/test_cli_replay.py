"""`harness replay` on the embedded digits: verdicts, exit codes, wrong inputs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.training import RunRecord
from tests.made_up import record

Command = Callable[..., tuple[int, str, str]]
Run = Callable[..., Path]

pytestmark = [pytest.mark.smoke, pytest.mark.usefixtures("quick_load")]  # it trains


def edited(path: Path, change: Callable[[str], str]) -> Path:
    """A copy of a record with its text changed."""
    copy = path.with_name("edited.json")
    copy.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")
    return copy


def test_a_record_of_this_environment_is_replayed_bit_for_bit(short_run: Run, command: Command) -> None:
    """A record of this environment gives exit code 0; the document has the finding and the new record."""
    path = short_run("a")
    code, out, _ = command("replay", path, "--json", "-")
    document = json.loads(out)

    assert (0, "pass", "bit-equal over 2 epochs, 6 steps") == (
        code,
        document["status"],
        document["findings"][0]["observed"],
    )
    assert RunRecord.read(path).digests == RunRecord.from_json(document["record"]).digests


def test_a_record_of_another_environment_is_compared_statistically(short_run: Run, command: Command) -> None:
    """With another torch version or processor the comparison is statistical; without seed noise it is exit code 3."""
    path = short_run("a")
    for name, old, new in (
        ("torch", '"torch": "', '"torch": "1'),
        ("cpu_capability", '"cpu_capability": "', '"cpu_capability": "1'),
    ):
        text = path.read_text(encoding="utf-8").replace(old, new)
        path.with_name("elsewhere.json").write_text(text, encoding="utf-8")
        code, out, _ = command("replay", path.with_name("elsewhere.json"))

        assert 3 == code
        assert f"the environment differs: {name}" in out
        assert "the seed noise of this training is not known" in " ".join(out.split())


def test_a_folder_of_records_gives_the_seed_noise(short_run: Run, command: Command, tmp_path: Path) -> None:
    """Records of other seeds in a folder give the seed noise; a folder without records is an error."""
    path = short_run("a")
    for seed in range(2, 7):
        other = json.loads(path.read_text(encoding="utf-8"))
        other["seed"] = seed
        other["epochs"][-1]["test_correct"] = 30 + seed
        (tmp_path / f"{seed}.json").write_text(json.dumps(other), encoding="utf-8")
    elsewhere = edited(path, lambda text: text.replace('"torch": "', '"torch": "1'))
    shutil.rmtree(path.parent / "checkpoints")

    code, out, _ = command("replay", elsewhere, "--seeds", tmp_path)
    assert 3 == code
    assert "in 99 of 100 cases, from 5 other seeds" in " ".join(out.split())

    code, _, err = command("replay", elsewhere, "--seeds", tmp_path / "none")
    assert (2, True) == (code, "which contains no records" in err)


def test_an_altered_record_fails(short_run: Run, command: Command) -> None:
    """A count that the replay does not reproduce is exit code 1."""
    path = short_run("a")
    count = RunRecord.read(path).epochs[-1].test_correct
    touched = edited(path, lambda text: text.replace(f'"test_correct": {count}', f'"test_correct": {count + 1}'))
    code, out, _ = command("replay", touched)

    assert 1 == code
    assert f"test_correct of epoch 2: {count + 1} -> {count}" in " ".join(out.split())


def test_a_replay_takes_its_title_from_what_it_trains(short_run: Run, command: Command) -> None:
    """A record that calls its model, recipe and data by other names is replayed under their own."""
    path = short_run("a")
    text = path.read_text(encoding="utf-8")
    for key, name in (("data_title", "MNIST, not "), ("model", "not_"), ("name", "not_")):
        text = text.replace(f'"{key}": "', f'"{key}": "{name}', 1)
    path.write_text(text, encoding="utf-8")
    code, out, _ = command("replay", path, "--json", "-")

    assert 0 == code
    assert ("cloud_2", "digits") == (json.loads(out)["model"], json.loads(out)["data"]["name"])
    assert json.loads(out)["data"]["title"].startswith("embedded handwritten digits")
    _, out, _ = command("replay", path)
    assert "PASS  cloud_2, seed 1, on embedded handwritten digits" in out
    assert "not_" not in out


def test_another_digest_of_the_weights_fails(short_run: Run, command: Command) -> None:
    """The digest of the final weights is compared, too."""
    path = short_run("a")
    digest = RunRecord.read(path).state_digest
    code, out, _ = command("replay", edited(path, lambda text: text.replace(digest, "0" * 64)))

    assert 1 == code
    assert "equal digests, but state_digest: 0000000000000000 -> " in " ".join(out.split())


def test_a_changed_model_is_not_replayed(short_run: Run, command: Command) -> None:
    """A model with another graph than the one on record is an input error that says so."""
    code, _, err = command("replay", short_run("a"), "--model", "cloud_3")

    assert (2, True) == (code, "whose operations differ" in err)


def test_a_missing_record_is_an_error(command: Command) -> None:
    """A path without a file is exit code 2."""
    code, _, err = command("replay", "none.json")

    assert (2, True) == (code, "expected a run record, got path='none.json'" in err)


def test_a_record_without_a_source_needs_the_option(tmp_path: Path, command: Command) -> None:
    """A record of a training by a program, without a source, needs --model."""
    record([9_900]).write(tmp_path / "record.json")
    code, _, err = command("replay", tmp_path / "record.json")
    assert (2, True) == (code, "Name the model with --model" in err)
