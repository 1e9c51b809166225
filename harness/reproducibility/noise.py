"""Seed noise: how much the accuracy of a training varies between seeds, estimated from recorded runs."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import scipy  # imports its submodules, which take a second, on first access

from harness.errors import InputError
from harness.training import RunRecord

# With fewer runs, the quantile of Student's t is so large that nearly every difference is within the bound.
FEWEST_SEEDS = 5
# The probability that two runs of the same training differ by more than the bound.
_FALSE_ALARM_RATE = 0.01


@dataclass(frozen=True, kw_only=True)
class SeedNoise:
    """The correct test predictions after each epoch of runs that differ only in the seed.

    ``counts`` maps each seed to the number after each epoch; ``total`` is the number of test images.
    """

    counts: Mapping[int, tuple[int, ...]]
    total: int

    def bound(self, epoch: int) -> float:
        """Return the difference in correct predictions after an epoch that two runs exceed with probability 0.01.

        Two runs of the same training with different seeds are two samples of one distribution. If it is normal, their
        difference divided by ``s * sqrt(2)``, with ``s`` the standard deviation of n other runs, follows Student's t
        distribution with n - 1 degrees of freedom.
        """
        after = [counts[epoch - 1] for counts in self.counts.values()]
        quantile = float(scipy.stats.t.ppf(1 - _FALSE_ALARM_RATE / 2, df=len(after) - 1))
        return quantile * statistics.stdev(after) * 2**0.5


def seed_noise(record: RunRecord, others: Iterable[RunRecord] = ()) -> SeedNoise | None:
    """Return the seed noise of the training in ``record``, from runs of the same training with other seeds.

    Runs are of the same training if model, recipe and data are equal; all others in ``others`` are ignored. If none
    remains, counts that are shipped with the harness are used. None is returned if fewer than 5 runs have as many
    epochs as ``record``.
    """
    known = {
        other.seed: tuple(epoch.test_correct for epoch in other.epochs)
        for other in others
        if training_key(other) == training_key(record)
    }
    if not known:
        known = _shipped().get(training_key(record), {})
    epochs = len(record.epochs)
    usable = {seed: counts for seed, counts in known.items() if seed != record.seed and len(counts) >= epochs}
    if epochs == 0 or len(usable) < FEWEST_SEEDS:
        return None
    return SeedNoise(counts=usable, total=record.epochs[0].test_total)


def read_records(folder: Path) -> tuple[RunRecord, ...]:
    """Read all run records in a folder and its subfolders; raise an `InputError` if there are none."""
    found = []
    for path in sorted(folder.rglob("*.json")):
        try:
            found.append(RunRecord.read(path))
        except InputError:
            continue
    if not found:
        expected = "expected a folder with run records of other seeds"
        raise InputError(f"{expected}, got {str(folder)!r}, which contains no records. Name another folder.")
    return tuple(found)


def training_key(record: RunRecord) -> str:
    """Return a text that is equal for two runs exactly if they have the same graph digest, data digest and recipe."""
    return _entry_key(record.graph_digest, record.data_digest, record.recipe.to_mapping())


@cache
def _shipped() -> dict[str, dict[int, tuple[int, ...]]]:
    text = resources.files("harness.reproducibility").joinpath("seed_noise.json").read_text(encoding="utf-8")
    return {
        _entry_key(entry["graph_digest"], entry["data_digest"], entry["recipe"]): {
            int(seed): tuple(counts) for seed, counts in entry["counts"].items()
        }
        for entry in json.loads(text)["trainings"]
    }


def _entry_key(graph_digest: str, data_digest: str, recipe: Mapping[str, Any]) -> str:
    return json.dumps([graph_digest, data_digest, recipe], sort_keys=True)
