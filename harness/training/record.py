"""The run record: the results of one training run with one seed, stored as a JSON file.

The format is described in ``docs/run-record.md``, with a schema in ``docs/schemas/run.schema.json``.
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
    """The results of one epoch; epochs are numbered from 1.

    ``lr`` is the learning rate of the last step, ``seconds`` the wall time including evaluation. ``train_loss`` (mean
    cross entropy) and ``train_correct`` (correct predictions) are measured in train mode, on each batch before its
    optimizer step; ``test_loss`` and ``test_correct`` are measured on the test images after the epoch.
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
                raise InputError(
                    f"expected 0 <= {part}_correct <= {part}_total and {part}_total > 0, got {part}_correct={correct}, "
                    f"{part}_total={total}."
                )


@dataclass(frozen=True, kw_only=True)
class RunRecord(RunSpec):
    """One training run: its `RunSpec`, its data set and its results.

    Args:
        data_name: name of the data set, such as ``mnist`` or ``digits``; ``data_title`` is the name to print.
        data_digest: SHA-256 of the decoded data.
        validation: number of training images that were left out of the training and tested on instead of the test images; 0 if
            the test images were used.
        status: ``complete``: all declared epochs; ``interrupted``: only some of the declared epochs; ``diverged``: the loss
            became infinite or NaN in the epoch after the last one of ``epochs``.
        epochs: the completed epochs, in order.
        state_digest: `state_digest` of the model after the last completed epoch.
        digests: digests of the run, from before the first step to the end of the last completed epoch, or to the first one
            after the loss became infinite or NaN.
        environment: the software and hardware that the run was started with; only a run of the same processor, device and
            version of PyTorch is resumed.
        started: start time, UTC, ISO 8601.
        wall_seconds: wall time of the run in seconds, including the time before it was resumed.

    Raises:
        InputError: fields contradict each other or are out of range.
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
            raise InputError(f"expected epochs numbered from 1 to at most {declared}, got epochs {numbers}.")
        if (len(numbers) == declared) != (self.status == "complete"):
            raise InputError(
                f"expected status='complete' exactly if all {declared} declared epochs are completed, got "
                f"status={self.status!r} with {len(numbers)} completed epochs."
            )
        if len({result.test_total for result in self.epochs}) > 1:
            totals = [result.test_total for result in self.epochs]
            raise InputError(f"expected the same number of test images in all epochs, got test_total={totals}.")
        steps = [digests.step for digests in self.digests]
        if steps[:1] != [0] or sorted(set(steps)) != steps:
            raise InputError(f"expected digests at increasing steps, starting at step 0, got steps {steps}.")
        try:
            datetime.fromisoformat(self.started)
        except ValueError:
            raise InputError(
                "expected the key 'started' to be a date and time in ISO 8601, such as 2026-01-31T12:00:00+00:00, got "
                f"started={self.started!r}."
            ) from None

    @property
    def spec(self) -> RunSpec:
        """The `RunSpec` that declares the run."""
        return RunSpec(**self.declared())

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain JSON data, in the form of ``docs/schemas/run.schema.json``."""
        plain = dataclasses.asdict(self)
        sandbox = plain.pop("sandbox")
        return {
            "schema": SCHEMA,
            **plain,
            "recipe": {"name": self.recipe.name, **self.recipe.to_mapping()},
            "epochs": list(plain["epochs"]),
            "digests": list(plain["digests"]),
            # Records of earlier versions, whose digests certificates hold, do not have the key.
            **({} if sandbox is None else {"sandbox": list(sandbox)}),
        }

    @classmethod
    def from_json(cls, document: object, *, where: str = "run record") -> Self:
        """Build a record from parsed JSON in the form of `to_json`; ``where``, such as a file's path, begins error messages.

        Raises:
            InputError: the document is no run record, has another schema, or contradicts itself.
        """
        table = dict(expect_mapping(document, where=where, error=InputError))
        schema = table.pop("schema", None)
        if schema != SCHEMA:
            raise InputError(
                f"{where}: expected a run record with schema={SCHEMA!r}, got schema={shown(schema)}. Name a run record; to read "
                "a record with another schema, install the version of the harness that wrote the record."
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
        """Read a run record from its JSON file.

        Raises:
            InputError: the file cannot be read or is not a run record.
        """
        content = read_whole(Path(path), "a run record", most=_MAX_BYTES)
        document = parse_document(content, "JSON", where=f"run record {path}", error=InputError)
        return cls.from_json(document, where=str(path))
