"""The folder of a run: it holds checkpoints during the training; record, weights and wrong predictions after its end."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from harness.data import Dataset
from harness.errors import InputError
from harness.files import make_folder, read_whole, sole_writer, unused_name, write_whole
from harness.tables import expect_mapping, parse_document, read_table
from harness.training.checkpoint import Checkpoints
from harness.training.engines import Engine
from harness.training.evaluation import predict
from harness.training.loop import TrainingInterrupted, train
from harness.training.observer import Observer
from harness.training.record import RunRecord
from harness.training.run_spec import RunSpec
from harness.training.steps import TrainingHooks
from harness.training.weights import save_weights

RECORD_FILE = "record.json"
WEIGHTS_FILE = "weights.safetensors"
PREDICTIONS_FILE = "predictions.json"
CHECKPOINT_FOLDER = "checkpoints"


def train_into(
    folder: Path,
    module: nn.Module,
    spec: RunSpec,
    data: Dataset,
    *,
    engine: Engine | None = None,
    resume: bool = True,
    observer: Observer | None = None,
    hooks: TrainingHooks | None = None,
) -> RunRecord:
    """Train a model and write checkpoints and results to a folder, or resume the unfinished run of the same spec there.

    The other arguments are those of `train`, which may raise further errors.

    Raises:
        TrainingInterrupted: a KeyboardInterrupt came; the record of the completed epochs is written.
        InputError: the folder cannot be written to, or another process writes to it.
    """
    with opened(folder):
        try:
            checkpoints = folder / CHECKPOINT_FOLDER
            record = train(
                module,
                spec,
                data,
                engine=engine,
                checkpoint_dir=checkpoints,
                resume=resume,
                observer=observer,
                hooks=hooks,
            )
        except TrainingInterrupted as interruption:
            write_end(folder, module, interruption.record, data)
            raise
        write_end(folder, module, record, data)
    return record


@contextlib.contextmanager
def opened(folder: Path, *, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Create a run's folder and lock it against other processes within the block; ``on_wait`` as for `sole_writer`.

    Raises:
        InputError: the folder cannot be created or written to, or another process has locked it.
    """
    make_folder(folder, option="--out")
    with sole_writer(folder, on_wait=on_wait):
        yield


@dataclass(frozen=True, kw_only=True)
class WrongPredictions:
    """The wrong predictions for the test images, made by the model of a run with its final weights.

    ``state_digest`` and ``data_digest`` are those of the run's record. ``wrong``: (image index, predicted class) pairs,
    sorted by index; the class is -1 where an output is NaN.
    """

    state_digest: str
    data_digest: str
    wrong: tuple[tuple[int, int], ...]

    @classmethod
    def read(cls, path: Path) -> WrongPredictions:
        """Read the file with the wrong predictions from a run's folder.

        Raises:
            InputError: the file cannot be read or is not a predictions file.
        """
        content = read_whole(path, "the predictions of a finished run")
        table = dict(
            expect_mapping(
                parse_document(content, "JSON", where=str(path), error=InputError), where=str(path), error=InputError
            )
        )
        table.pop("schema", None)
        return read_table(cls, table, where=str(path), error=InputError)


def finished_record(folder: Path) -> RunRecord | None:
    """Read the record of a run that needs no further training.

    Returns:
        None if there is no record, if the run was interrupted, or if its predictions, which are written after the weights,
        could not be written.

    Raises:
        InputError: the file is not a run record.
    """
    path = folder / RECORD_FILE
    if not path.exists():
        return None
    record = RunRecord.read(path)
    if record.status == "interrupted" or (record.status == "complete" and not (folder / PREDICTIONS_FILE).exists()):
        return None
    return record


def write_end(folder: Path, module: nn.Module, record: RunRecord, data: Dataset) -> None:
    """Write the record of a run that has ended and, if it is complete, the weights and the wrong predictions.

    The files of an earlier run that was not interrupted are kept: their names get the start time of that run, or
    ``unreadable`` if its record cannot be read. If weights or predictions cannot be written, the record is still
    written; not so after a KeyboardInterrupt, since the last checkpoint resumes the run.

    Raises:
        InputError: the folder cannot be written to.
    """
    path = folder / RECORD_FILE
    _keep_earlier(folder)
    try:
        if record.status == "complete":
            about = {"model": record.model, "graph_digest": record.graph_digest, "state_digest": record.state_digest}
            save_weights(module, folder / WEIGHTS_FILE, about=about)
            predictions = predict(module, data.to(record.device))
            wrong = [[index, int(predictions.classes[index])] for index in predictions.misclassified]
            document = {
                "schema": "harness.predictions/1",
                "state_digest": record.state_digest,
                "data_digest": record.data_digest,
                "wrong": wrong,
            }
            write_whole(folder / PREDICTIONS_FILE, (json.dumps(document) + "\n").encode())
    except Exception:
        record.write(path)
        raise
    record.write(path)


def start_over(folder: Path) -> None:
    """Set aside the files of an earlier run in a folder and delete its checkpoints.

    Raises:
        InputError: the folder cannot be written to, or another process writes to it.
    """
    if folder.exists():
        with opened(folder):
            _keep_earlier(folder)
            Checkpoints(folder / CHECKPOINT_FOLDER, run={}).clear()


def _keep_earlier(folder: Path) -> None:
    """Rename the files of an earlier run, and files that this package did not write, so that they are not replaced.

    The record of an interrupted run is left in place: it is replaced by the record of the resumed run.
    """
    record = folder / RECORD_FILE
    names = [RECORD_FILE, WEIGHTS_FILE, PREDICTIONS_FILE]
    stamp = "earlier"
    if record.exists():
        try:
            earlier = RunRecord.read(record)
        except InputError:
            stamp = "unreadable"
        else:
            stamp = "".join(filter(str.isalnum, earlier.started))
            if earlier.status == "interrupted":
                names.remove(RECORD_FILE)
    for path in (folder / name for name in names):
        if path.exists():
            path.rename(unused_name(path.with_stem(f"{path.stem}-{stamp}")))
