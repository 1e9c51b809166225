"""Tests whether the engines train to the same accuracy, by two one-sided tests over many seeds.

    python benchmarks/engine_equivalence.py run DATA_FOLDER RUNS_FOLDER
    python benchmarks/engine_equivalence.py sum-up RUNS_FOLDER benchmarks/records/engine_equivalence.json

The network applies a ReLU to the scores, so that the score of a class can become zero early in training and stay zero;
the accuracy of such a run, called silent, is lower by a tenth. Silent runs are counted separately and compared as
proportions; the means are computed from the other runs.

Each seed is trained on a part of the training images and tested on all other images: with 40,000 test images the
standard error of an accuracy is half of that with 10,000, so that a short training is sufficient. As a positive
control, one arm is trained without dropout and must differ.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from scipy import stats

from harness.data import Dataset, load_dataset
from harness.files import write_whole
from harness.graph import CapturedModel
from harness.sources import load_model
from harness.training import EpochResult, Recipe, RunRecord, RunSpec, SeedOutcome, SeedsJob, train_seeds
from harness.training.dropout import without_dropout
from mnist_models import model_card

MODEL = "five_step_4"
TRAINED_IMAGES = 30_000
EPOCHS = 2
REFERENCE = "eager"
# Name of the arm: engine, number of seeds, and whether the network has dropout. With 64 seeds the standard error of a difference
# is about 0.015 points, which gives a power of about 90 % for equivalent engines.
ARMS = {
    "eager": ("eager", 64, True),
    "fast": ("fast", 64, True),
    "bf16": ("bf16", 64, True),
    "without-dropout": ("fast", 32, False),
}
# In percentage points of accuracy.
BOUND = 0.05
LEVEL = 0.05
# In percent; the accuracy of a silent run is below, that of other runs far above.
SILENT_BELOW = 95.0


def load_part(folder: str) -> Dataset:
    """Load MNIST with the first 30,000 training images; the other training images are added to the test images."""
    whole = load_dataset(folder)
    rest_images, rest_labels = whole.train_images[TRAINED_IMAGES:], whole.train_labels[TRAINED_IMAGES:]
    return dataclasses.replace(
        whole,
        title=f"{whole.title}, trained on its first {TRAINED_IMAGES:,} images, tested on all others",
        train_images=whole.train_images[:TRAINED_IMAGES].clone(),
        train_labels=whole.train_labels[:TRAINED_IMAGES].clone(),
        test_images=torch.cat((rest_images, whole.test_images)),
        test_labels=torch.cat((rest_labels, whole.test_labels)),
        digest=hashlib.sha256(f"{whole.digest}/{TRAINED_IMAGES}".encode()).hexdigest(),
    )


def load_arm(*, seed: int, dropout: bool) -> CapturedModel:
    """Capture the network with the initial weights of a seed, with or without dropout."""
    captured = load_model(MODEL, seed=seed)
    if dropout:
        return captured
    graph = dataclasses.replace(captured.graph, train=without_dropout(captured.graph.train))
    return dataclasses.replace(captured, graph=graph)


class PrintObserver:
    """Prints one line per seed that ended."""

    def __init__(self, arm: str) -> None:
        self.arm = arm

    def on_seed_start(self, seed: int, *, epochs: int, steps: int, done: int) -> None:
        """Does nothing."""

    def on_seed_step(self, seed: int, *, epoch: int, step: int) -> None:
        """Does nothing."""

    def on_seed_epoch(self, seed: int, result: EpochResult) -> None:
        """Does nothing."""

    def on_seed_warning(self, seed: int, message: str) -> None:
        """Print the warning."""
        print(f"{self.arm} seed {seed}: {message}", flush=True)

    def on_seed_end(self, outcome: SeedOutcome) -> None:
        """Print the number of correct test images after the last epoch, or why the seed was not finished."""
        outcome_text = outcome.record.epochs[-1].test_correct if outcome.record else outcome.problem
        print(f"{self.arm} seed {outcome.seed}: {outcome_text}", flush=True)


def run(data_folder: str, runs: Path, processes: int) -> None:
    """Train the seeds of every arm that are not finished, alternating between the arms."""
    recipe = Recipe.from_mapping(model_card("reference").recipe, name="reference").with_epochs(EPOCHS)
    most = max(seeds for _, seeds, _ in ARMS.values())
    for first in range(0, most, 2 * processes):
        for arm, (engine, seeds, dropout) in ARMS.items():
            job = SeedsJob(
                load_model=functools.partial(load_arm, dropout=dropout),
                load_data=functools.partial(load_part, data_folder),
                spec=RunSpec.of(load_arm(seed=0, dropout=dropout), recipe, seed=0, engine=engine),
            )
            some = range(seeds)[first : first + 2 * processes]
            train_seeds(job, some, runs / arm, processes=processes, observer=PrintObserver(arm))


def compare(one: list[float], other: list[float]) -> dict[str, Any]:
    """Compare two arms by two one-sided Welch tests for equivalence (D. J. Schuirmann, J. Pharmacokinet. Biopharm. 15, 1987).

    The result also has the difference of the means, the 90 % confidence interval and the p-value of the two-sided test.

    Args:
        one: accuracies of the seeds of an arm, in percent.
        other: accuracies of the seeds of the reference, in percent.
    """
    above = stats.ttest_ind(one, [value - BOUND for value in other], equal_var=False, alternative="greater")
    below = stats.ttest_ind(one, [value + BOUND for value in other], equal_var=False, alternative="less")
    different = stats.ttest_ind(one, other, equal_var=False)
    interval = different.confidence_interval(1 - 2 * LEVEL)
    p = max(float(above.pvalue), float(below.pvalue))
    return {
        "difference": round(statistics.fmean(one) - statistics.fmean(other), 4),
        "interval_90": [round(float(interval.low), 4), round(float(interval.high), 4)],
        "p_equivalence": p,
        "equivalent": p < LEVEL,
        "p_difference": float(different.pvalue),
    }


def figures(records: list[RunRecord], accuracies: list[float], reference: list[float]) -> dict[str, Any]:
    """Compute the results of an arm.

    Args:
        records: the run records of the arm.
        accuracies: the test accuracies of the arm's seeds, in percent.
        reference: the test accuracies of the seeds of the reference arm, in percent; the same object for the reference
            arm.
    """
    means, means_of_reference = ([value for value in arm if value >= SILENT_BELOW] for arm in (accuracies, reference))
    silent, silent_of_reference = len(accuracies) - len(means), len(reference) - len(means_of_reference)
    shares = stats.fisher_exact([[silent, len(means)], [silent_of_reference, len(means_of_reference)]])
    return {
        "engine": records[0].engine,
        "seeds": len(records),
        "silent": silent,
        "mean": round(statistics.fmean(means), 4),
        "standard_deviation": round(statistics.stdev(means), 4),
        "against_eager": None
        if accuracies is reference
        else {**compare(means, means_of_reference), "p_silent": float(shares.pvalue)},
        "against_eager_with_silent": None if accuracies is reference else compare(accuracies, reference),
        "test_correct": {str(record.seed): record.epochs[-1].test_correct for record in records},
    }


def sum_up(runs: Path, target: Path) -> None:
    """Compare the arms with the reference arm, print the results and write them to the file ``target``."""
    records = {arm: [RunRecord.read(path) for path in sorted((runs / arm).glob("seed-*/record.json"))] for arm in ARMS}
    accuracies = {
        arm: [100 * record.epochs[-1].test_correct / record.epochs[-1].test_total for record in runs_of]
        for arm, runs_of in records.items()
    }
    first = records[REFERENCE][0]
    arms = {arm: figures(runs_of, accuracies[arm], accuracies[REFERENCE]) for arm, runs_of in records.items()}
    document = {
        "model": MODEL,
        "recipe": first.recipe.to_mapping(),
        "data": first.data_title,
        "bound": BOUND,
        "level": LEVEL,
        "silent_below": SILENT_BELOW,
        "environment": dataclasses.asdict(first.environment),
        "arms": arms,
    }
    write_whole(target, (json.dumps(document, indent=1) + "\n").encode())
    for arm, line in arms.items():
        print(arm, {key: value for key, value in line.items() if key != "test_correct"})


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["run", data, runs_folder, *rest]:
            run(data, Path(runs_folder), int(rest[0]) if rest else 2)
        case ["sum-up", runs_folder, record]:
            sum_up(Path(runs_folder), Path(record))
        case _:
            sys.exit(__doc__)
