"""A run and its folder: checkpoints while it goes, the record and the weights when it ends."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from harness.errors import InputError
from harness.files import sole_writer
from harness.training.loop import TrainingInterrupted, train
from harness.training.record import RunRecord
from harness.training.weights import save_weights

RECORD_FILE = "record.json"
WEIGHTS_FILE = "weights.safetensors"
CHECKPOINT_FOLDER = "checkpoints"


def train_into(folder: Path, module: nn.Module, *arguments: Any, **options: Any) -> RunRecord:  # noqa: ANN401 - those of `train`
    """Train, or go on with the unfinished run of the same kind that a folder holds; arguments as of `train`.

    Raises:
        TrainingInterrupted: the record so far is written.
        InputError: the folder cannot be written to, or another process writes to it.
    """
    with opened(folder):
        try:
            record = train(module, *arguments, checkpoint_dir=folder / CHECKPOINT_FOLDER, **options)
        except TrainingInterrupted as interruption:
            write_end(folder, module, interruption.record)
            raise
        write_end(folder, module, record)
    return record


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[None]:
    """Make a run's folder and be the only one who writes there, in the block.

    Raises:
        InputError: it cannot be made or written to, or another process writes to it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"expected a folder that can be made, got {str(folder)!r}: {error.strerror}. Name another one with --out."
        raise InputError(msg) from error
    with sole_writer(folder):
        yield


def write_end(folder: Path, module: nn.Module, record: RunRecord) -> None:
    """Write how a run ended: its record, and before it the weights where it is complete.

    An earlier finished run's record and weights are kept: they get the time they were started as part of their names.

    Raises:
        InputError: the folder cannot be written to.
    """
    path = folder / RECORD_FILE
    _keep_earlier(path)
    if record.status == "complete":
        about = {"model": record.model, "graph_digest": record.graph_digest, "state_digest": record.state_digest}
        save_weights(module, folder / WEIGHTS_FILE, about=about)
    record.write(path)


def _keep_earlier(path: Path) -> None:
    if not path.exists():
        return
    try:
        earlier = RunRecord.read(path)
    except InputError:
        path.rename(path.with_suffix(".unreadable.json"))
        return
    if earlier.status != "interrupted":
        stamp = "".join(character for character in earlier.started if character.isalnum())
        path.rename(path.with_name(f"record-{stamp}.json"))
        weights = path.with_name(WEIGHTS_FILE)
        if weights.exists():
            weights.rename(weights.with_stem(f"{weights.stem}-{stamp}"))
