"""How much the seed alone moves a training's accuracy, from runs on record."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from harness.errors import InputError
from harness.training import RunRecord

# With fewer runs Student's t is so wide that every difference would be within it.
FEWEST_SEEDS = 5
# One replay in a hundred of an unchanged training is called another one.
_FALSE_ALARMS = 0.01


@dataclass(frozen=True, kw_only=True)
class SeedNoise:
    """Right answers of runs that differ in nothing but the seed.

    Args:
        counts: by seed, the right answers after each epoch.
        total: test images.
    """

    counts: Mapping[int, tuple[int, ...]]
    total: int

    def bound(self, epoch: int) -> float:
        """The largest difference in right answers between two runs after an epoch that chance explains.

        Two runs of the same training under different seeds are two draws from one distribution. Taken as normal, their
        difference over ``s * sqrt(2)``, with ``s`` the standard deviation of n other runs, follows Student's t with
        n - 1 degrees of freedom. The bound is exceeded by chance once in a hundred times.
        """
        from scipy import stats  # noqa: PLC0415 - a second to import

        after = [counts[epoch - 1] for counts in self.counts.values()]
        quantile = float(stats.t.ppf(1 - _FALSE_ALARMS / 2, df=len(after) - 1))
        return quantile * statistics.stdev(after) * 2**0.5


def seed_noise(record: RunRecord, others: Iterable[RunRecord] = ()) -> SeedNoise | None:
    """The noise on record for a training: runs of the same model, recipe and data under other seeds than its own.

    Args:
        record: the run.
        others: records of the user's; those of another training are left out. Without any, what is shipped counts.

    Returns:
        The noise; None where fewer than five such runs are known.
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
    """Every run record in a folder and the folders in it.

    Raises:
        InputError: there is no such folder, or no run record in it.
    """
    found = []
    for path in sorted(folder.rglob("*.json")):
        try:
            found.append(RunRecord.read(path))
        except InputError:
            continue
    if not found:
        msg = f"expected a folder with run records of other seeds, got {str(folder)!r}, which holds none."
        raise InputError(msg)
    return tuple(found)


def training_key(record: RunRecord) -> str:
    """What the runs of one training have in common, as text: graph, data and recipe."""
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
