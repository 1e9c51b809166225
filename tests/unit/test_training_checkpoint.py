"""Checkpoints: a resumed run has the bits of an uninterrupted one, and damaged or foreign files are detected."""

from __future__ import annotations

import dataclasses
import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import nn

from harness.errors import CheckpointError, InputError
from harness.training import RECORD_FILE, TrainingInterrupted, environment, initialise, loop, train_into
from harness.training.checkpoint import Checkpoints
from harness.training.recipe import ReduceLROnPlateau, Schedule, StepLR
from tests.made_up import RECIPE, network, spec
from tests.training_runs import DATA, NOISY, RecordingObserver, bits, run


@pytest.mark.parametrize(
    "schedule", [NOISY.schedule, ReduceLROnPlateau(factor=0.5, patience=0), StepLR(step_size=1, gamma=0.5), None]
)
def test_a_resumed_run_has_the_same_bits(schedule: Schedule | None, tmp_path: Path) -> None:
    """A run interrupted in its second and third epoch and resumed ends with the bits of an uninterrupted run."""
    recipe = dataclasses.replace(NOISY, schedule=schedule, epochs=4)
    for epoch in (2, 3):
        with pytest.raises(TrainingInterrupted) as stopped:
            run(recipe=recipe, checkpoint_dir=tmp_path, observer=RecordingObserver(stop_in=epoch))
        assert ("interrupted", epoch - 1) == (stopped.value.record.status, len(stopped.value.record.epochs))
    observer = RecordingObserver()
    resumed = run(recipe=recipe, checkpoint_dir=tmp_path, observer=observer)
    assert bits(run(recipe=recipe)) == bits(resumed)
    assert list(resumed.epochs) == [*observer.started[0]["done"], *observer.epochs]
    assert len(observer.epochs) == 2


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    """Resuming a complete run returns its record without training; starting over trains every epoch."""
    first, again, over = RecordingObserver(), RecordingObserver(), RecordingObserver()
    record = run(checkpoint_dir=tmp_path, observer=first)
    assert bits(record) == bits(run(checkpoint_dir=tmp_path, observer=again))
    assert bits(record) == bits(run(checkpoint_dir=tmp_path, observer=over, resume=False))
    assert [3, 0, 3] == [len(observer.epochs) for observer in (first, again, over)]


def test_two_checkpoints_are_kept(tmp_path: Path) -> None:
    """The newest two are kept; nothing else is in the folder."""
    run(checkpoint_dir=tmp_path)
    assert ["epoch-0002", "epoch-0003"] == sorted(path.stem[:10] for path in tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_damaged_checkpoint_is_skipped(damage: str, tmp_path: Path) -> None:
    """If the newest checkpoint is damaged, the previous one is used with a warning, and the bits are the same."""
    whole = bits(run(checkpoint_dir=tmp_path))
    newest = max(tmp_path.iterdir())
    content = newest.read_bytes()
    flipped = content[:2000] + bytes([content[2000] ^ 1]) + content[2001:]
    newest.write_bytes({"truncated": content[:-100], "flipped": flipped, "empty": b""}[damage])
    observer = RecordingObserver()
    assert whole == bits(run(checkpoint_dir=tmp_path, observer=observer))
    assert [3] == [result.epoch for result in observer.epochs]
    (warning,) = observer.warnings
    assert newest.name in warning
    assert ["epoch-0002", "epoch-0003"] == sorted(path.stem[:10] for path in tmp_path.iterdir())


def test_with_all_checkpoints_damaged_the_run_starts_over(tmp_path: Path) -> None:
    """Without an intact checkpoint the run starts over, with one warning per file."""
    whole = bits(run(checkpoint_dir=tmp_path))
    for path in tmp_path.iterdir():
        path.write_bytes(b"")
    observer = RecordingObserver()
    assert whole == bits(run(checkpoint_dir=tmp_path, observer=observer))
    assert (3, 2) == (len(observer.epochs), len(observer.warnings))


def with_buffer_of_ones() -> nn.Module:
    """The network of a run with the first seed, with other running means."""
    module = initialise(lambda: network(dropout=0.2), seed=1)
    cast("nn.BatchNorm2d", module[1]).running_mean.fill_(1.0)  # type: ignore[index, union-attr]
    return module


def test_a_run_names_the_environment_at_its_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit of a run that is resumed by another one; another processor is refused."""
    here = environment(torch.device("cpu"))

    def elsewhere(**change: Any) -> None:  # noqa: ANN401 - any field
        monkeypatch.setattr(loop, "environment", lambda _: dataclasses.replace(here, **change))

    elsewhere(commit="first")
    with pytest.raises(TrainingInterrupted):
        run(checkpoint_dir=tmp_path, observer=RecordingObserver(stop_in=2))
    elsewhere(commit="second")
    assert "first" == run(checkpoint_dir=tmp_path).environment.commit
    elsewhere(processor="another")
    with pytest.raises(CheckpointError, match="processor="):
        run(checkpoint_dir=tmp_path)


def test_an_interruption_before_the_start_has_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while a checkpoint is read: the record and the checkpoints of the completed epochs are kept."""
    arguments: dict[str, Any] = {"folder": tmp_path, "spec": spec(), "data": DATA}
    with pytest.raises(TrainingInterrupted):
        train_into(module=initialise(network, seed=1), observer=RecordingObserver(stop_in=3), **arguments)
    before = (tmp_path / RECORD_FILE).read_bytes()

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "restore", interrupt)
        with pytest.raises(KeyboardInterrupt) as stopped:
            train_into(module=initialise(network, seed=1), **arguments)
    assert not isinstance(stopped.value, TrainingInterrupted)
    assert before == (tmp_path / RECORD_FILE).read_bytes()
    observer = RecordingObserver()
    train_into(module=initialise(network, seed=1), observer=observer, **arguments)
    assert [3] == [result.epoch for result in observer.epochs]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 2}, "seed=1 instead of 2"),
        ({"recipe": RECIPE.with_epochs(4)}, "recipe="),
        ({"data": dataclasses.replace(DATA, digest="e" * 64)}, "data_digest='ddd"),
        ({"digest_every": 1}, "digest_every=100 instead of 1"),
        ({"module": initialise(lambda: network(dropout=0.2), seed=5)}, "initial_state_digest="),
        ({"module": with_buffer_of_ones()}, "initial_state_digest="),
    ],
)
def test_another_runs_checkpoint_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    """The checkpoints of another run are an error that names the difference; starting over deletes them."""
    run(checkpoint_dir=tmp_path)
    with pytest.raises(CheckpointError, match="expected a checkpoint of this run") as caught:
        run(checkpoint_dir=tmp_path, **change)
    assert message in str(caught.value)
    assert run(checkpoint_dir=tmp_path, resume=False, **change).status == "complete"


def test_an_unusable_checkpoint_folder_is_named(tmp_path: Path) -> None:
    """A file in place of the folder is an error that names the path."""
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match=r"could not create the checkpoint folder .*taken"):
        run(checkpoint_dir=tmp_path / "taken")


def without_optimizer(content: bytes) -> bytes:
    """The checkpoint of this run, less a part of its state."""
    state = torch.load(io.BytesIO(content), weights_only=True)
    del state["optimizer"]
    return saved(state)


def saved(value: object) -> bytes:
    """What `torch.save` writes."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("foreign", "message"),
    [
        (lambda _: b"no archive", "is not a checkpoint of this package"),
        (lambda _: saved([1, 2]), "is not a checkpoint of this package"),
        (lambda _: saved({"weight": torch.zeros(1)}), "is not a checkpoint of this package"),
        (lambda _: saved({"run": 3}), "is not a checkpoint of this package"),
        (without_optimizer, "cannot be restored (KeyError)"),
    ],
)
@pytest.mark.parametrize("earlier", [True, False])
def test_foreign_content_is_skipped(
    foreign: Callable[[bytes], bytes], message: str, *, earlier: bool, tmp_path: Path
) -> None:
    """A file named like a checkpoint that is none: the one before is used, or the run starts over with the same bits."""
    completed = bits(run(checkpoint_dir=tmp_path))
    before, newest = sorted(tmp_path.iterdir())
    content = foreign(newest.read_bytes())
    newest.unlink()
    (tmp_path / f"epoch-0003-{hashlib.sha256(content).hexdigest()[:16]}.pt").write_bytes(content)
    if not earlier:
        before.unlink()
    observer = RecordingObserver()

    assert completed == bits(run(checkpoint_dir=tmp_path, observer=observer))
    assert ([3] if earlier else [1, 2, 3]) == [result.epoch for result in observer.epochs]
    (warning,) = observer.warnings
    assert message in warning


@pytest.mark.parametrize("change", [{"threads": 7}, {"torch": "2.10.0"}, {"cpu_capability": "AVX"}])
def test_a_run_is_resumed_in_its_own_environment(
    change: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record names one environment: a run that was begun in another is not resumed, whatever may change its bits."""
    with pytest.raises(TrainingInterrupted):
        run(checkpoint_dir=tmp_path, observer=RecordingObserver(stop_in=2))
    here = environment(torch.device("cpu"))
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(loop, "environment", lambda _: dataclasses.replace(here, **change))
        with pytest.raises(CheckpointError, match=f"{next(iter(change))}=.* instead of "):
            run(checkpoint_dir=tmp_path)

    assert "complete" == run(checkpoint_dir=tmp_path).status
