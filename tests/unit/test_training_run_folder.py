"""What is in the folder of a run: files of others and of earlier runs are kept, and the record is written in any case."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from harness.errors import InputError
from harness.training import RunRecord, finished_record, train_into
from harness.training.run_folder import CHECKPOINT_FOLDER, PREDICTIONS_FILE, RECORD_FILE, WEIGHTS_FILE, write_end
from tests.made_up import dataset, network, spec

OWN = (PREDICTIONS_FILE, RECORD_FILE, WEIGHTS_FILE)


def _train(folder: Path, seed: int = 1) -> RunRecord:
    return train_into(folder, network(), dataclasses.replace(spec(), seed=seed), dataset(), resume=False)


def test_files_of_others_are_kept(tmp_path: Path) -> None:
    """Weights, predictions and a checkpoint with other content are neither replaced nor deleted."""
    foreign = tmp_path / CHECKPOINT_FOLDER / "epoch-10-val0.99.pt"
    foreign.parent.mkdir()
    foreign.write_text("foreign")
    for name in (PREDICTIONS_FILE, WEIGHTS_FILE):
        (tmp_path / name).write_text("foreign")
    _train(tmp_path)

    assert "foreign" == foreign.read_text()
    assert ["predictions-earlier.json", "weights-earlier.safetensors"] == sorted(
        path.name
        for path in tmp_path.iterdir()
        if path.is_file() and "foreign" == path.read_bytes().decode(errors="replace")
    )
    assert [True] * 3 == [(tmp_path / name).is_file() for name in OWN]


def test_a_truncated_record_saves_the_weights_of_its_run(tmp_path: Path) -> None:
    """With a record that cannot be read, all files of the earlier run are renamed, twice to different names."""
    _train(tmp_path)
    earlier = (tmp_path / WEIGHTS_FILE).read_bytes()
    for seed in (2, 3):
        record = tmp_path / RECORD_FILE
        record.write_text(record.read_text(encoding="utf-8")[:100], encoding="utf-8")
        _train(tmp_path, seed)

    assert earlier == (tmp_path / "weights-unreadable.safetensors").read_bytes()
    assert 9 == len([path for path in tmp_path.iterdir() if path.suffix in {".json", ".safetensors"}])


def test_a_finished_run_is_kept_whole(tmp_path: Path) -> None:
    """Record, weights and predictions of a finished run get its start time."""
    first = _train(tmp_path)
    _train(tmp_path, seed=2)
    stamp = "".join(filter(str.isalnum, first.started))

    assert first == RunRecord.read(tmp_path / f"record-{stamp}.json")
    document = json.loads((tmp_path / f"predictions-{stamp}.json").read_text(encoding="utf-8"))
    assert first.state_digest == document["state_digest"]
    assert (tmp_path / f"weights-{stamp}.safetensors").is_file()


@pytest.mark.parametrize("step", ["save_weights", "predict", "write_whole"])
@pytest.mark.parametrize("error", [InputError("no space"), KeyboardInterrupt("stop")])
def test_the_end_of_a_run_is_not_half_written(
    step: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If weights or predictions cannot be written, the record is still written; after an interruption it is not.

    In both cases the run does not count as finished.
    """

    def fail(*_: object, **__: object) -> None:
        raise error

    record = _train(tmp_path / "one")
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.setattr(f"harness.training.run_folder.{step}", fail)
    with pytest.raises(type(error), match=str(error)):
        write_end(other, network(), record, dataset())

    assert isinstance(error, InputError) == (other / RECORD_FILE).exists()
    assert finished_record(other) is None
    assert record == finished_record(tmp_path / "one")
