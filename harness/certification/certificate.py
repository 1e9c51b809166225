"""The certificate of a model's accuracy: what was declared before the first run, the runs, and their statistics."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from harness.certification.consistency import ConsistencyRule
from harness.certification.designs import Design, Endpoint, Verdict
from harness.certification.power import EpochNoise, epoch_correlation
from harness.errors import InputError
from harness.files import file_name, read_whole, write_whole
from harness.tables import expect_mapping, parse_document, read_table
from harness.training import Recipe, RunRecord, WrongPredictions

SCHEMA = "harness.certificate/1"
_SEEDS_BELOW = 2**32
# A run takes about 10 kB, and 100 kB where half of 10,000 predictions are wrong.
_MAX_BYTES = 256 * 2**20


def declared_seeds(rule: ConsistencyRule, salt: str, count: int) -> tuple[int, ...]:
    """Derive ``count`` distinct seeds below 2**32 from an accuracy rule and a salt.

    Each is SHA-256 of rule, salt and a counter, modulo 2**32. Changing the model does not change the seeds.
    """
    target = format(rule.target.normalize(), "f")
    seeds: dict[int, None] = {}
    position = 0
    while len(seeds) < count:
        text = json.dumps([target, rule.rule, rule.last, rule.max_epochs, salt, position])
        seeds[int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) % _SEEDS_BELOW] = None
        position += 1
    return tuple(seeds)


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """What is decided before the first run of a certificate.

    Args:
        model: name of the model.
        source: how the user specified it.
        arguments: its constructor arguments.
        graph_digest: exact digest of the captured graph.
        contract: name of the contract that the rule is from.
        rule: the accuracy rule that each run is judged by.
        recipe: how each run is trained.
        data_name: name of the data set, such as ``mnist`` or ``digits``.
        data_title: its name for a reader.
        data_digest: SHA-256 of the decoded data.
        engine: name of the engine.
        device: kind of device.
        design: the test of the pass rate, with the number of runs.
        salt: text that the seeds are derived from, see `declared_seeds`.
    """

    model: str
    source: str
    arguments: str
    graph_digest: str
    contract: str
    rule: ConsistencyRule
    recipe: Recipe
    data_name: str
    data_title: str
    data_digest: str
    engine: str
    device: str
    design: Design
    salt: str

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of all runs that the design may take, in the order in which their outcomes count."""
        return declared_seeds(self.rule, self.salt, self.design.runs)

    @property
    def folder_name(self) -> str:
        """A name for the folder of the runs, with a digest of the declaration that makes it unique."""
        names = f"{self.model}-{self.contract}-{self.recipe.name}-{self.data_name}-{self.design.name}"
        return f"certify-{file_name(names)}-{_digest(self.to_json())[:8]}"

    def to_json(self) -> dict[str, Any]:
        """The declaration as plain JSON data, with its seeds."""
        plain = dataclasses.asdict(self)
        plain["rule"]["target"] = float(self.rule.target)
        plain["recipe"] = {"name": self.recipe.name, **self.recipe.to_mapping()}
        plain["design"] = {"name": self.design.name, **plain["design"]}
        return {**plain, "seeds": list(self.seeds)}


@dataclass(frozen=True, kw_only=True)
class CertifiedRun:
    """One run of a certificate.

    Args:
        seed: its seed.
        record_digest: SHA-256 of its run record's content.
        results_digest: SHA-256 of its learning rates, losses and counts in all epochs and of its wrong predictions: equal in two
            runs that computed the same bits.
        status: as in the record.
        correct: correct predictions on the test images after each epoch.
        total: number of test images.
        wrong: index and predicted class of each test image that the final state predicts wrongly; empty if it diverged.
        processor: name of the CPU or of the CUDA device that trained it; None if not reported.
        torch: version of PyTorch that trained it.
    """

    seed: int
    record_digest: str
    results_digest: str
    status: str
    correct: tuple[int, ...]
    total: int
    wrong: tuple[tuple[int, int], ...]
    processor: str | None
    torch: str

    @classmethod
    def of(cls, record: RunRecord, predictions: WrongPredictions | None) -> CertifiedRun:
        """Create from a run's record and wrong predictions (None for a diverged run).

        Raises:
            InputError: the predictions are not those of the record's final state.
        """
        wrong = predictions.wrong if predictions else ()
        last = record.epochs[-1] if record.epochs else None
        if predictions and (
            (predictions.state_digest, predictions.data_digest) != (record.state_digest, record.data_digest)
            or last is None
            or len(wrong) != last.test_total - last.test_correct
        ):
            raise InputError(
                f"expected the predictions of the final state of seed {record.seed}, got those of another run. Train the seed "
                "again, into an empty folder."
            )
        results = [
            [epoch.lr, epoch.train_loss, epoch.train_correct, epoch.test_loss, epoch.test_correct]
            for epoch in record.epochs
        ]
        return cls(
            seed=record.seed,
            record_digest=_digest(record.to_json()),
            results_digest=_digest([results, wrong]),
            status=record.status,
            correct=tuple(epoch.test_correct for epoch in record.epochs),
            total=last.test_total if last else 0,
            wrong=wrong,
            processor=record.environment.accelerator or record.environment.processor,
            torch=record.environment.torch,
        )


@dataclass(frozen=True, kw_only=True)
class Crash:
    """A failed attempt to train a seed, not counted as an outcome; the seed is trained again or resumed."""

    seed: int
    problem: str


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """A declaration and its finished runs, in the declared order of seeds.

    Raises:
        InputError: the runs are not the first of the declared ones.
    """

    declaration: Declaration
    runs: tuple[CertifiedRun, ...] = ()
    crashes: tuple[Crash, ...] = field(default=())

    def __post_init__(self) -> None:
        seeds, expected = [run.seed for run in self.runs], list(self.declaration.seeds)
        if seeds != expected[: len(seeds)]:
            raise InputError(f"expected the declared seeds in their order, {expected}, got runs of {seeds}.")

    def passed(self, run: CertifiedRun) -> bool:
        """Whether a run meets the accuracy rule: complete, with as many epochs as declared, and enough correct predictions."""
        rule, epochs = self.declaration.rule, self.declaration.recipe.epochs
        whole = run.status == "complete" and len(run.correct) == epochs <= rule.max_epochs
        return whole and min(rule.counted(run.correct)) >= rule.required(run.total)

    @property
    def outcomes(self) -> tuple[bool, ...]:
        """Which runs passed, in declared order."""
        return tuple(map(self.passed, self.runs))

    @property
    def end(self) -> Endpoint | None:
        """Where the test of the pass rate ended; None while it needs more runs."""
        return self.declaration.design.decide(self.outcomes)

    @property
    def verdict(self) -> Verdict | None:
        """The verdict of the test; None while it needs more runs."""
        return self.end.verdict if self.end else None

    @property
    def progress(self) -> str:
        """How many of the declared seeds have been run, in words."""
        return f"{len(self.runs)} of {self.declaration.design.runs} seeds" + ("" if self.end else " so far")

    @property
    def machines(self) -> tuple[str, ...]:
        """The engine, device, processor and version of PyTorch of the runs, in words: one for each combination."""
        kind = f"engine {self.declaration.engine} on {self.declaration.device}"
        return tuple(
            sorted({f"{kind}, {run.processor or 'processor not reported'}, torch {run.torch}" for run in self.runs})
        )

    @property
    def counted(self) -> tuple[tuple[int, ...], ...]:
        """The correct predictions in the epochs that count, of each complete run."""
        return tuple(self.declaration.rule.counted(run.correct) for run in self.runs if run.status == "complete")

    def noise(self) -> EpochNoise:
        """The variation of the counted epochs' accuracies, estimated from the complete runs.

        Raises:
            InputError: there are fewer than two complete runs, or they do not differ.
        """
        if len(self.counted) < 2:  # noqa: PLR2004 - a standard deviation needs two
            raise InputError(
                f"expected a certificate of {self.declaration.model} with at least two complete runs, got {len(self.counted)}."
            )
        return EpochNoise.of(self.counted, max(run.total for run in self.runs))

    def summary(self) -> dict[str, Any]:
        """Statistics of the runs, as plain JSON data; None if there are too few runs or the test has not ended.

        ``pass_rate`` has an exact 95 % ``interval`` and a one-sided 95 % ``lower_bound``. For correct predictions in
        the counted epochs: ``mean``, ``sd`` of run means, ``minimum``, and ``correlation`` between two epochs of a run.
        """
        end, design, counted = self.end, self.declaration.design, self.counted
        means = [statistics.fmean(run) for run in counted]
        several = len(counted) > 1 and any(run != counted[0] for run in counted)
        return {
            "verdict": self.verdict,
            "runs": len(self.runs),
            "passed": sum(self.outcomes),
            "pass_rate": sum(self.outcomes) / len(self.runs) if self.runs else None,
            "interval": list(design.interval(end)) if end else None,
            "lower_bound": design.lower_bound(end) if end else None,
            "mean": statistics.fmean(means) if means else None,
            "sd": statistics.stdev(means) if len(means) > 1 else None,
            "minimum": min(map(min, counted), default=None),
            "correlation": epoch_correlation(counted) if several else None,
        }

    def to_json(self) -> dict[str, Any]:
        """The certificate as plain JSON data, in the form of ``docs/schemas/certificate.schema.json``."""
        return {
            "schema": SCHEMA,
            "declaration": self.declaration.to_json(),
            "summary": self.summary(),
            "runs": [dataclasses.asdict(run) for run in self.runs],
            "crashes": [dataclasses.asdict(crash) for crash in self.crashes],
        }

    @classmethod
    def from_json(cls, document: object, *, where: str = "certificate") -> Self:
        """Read a certificate from parsed JSON. Seeds and summary are recomputed and must agree with it.

        Raises:
            InputError: not a certificate, or one that contradicts itself; the message begins with ``where``.
        """
        table = dict(expect_mapping(document, where=where, error=InputError))
        schema = table.pop("schema", None)
        if schema != SCHEMA:
            raise InputError(f"{where}: expected schema={SCHEMA!r}, got schema={schema!r}. Name a certificate.")
        summary = table.pop("summary", None)
        seeds = None
        if isinstance(declaration := table.get("declaration"), dict):
            # A copy: the document belongs to the caller.
            table["declaration"] = {key: value for key, value in declaration.items() if key != "seeds"}
            seeds = declaration.get("seeds")
        certificate = read_table(cls, table, where=where, error=InputError)
        for name, found, expected in (
            ("seeds", seeds, list(certificate.declaration.seeds)),
            ("summary", summary, certificate.summary()),
        ):
            if json.dumps(found) != json.dumps(expected):
                raise InputError(
                    f"{where}: expected {name}={expected!r}, which follows from declaration and runs, got {found!r}. The file "
                    "was changed by hand, or written by another version."
                )
        return certificate

    def write(self, path: Path) -> None:
        """Write the certificate as JSON, atomically.

        Raises:
            InputError: the file cannot be written; an existing file is left untouched.
        """
        write_whole(path, (json.dumps(self.to_json(), allow_nan=False) + "\n").encode())

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a certificate's JSON file.

        Raises:
            InputError: the file cannot be read or is not a certificate.
        """
        content = read_whole(Path(path), "a certificate", most=_MAX_BYTES)
        document = parse_document(content, "JSON", where=f"certificate {path}", error=InputError)
        return cls.from_json(document, where=str(path))


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()
