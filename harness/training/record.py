"""The run record: the results of one training run with one seed, stored as a JSON file.

Described in ``docs/run-record.md``, with a schema in ``docs/schemas/run.schema.json``.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Self

from harness.errors import InputError
from harness.files import read_whole, write_whole
from harness.tables import expect_mapping, parse_document, read_table, shown
from harness.training.digests import StepDigests
from harness.training.machine import Environment
from harness.training.run_spec import RunSpec

SCHEMA = "harness.run/1"
_MAX_BYTES = 2**28


@dataclass(frozen=True, kw_only=True)
class EpochResult:
    """One epoch, numbered from 1: learning rate of its last step, wall time including evaluation, in seconds.

    ``train_loss`` (mean cross entropy) and ``train_correct`` (correct predictions) are measured in train mode, on each
    batch before its optimizer step; ``test_loss`` and ``test_correct`` on the test images after the epoch.
    """

    epoch: int
    lr: float
    train_loss: float
    train_correct: int
    train_total: int
    test_loss: float
    test_correct: int
    test_total: int
    seconds: float

    def __post_init__(self) -> None:
        for part in ("train", "test"):
            correct, total = getattr(self, f"{part}_correct"), getattr(self, f"{part}_total")
            if not 0 <= correct <= total or total == 0:
                msg = (
                    f"expected 0 <= {part}_correct <= {part}_total, got {part}_correct={correct}, {part}_total={total}."
                )
                raise InputError(msg)


@dataclass(frozen=True, kw_only=True)
class RunRecord(RunSpec):
    """One training run: its `RunSpec`, its data set and its results.

    Args:
        data_name: name of the data set, such as ``mnist`` or ``digits``; ``data_title`` is its name for a reader.
        data_digest: SHA-256 of the decoded data.
        validation: number of training images that were left out of the training and tested on instead of the test images; 0 if
            the test images were used.
        status: ``complete``: all declared epochs; ``interrupted``: stopped from outside before that; ``diverged``: the loss
            became infinite or NaN in the epoch after the last one of ``epochs``.
        epochs: the completed epochs, in order.
        state_digest: `state_digest` of the model after the last completed epoch.
        digests: from before the first step to the end of the last completed epoch, or the step where divergence was noticed.
        environment: the machine it ran on.
        started: start time, UTC, ISO 8601.
        wall_seconds: wall time, over all sessions.

    Raises:
        InputError: the parts contradict each other.
    """

    data_name: str
    data_title: str
    data_digest: str
    status: Literal["complete", "interrupted", "diverged"]
    epochs: tuple[EpochResult, ...]
    state_digest: str
    digests: tuple[StepDigests, ...]
    environment: Environment
    started: str
    wall_seconds: float
    validation: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.validation < 0:
            raise InputError(f"expected validation >= 0, got validation={self.validation}.")
        numbers = [result.epoch for result in self.epochs]
        declared = self.recipe.epochs
        if numbers != list(range(1, len(numbers) + 1)) or len(numbers) > declared:
            raise InputError(f"expected epochs numbered from 1 to at most {declared}, got {numbers}.")
        if (len(numbers) == declared) != (self.status == "complete"):
            raise InputError(
                f"expected the status to agree with the epochs, got status={self.status!r} with {len(numbers)} of "
                f"{declared} declared epochs."
            )
        if len({result.test_total for result in self.epochs}) > 1:
            msg = f"expected the same test set in all epochs, got test_total={[result.test_total for result in self.epochs]}."
            raise InputError(msg)
        steps = [digests.step for digests in self.digests]
        if steps[:1] != [0] or sorted(set(steps)) != steps:
            raise InputError(f"expected digests at increasing steps, starting at step 0, got steps {steps}.")
        try:
            datetime.fromisoformat(self.started)
        except ValueError:
            raise InputError(f"expected started to be an ISO 8601 time, got started={self.started!r}.") from None

    @property
    def spec(self) -> RunSpec:
        """The declaration of the run."""
        return RunSpec(**self.declared())

    def to_json(self) -> dict[str, Any]:
        """The record as plain JSON data, in the form of ``docs/schemas/run.schema.json``."""
        plain = dataclasses.asdict(self)
        return {
            "schema": SCHEMA,
            **plain,
            "recipe": {"name": self.recipe.name, **self.recipe.to_mapping()},
            "epochs": list(plain["epochs"]),
            "digests": list(plain["digests"]),
        }

    @classmethod
    def from_json(cls, document: object, *, where: str = "run record") -> Self:
        """Read parsed JSON in the form of `to_json`; messages begin with ``where``, such as the file's path.

        Raises:
            InputError: not a run record, written in another format version, or contradicting itself.
        """
        table = dict(expect_mapping(document, where=where, error=InputError))
        schema = table.pop("schema", None)
        if schema != SCHEMA:
            raise InputError(
                f"{where}: expected schema={SCHEMA!r}, got schema={shown(schema)}. Name a run record; one of "
                "another schema is read by the version of the harness that wrote it."
            )
        return read_table(cls, table, where=where, error=InputError)

    def write(self, path: str | Path) -> None:
        """Write the record as JSON, atomically.

        Raises:
            InputError: the file cannot be written; an existing file is left untouched.
        """
        text = json.dumps(self.to_json(), indent=2, allow_nan=False) + "\n"
        write_whole(Path(path), text.encode())

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a record's JSON file.

        Raises:
            InputError: the file cannot be read or is not a run record.
        """
        content = read_whole(Path(path), "a run record", most=_MAX_BYTES)
        document = parse_document(content, "JSON", where=f"run record {path}", error=InputError)
        return cls.from_json(document, where=str(path))
