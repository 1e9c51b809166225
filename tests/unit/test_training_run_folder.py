"""What is in the folder of a run: files of others and of earlier runs are kept, and the record is written in any case."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from harness.errors import InputError
from harness.training import RunRecord, run_folder, train_into
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


def test_the_record_is_written_without_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the weights cannot be saved, the error is raised after the record was written."""

    def fail(*_: object, **__: object) -> None:
        raise InputError("no space")

    record = _train(tmp_path / "one")
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.setattr("harness.training.run_folder.save_weights", fail)
    with pytest.raises(InputError, match="no space"):
        write_end(other, torch.nn.Identity(), record, dataset())

    assert record == RunRecord.read(other / RECORD_FILE)


def test_an_interruption_leaves_no_record_without_predictions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise, the run would count as finished, and its predictions would be missing for good."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run_folder, "predict", interrupt)
        with pytest.raises(KeyboardInterrupt):
            _train(tmp_path)
    assert not (tmp_path / RECORD_FILE).exists()
    record = train_into(tmp_path, network(), spec(), dataset())

    assert (record, True) == (RunRecord.read(tmp_path / RECORD_FILE), (tmp_path / PREDICTIONS_FILE).exists())
