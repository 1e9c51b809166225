"""The certificate of a model's accuracy: what was declared before the first run, the finished runs, and their statistics."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from harness.certification.consistency import ConsistencyRule
from harness.certification.designs import Design, Endpoint, Verdict
from harness.certification.power import EpochNoise, epoch_correlation
from harness.errors import InputError
from harness.files import file_name, read_whole, write_whole
from harness.sandbox import LayerState
from harness.tables import expect_mapping, parse_document, read_table
from harness.training import Recipe, RunRecord, WrongPredictions

SCHEMA = "harness.certificate/1"
_SEEDS_BELOW = 2**32
# Largest size of a certificate file. A run takes about 10 kB, and 100 kB if half of 10,000 predictions are wrong.
_MAX_BYTES = 256 * 2**20


def declared_seeds(rule: ConsistencyRule, salt: str, count: int) -> tuple[int, ...]:
    """Derive ``count`` distinct seeds below 2**32 from an accuracy rule and a salt.

    Each seed is the first 64 bits of the SHA-256 of rule, salt and a counter, modulo 2**32. The model does not enter
    the seeds.
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
    """Everything that is decided before the first run of a certificate.

    Args:
        model: name of the model.
        source: the model as the user named it, such as ``net.py:Net``.
        arguments: constructor arguments of the model, as text.
        graph_digest: exact digest of the captured graph.
        contract: name of the contract that the accuracy rule is taken from.
        rule: the accuracy rule that each run is judged by.
        recipe: the training recipe of every run.
        data_name: name of the data set, such as ``mnist`` or ``digits``.
        data_title: name of the data set for display.
        data_digest: SHA-256 of the decoded data.
        engine: name of the training engine.
        device: device to train on, such as ``cpu``.
        design: the statistical test of the pass rate, with the largest number of runs.
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
        """The seeds of all runs that the design may need, in the order in which the outcomes of the runs are counted."""
        return declared_seeds(self.rule, self.salt, self.design.runs)

    @property
    def folder_name(self) -> str:
        """The default name of the folder for the runs; a digest of the declaration makes the name unique."""
        names = f"{self.model}-{self.contract}-{self.recipe.name}-{self.data_name}-{self.design.name}"
        return f"certify-{file_name(names)}-{_digest(self.to_json())[:8]}"

    def to_json(self) -> dict[str, Any]:
        """Return the declaration as plain JSON data, with the derived seeds under the key ``seeds``."""
        plain = dataclasses.asdict(self)
        plain["rule"]["target"] = float(self.rule.target)
        plain["recipe"] = {"name": self.recipe.name, **self.recipe.to_mapping()}
        plain["design"] = {"name": self.design.name, **plain["design"]}
        return {**plain, "seeds": list(self.seeds)}


@dataclass(frozen=True, kw_only=True)
class CertifiedRun:
    """The summary of one run that a certificate keeps.

    Args:
        seed: the seed of the run.
        record_digest: SHA-256 of the content of the run record.
        results_digest: SHA-256 of the learning rates, losses and counts of all epochs and of the wrong predictions;
            equal for two runs that computed the same bits.
        status: ``complete`` or ``diverged``, as in the run record.
        correct: number of correct predictions on the test images after each epoch.
        total: number of test images.
        wrong: index and predicted class of each test image that the network predicts wrongly after the last epoch;
            empty if the run diverged.
        processor: name of the CPU or of the CUDA device that trained the run; None if not reported.
        torch: version of PyTorch that trained the run.

    Raises:
        InputError: a number of correct predictions is negative or larger than ``total``.
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

    def __post_init__(self) -> None:
        if not all(0 <= count <= self.total for count in self.correct):
            raise InputError(
                f"expected correct predictions of seed {self.seed} from 0 to total={self.total}, got correct={self.correct}. "
                "The certificate was changed by hand: certify the model again."
            )

    @classmethod
    def of(cls, record: RunRecord, predictions: WrongPredictions | None) -> CertifiedRun:
        """Summarise a run, given the run record and the wrong predictions after the last epoch (None for a diverged run).

        Raises:
            InputError: the predictions were not computed from the final state of the run.
        """
        wrong = predictions.wrong if predictions else ()
        last = record.epochs[-1] if record.epochs else None
        if predictions and (
            (predictions.state_digest, predictions.data_digest) != (record.state_digest, record.data_digest)
            or last is None
            or len(wrong) != last.test_total - last.test_correct
        ):
            raise InputError(
                f"expected the predictions of the final state of seed {record.seed}, got predictions of another run. "
                "Delete the folder of the seed and run the same command again."
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
    """A failed attempt to train a seed, with the error as ``problem``; not counted as an outcome of the pass-rate test."""

    seed: int
    problem: str


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """A declaration with the runs finished so far, in the declared order of seeds, and the crashed attempts.

    ``sandbox`` are the layers that confined the code of the model when the certification began, as in a `RunSpec`.

    Raises:
        InputError: the seeds of the runs are not the first declared seeds, in the same order.
    """

    declaration: Declaration
    runs: tuple[CertifiedRun, ...] = ()
    crashes: tuple[Crash, ...] = field(default=())
    sandbox: tuple[LayerState, ...] | None = None

    def __post_init__(self) -> None:
        seeds = [run.seed for run in self.runs]
        if seeds != (expected := list(self.declaration.seeds)[: len(seeds)]):
            raise InputError(
                f"expected runs with the first seeds of the declaration, in the same order ({expected}), got runs with seeds "
                f"{seeds}."
            )

    def passed(self, run: CertifiedRun) -> bool:
        """Whether a run meets the accuracy rule: complete, with the declared number of epochs, and enough correct predictions."""
        rule, recipe = self.declaration.rule, self.declaration.recipe
        whole = run.status == "complete" and len(run.correct) == recipe.epochs and not rule.judge_recipe(recipe)
        return whole and min(rule.counted(run.correct)) >= rule.required(run.total)

    @property
    def outcomes(self) -> tuple[bool, ...]:
        """For each run, in declared order, whether the run met the accuracy rule."""
        return tuple(map(self.passed, self.runs))

    @property
    def end(self) -> Endpoint | None:
        """The endpoint of the pass-rate test, given the runs so far; None if the test needs more runs."""
        return self.declaration.design.decide(self.outcomes)

    @property
    def verdict(self) -> Verdict | None:
        """The verdict of the pass-rate test; None if the test needs more runs."""
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
        """For each complete run, the numbers of correct predictions in the epochs that the accuracy rule counts."""
        return tuple(self.declaration.rule.counted(run.correct) for run in self.runs if run.status == "complete")

    def noise(self) -> EpochNoise:
        """Estimate from the complete runs how the accuracy varies over seeds and between the counted epochs.

        Raises:
            InputError: there are fewer than two complete runs, or they do not differ.
        """
        if len(self.counted) < 2:  # noqa: PLR2004 - a standard deviation needs two
            raise InputError(
                f"expected a certificate of {self.declaration.model} with at least two complete runs, got {len(self.counted)}."
            )
        return EpochNoise.of(self.counted, max(run.total for run in self.runs))

    def summary(self) -> dict[str, Any]:
        """Return statistics of the runs as plain JSON data; a value is None if there are too few runs to compute the statistic.

        ``pass_rate`` has an exact 95 % ``interval`` and a one-sided 95 % ``lower_bound`` once the test has ended. For
        the numbers of correct predictions in the counted epochs: ``mean`` over all runs, ``sd`` of the means of single
        runs, ``minimum``, and ``correlation`` between two epochs of the same run.
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
        """Return the certificate as plain JSON data, in the form of ``docs/schemas/certificate.schema.json``."""
        content = {
            "schema": SCHEMA,
            "declaration": self.declaration.to_json(),
            "summary": self.summary(),
            "runs": [dataclasses.asdict(run) for run in self.runs],
            "crashes": [dataclasses.asdict(crash) for crash in self.crashes],
        }
        if self.sandbox is not None:
            content["sandbox"] = [dataclasses.asdict(layer) for layer in self.sandbox]
        return content

    @classmethod
    def from_json(cls, document: object, *, where: str = "certificate") -> Self:
        """Read a certificate from parsed JSON.

        The seeds are derived again from the declaration and the summary is computed again from the runs; both must
        equal those stored in the document.

        Raises:
            InputError: the document is not a certificate, or its seeds or summary differ from those computed again; the
                message begins with ``where``.
        """
        table = dict(expect_mapping(document, where=where, error=InputError))
        schema = table.pop("schema", None)
        if schema != SCHEMA:
            raise InputError(
                f"{where}: expected a certificate with schema={SCHEMA!r}, got schema={schema!r}. Name a certificate file that "
                "`harness certify` wrote."
            )
        summary = table.pop("summary", None)
        seeds = None
        if isinstance(declaration := table.get("declaration"), dict):
            # A copy, so that the document of the caller is not changed.
            table["declaration"] = {key: value for key, value in declaration.items() if key != "seeds"}
            seeds = declaration.get("seeds")
        certificate = read_table(cls, table, where=where, error=InputError)
        epochs = certificate.declaration.recipe.epochs
        for run in certificate.runs:
            if run.status == "complete" and (
                len(run.correct) != epochs or len(run.wrong) != run.total - run.correct[-1]
            ):
                raise InputError(
                    f"{where}: expected {epochs} epochs of seed {run.seed}, and a wrong prediction for each image that the last "
                    f"epoch does not count as correct, got {len(run.correct)} epochs and {len(run.wrong)} wrong predictions. "
                    "The file was changed by hand. Certify the model again."
                )
        for name, found, expected in (
            ("seeds", seeds, list(certificate.declaration.seeds)),
            ("summary", summary, certificate.summary()),
        ):
            if not _agree(found, expected):
                raise InputError(
                    f"{where}: expected {name}={expected!r}, as computed again from the declaration and the runs in the file, "
                    f"got {name}={found!r}. The file was changed by hand, or written by another version of the harness. Certify "
                    "the model again."
                )
        return certificate

    def write(self, path: Path) -> None:
        """Write the certificate to a JSON file, atomically.

        Raises:
            InputError: the file cannot be written; an existing file is left untouched.
        """
        write_whole(path, (json.dumps(self.to_json(), allow_nan=False) + "\n").encode())

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a certificate from a JSON file.

        Raises:
            InputError: the file cannot be read or is not a certificate.
        """
        content = read_whole(Path(path), "a certificate", most=_MAX_BYTES)
        document = parse_document(content, "JSON", where=f"certificate {path}", error=InputError)
        return cls.from_json(document, where=str(path))


def _agree(found: object, expected: object) -> bool:
    """Whether JSON data is as computed again; the last digits of a float differ between versions of Python and of libraries."""
    if isinstance(expected, float):
        return isinstance(found, float) and math.isclose(found, expected, rel_tol=1e-9)
    if isinstance(expected, dict):
        return (
            isinstance(found, dict)
            and list(found) == list(expected)
            and all(map(_agree, found.values(), expected.values()))
        )
    if isinstance(expected, list):
        return isinstance(found, list) and len(found) == len(expected) and all(map(_agree, found, expected))
    return type(found) is type(expected) and found == expected


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()
