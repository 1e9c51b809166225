"""The run record: one training, one seed, as one JSON file.

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
from harness.files import write_whole
from harness.tables import expect_mapping, read_table
from harness.training.digests import StepDigests
from harness.training.machine import Environment
from harness.training.recipe import Recipe

SCHEMA = "harness.run/1"


@dataclass(frozen=True, kw_only=True)
class EpochResult:
    """One whole epoch. Accuracies are counts; a percentage exists only when one is printed.

    Args:
        epoch: number of the epoch, from 1.
        lr: learning rate of the epoch's last step.
        train_loss: mean cross entropy over the epoch's training images, each as it was when its batch came.
        train_correct: training images answered right at that moment, in train mode.
        train_total: training images seen.
        test_loss: mean cross entropy over the test images after the epoch.
        test_correct: test images answered right after the epoch.
        test_total: test images.
        seconds: wall time of the epoch with its evaluation.
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
class RunRecord:
    """One training, one seed.

    Args:
        model: name of the network.
        source: what the user named it by: a shipped name, a file, a class; empty where a program trained it.
        arguments: what a network of the user's was built with; empty without.
        graph_digest: digest of its captured graph.
        recipe: how it was trained; ``recipe.epochs`` is what was declared.
        seed: the one seed that all randomness of the run is derived from.
        engine: how its steps were computed, see `harness.training.engines`.
        device: where it ran, such as ``cpu`` or ``cuda:0``.
        data_name: the data, such as ``mnist`` or ``digits``.
        data_title: the data's name for a reader.
        data_digest: SHA-256 of the data's decoded content.
        status: ``complete``: all declared epochs; ``interrupted``: stopped from outside before that; ``diverged``: a
            loss was no finite number in the epoch after the last one of ``epochs``.
        epochs: the whole epochs, in order.
        state_digest: `state_digest` of the network after the last whole epoch.
        digest_every: steps between two of ``digests``; there is one at each epoch's end in any case.
        digests: the run's digests, from before the first step to the end of the last whole epoch; of a diverged run
            to where that was noticed.
        environment: the machine it ran on.
        started: when it began, UTC, ISO 8601.
        wall_seconds: time spent, over all sittings of a resumed run.

    Raises:
        InputError: the parts contradict each other.
    """

    model: str
    source: str
    arguments: str
    graph_digest: str
    recipe: Recipe
    seed: int
    engine: str
    device: str
    data_name: str
    data_title: str
    data_digest: str
    status: Literal["complete", "interrupted", "diverged"]
    epochs: tuple[EpochResult, ...]
    state_digest: str
    digest_every: int
    digests: tuple[StepDigests, ...]
    environment: Environment
    started: str
    wall_seconds: float

    def __post_init__(self) -> None:
        numbers = [result.epoch for result in self.epochs]
        declared = self.recipe.epochs
        if numbers != list(range(1, len(numbers) + 1)) or len(numbers) > declared:
            msg = f"expected epochs numbered from 1 to at most {declared}, got {numbers}."
            raise InputError(msg)
        if (len(numbers) == declared) != (self.status == "complete"):
            msg = (
                f"expected the status to agree with the epochs, got status={self.status!r} with {len(numbers)} of "
                f"{declared} declared epochs."
            )
            raise InputError(msg)
        if len({result.test_total for result in self.epochs}) > 1:
            msg = (
                f"expected one test set in all epochs, got test_total={[result.test_total for result in self.epochs]}."
            )
            raise InputError(msg)
        steps = [digests.step for digests in self.digests]
        if steps[:1] != [0] or sorted(set(steps)) != steps:
            msg = f"expected digests of rising steps, the first before step 1, got steps {steps}."
            raise InputError(msg)
        try:
            datetime.fromisoformat(self.started)
        except ValueError:
            msg = f"expected started to be a time as ISO 8601 writes it, got started={self.started!r}."
            raise InputError(msg) from None

    def to_json(self) -> dict[str, Any]:
        """The record as plain JSON data, in the form of ``docs/schemas/run.schema.json``."""
        plain = dataclasses.asdict(self)
        return {
            "schema": SCHEMA,
            **plain,
            "recipe": {"name": self.recipe.name, **self.recipe.to_mapping()},
            "epochs": [dataclasses.asdict(result) for result in self.epochs],
            "digests": [dataclasses.asdict(digests) for digests in self.digests],
        }

    @classmethod
    def from_json(cls, document: object, *, where: str = "run record") -> Self:
        """Read what `to_json` gives.

        Raises:
            InputError: not a run record, of another version, or contradicting itself; ``where`` begins the message.
        """
        table = dict(expect_mapping(document, where=where, error=InputError))
        schema = table.pop("schema", None)
        if schema != SCHEMA:
            msg = f"{where}: expected schema={SCHEMA!r}, got schema={schema!r}. Read it with the version that wrote it."
            raise InputError(msg)
        return read_table(cls, table, where=where, error=InputError)

    def write(self, path: str | Path) -> None:
        """Write the record as JSON, whole or not at all.

        Raises:
            InputError: it cannot be written there; what was there before is untouched.
        """
        text = json.dumps(self.to_json(), indent=2, allow_nan=False) + "\n"
        write_whole(Path(path), text.encode())

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a record's JSON file.

        Raises:
            InputError: the file cannot be read or is no run record.
        """
        try:
            document = json.loads(Path(path).read_bytes())
        except OSError as problem:
            msg = f"expected a run record, got path={str(path)!r}, which cannot be read: {problem.strerror}."
            raise InputError(msg) from problem
        except ValueError as problem:
            msg = f"expected a run record in JSON, got path={str(path)!r}, which is not: {problem}."
            raise InputError(msg) from problem
        return cls.from_json(document, where=str(path))
