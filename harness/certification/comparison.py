"""Comparison of two models or recipes by the runs of their certificates with the same seeds."""

from __future__ import annotations

import dataclasses
import math
import statistics
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import scipy  # imports its submodules, which take a second, on first access

from harness.certification.certificate import Certificate, CertifiedRun
from harness.certification.consistency import require_test_images
from harness.errors import InputError
from harness.training import RunRecord

Outcome = Literal["identical", "B is worse", "B is better", "no difference beyond the margin", "no difference shown"]
Samples = npt.NDArray[np.float64]
_POWER = 0.8
# Standard deviation of the error by which a count of images is rounded.
_ROUNDING = 1 / math.sqrt(12)


@dataclass(frozen=True, kw_only=True)
class Flips:
    """Numbers of test images that only run A (``lost``) or only run B (``gained``) predicts correctly."""

    lost: int
    gained: int

    @property
    def p_value(self) -> float:
        """Two-sided p-value of Q. McNemar's exact test (Psychometrika 12, 1947, 153-157) for equal rates of lost and gained."""
        flips = self.lost + self.gained
        return float(scipy.stats.binomtest(self.gained, flips).pvalue) if flips else 1.0

    @classmethod
    def between(cls, a: set[int], b: set[int]) -> Flips:
        """Count the images that only one run predicts correctly, given the indices of the wrongly predicted images of both."""
        return cls(lost=len(b - a), gained=len(a - b))


@dataclass(frozen=True, kw_only=True)
class SeedPair:
    """The runs of A and B with one seed: mean correct test images in the counted epochs, and the flips after the last epoch."""

    seed: int
    a: float
    b: float
    flips: Flips


@dataclass(frozen=True, kw_only=True)
class PairedComparison:
    """The mean difference in correct test images between B and A, over pairs of runs with the same seed.

    Args:
        seeds: the pair of runs of each seed.
        margin: the largest difference, in images, that is considered negligible.
        identical: whether the two runs of every seed computed the same bits.
        confidence: the confidence level of the two-sided interval.

    Raises:
        InputError: there are fewer than two pairs, or ``margin`` is negative.
    """

    seeds: tuple[SeedPair, ...]
    margin: float
    identical: bool = False
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if len(self.seeds) < 2:  # noqa: PLR2004 - a standard deviation needs two
            raise InputError(
                f"expected at least two seeds for which both A and B have a run, got {len(self.seeds)}. Certify A and B with the "
                "same contract and the same --salt, so that both are trained with the same seeds."
            )
        if not self.margin >= 0:
            raise InputError(f"expected margin >= 0, got margin={self.margin}.")

    @property
    def differences(self) -> tuple[float, ...]:
        """For each seed, the number of correct predictions of B minus that of A, as means over the counted epochs."""
        return tuple(pair.b - pair.a for pair in self.seeds)

    @property
    def mean(self) -> float:
        """The mean of the differences over the seeds, in images."""
        return statistics.fmean(self.differences)

    @property
    def standard_error(self) -> float:
        """The standard error of the mean difference, in images.

        Equal differences are as uncertain as their rounding, unless all runs computed the same bits.
        """
        if self.identical:
            return 0.0
        sd = max(statistics.stdev(self.differences), math.sqrt(2) * _ROUNDING)
        return sd / math.sqrt(len(self.differences))

    @property
    def interval(self) -> tuple[float, float]:
        """The confidence interval for the mean difference by the paired t test over seeds, in images."""
        half = self._quantile * self.standard_error
        return self.mean - half, self.mean + half

    @property
    def outcome(self) -> Outcome:
        """The conclusion of the comparison.

        If the whole interval is within the margin, there is no difference beyond the margin, even if the interval
        excludes zero.
        """
        lower, upper = self.interval
        if self.identical:
            return "identical"
        if -self.margin <= lower and upper <= self.margin:
            return "no difference beyond the margin"
        if upper < 0:
            return "B is worse"
        return "B is better" if lower > 0 else "no difference shown"

    @property
    def smallest_visible(self) -> float:
        """The smallest true difference, in images, that a comparison on these seeds detects with a power of 0.8.

        This is the minimum detectable effect of H. S. Bloom (Evaluation Review 19, 1995, 547-556): the sum of the
        quantiles of Student's t distribution for the interval and for the power, times the standard error.
        """
        return (self._quantile + float(scipy.stats.t.ppf(_POWER, self._freedom))) * self.standard_error

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as plain JSON data."""
        return {
            "outcome": self.outcome,
            "margin": self.margin,
            "mean": self.mean,
            "interval": list(self.interval),
            "confidence": self.confidence,
            "smallest_visible": self.smallest_visible,
            "seeds": [
                {**dataclasses.asdict(pair), "difference": pair.b - pair.a, "p_value": pair.flips.p_value}
                for pair in self.seeds
            ],
        }

    @property
    def _freedom(self) -> int:
        return len(self.differences) - 1

    @property
    def _quantile(self) -> float:
        return float(scipy.stats.t.ppf((1 + self.confidence) / 2, self._freedom))


def compare(a: Certificate, b: Certificate, *, margin: float) -> PairedComparison:
    """Compare the runs of two certificates on the seeds that both have, in the epochs that the accuracy rule counts.

    A run that diverged has no correct predictions.

    Raises:
        InputError: the certificates differ in accuracy rule or data, share fewer than two seeds, or have no complete run
            with one of these.
    """
    for name in ("rule", "data_digest"):
        one, other = getattr(a.declaration, name), getattr(b.declaration, name)
        if one != other:
            raise InputError(
                f"expected two certificates with the same {name}, got {name}={one} and {name}={other}. Certify both models with "
                "the same contract and data."
            )
    theirs = {run.seed: run for run in b.runs}
    pairs = [(run, theirs[run.seed]) for run in a.runs if run.seed in theirs]
    if pairs and all(run.status != "complete" for pair in pairs for run in pair):
        raise InputError(
            f"expected a complete run of A or of B, got {len(pairs)} diverged runs of each. Lower the learning rates."
        )
    rule = a.declaration.rule
    images = range(max((run.total for pair in pairs for run in pair), default=0))

    def mean(run: CertifiedRun) -> float:
        return statistics.fmean(rule.counted(run.correct)) if run.status == "complete" else 0.0

    def wrong(run: CertifiedRun) -> set[int]:
        return set(dict(run.wrong)) if run.status == "complete" else set(images)

    seeds = tuple(
        SeedPair(seed=one.seed, a=mean(one), b=mean(other), flips=Flips.between(wrong(one), wrong(other)))
        for one, other in pairs
    )
    identical = all(one.results_digest == other.results_digest for one, other in pairs)
    return PairedComparison(seeds=seeds, margin=margin, identical=identical)


@dataclass(frozen=True, kw_only=True)
class PlacedEpoch:
    """Correct test images of a run after one epoch, and mean and prediction interval of the certificate's runs at that epoch."""

    epoch: int
    correct: int
    mean: float
    lower: float
    upper: float
    outcome: Literal["below", "within", "above"]


@dataclass(frozen=True, kw_only=True)
class PlacedRun:
    """Each epoch of a run compared with the ``runs`` complete runs of a certificate; ``status`` is that of the run."""

    status: Literal["complete", "diverged"]
    runs: int
    epochs: tuple[PlacedEpoch, ...]

    @property
    def outcome(self) -> Literal["worse", "consistent", "better"]:
        """The conclusion: worse with an epoch below its interval or if the run diverged, otherwise better with one above."""
        outcomes = {epoch.outcome for epoch in self.epochs}
        if self.status == "diverged" or "below" in outcomes:
            return "worse"
        return "better" if "above" in outcomes else "consistent"


def place_run(record: RunRecord, certificate: Certificate, *, confidence: float = 0.95) -> PlacedRun:
    """Compare each epoch of a run with the same epoch of a certificate's complete runs.

    An epoch is below, within or above a prediction interval for one more run; ``confidence`` is the probability that
    the intervals of all epochs hold together. They are computed with the log odds of a correct prediction. With 19 runs
    or more, for a confidence of 0.95, they assume no distribution of the accuracy, which is skewed in early epochs. With
    fewer runs they are Student's t intervals, for a normal distribution.

    Raises:
        InputError: the certificate has fewer than two complete runs, the run was interrupted or trained with validation
            images, or its recipe or its data differs from those of the certificate.
    """
    declared = certificate.declaration
    require_test_images(record)
    if record.data_digest != declared.data_digest:
        raise InputError(
            f"expected a run on the data of the certificate, {declared.data_title}, got a run on {record.data_title}. Train the "
            "run on the data of the certificate."
        )
    if record.recipe != declared.recipe:
        raise InputError(
            f"expected a run with the recipe of the certificate, {declared.recipe.to_mapping()}, got a run with "
            f"{record.recipe.to_mapping()}. Train the run with the recipe of the certificate."
        )
    if record.status == "interrupted":
        raise InputError(
            f"expected a run that has ended, got an interrupted run with {len(record.epochs)} of {declared.recipe.epochs} "
            "epochs. Resume the run first."
        )
    runs = [run for run in certificate.runs if run.status == "complete" and len(run.correct) == declared.recipe.epochs]
    if len(runs) < 2:  # noqa: PLR2004 - a standard deviation needs two
        raise InputError(
            f"expected a certificate with at least two complete runs, got a certificate with {len(runs)}. Certify more seeds."
        )
    total = runs[0].total
    correct = np.array([run.correct for run in runs])
    sample = log_odds(correct, total)
    rank = math.ceil(confidence * (len(runs) + 1))
    assumes_normal = rank > len(runs)
    level = bonferroni_level(confidence, declared.recipe.epochs if assumes_normal else 1)
    width = prediction_factor(level, freedom=len(runs) - 1, runs=len(runs))
    if not assumes_normal:
        # At least the interval of one epoch: equal runs do not deviate from each other.
        width = max(width, _jackknife_width(sample, total, rank))
    centre, half = sample.mean(axis=0), width * sd_of_log_odds(sample, total)
    lower, upper = (correct_predictions(centre + one, total) for one in (-half, half))
    placed = []
    for result, mean, low, high in zip(record.epochs, correct.mean(axis=0), lower, upper, strict=False):
        outcome: Literal["below", "within", "above"] = "within"
        if not low <= result.test_correct <= high:
            outcome = "below" if result.test_correct < low else "above"
        placed.append(
            PlacedEpoch(
                epoch=result.epoch,
                correct=result.test_correct,
                mean=float(mean),
                lower=float(low),
                upper=float(high),
                outcome=outcome,
            )
        )
    return PlacedRun(status=record.status, runs=len(runs), epochs=tuple(placed))


def _jackknife_width(sample: Samples, total: int, rank: int) -> float:
    """Half the width of all epochs' prediction intervals, in standard deviations, by the jackknife.

    Each run is left out in turn and compared with the others, by its largest deviation of all epochs; the ``rank``-th
    smallest of these deviations is returned (R. F. Barber et al., Annals of Statistics 49, 2021, 486-507).

    Args:
        sample: the log odds, of shape (runs, epochs).
        total: the number of predictions.
        rank: the number of runs that are within all intervals when left out.
    """
    largest = []
    for left_out, run in enumerate(sample):
        others = np.delete(sample, left_out, axis=0)
        largest.append(float(np.max(np.abs(run - others.mean(axis=0)) / sd_of_log_odds(others, total))))
    return sorted(largest)[rank - 1]


def log_odds(correct: Samples, total: int) -> Samples:
    """Return the empirical log odds of a correct prediction (D. R. Cox, Analysis of Binary Data, 1970), given counts of them."""
    return np.asarray(np.log((correct + 0.5) / (total - correct + 0.5)))


def correct_predictions(sample: Samples, total: int) -> Samples:
    """Return the counts of correct predictions, between 0 and ``total``, given their `log_odds`."""
    return np.asarray(np.clip((total + 1) * scipy.special.expit(sample) - 0.5, 0, total))


def sd_of_log_odds(sample: Samples, total: int) -> Samples:
    """Return the standard deviations over the runs, the first axis; equal counts are as uncertain as their rounding."""
    accuracy = scipy.special.expit(sample.mean(axis=0))
    return np.asarray(np.maximum(sample.std(axis=0, ddof=1), _ROUNDING / ((total + 1) * accuracy * (1 - accuracy))))


def bonferroni_level(confidence: float, intervals: int) -> float:
    """Return the confidence level of each of several intervals that all hold together with probability ``confidence``."""
    return 1 - (1 - confidence) / max(intervals, 1)


def prediction_factor(level: float, *, freedom: int, runs: int) -> float:
    """Return half the width of Student's t prediction interval for one more run, in standard deviations over seeds.

    ``level`` is the confidence level, ``freedom`` the degrees of freedom of the standard deviation, and ``runs`` the
    number of runs in the mean that is the centre of the interval.
    """
    return float(scipy.stats.t.ppf((1 + level) / 2, freedom)) * math.sqrt(1 + 1 / runs)
