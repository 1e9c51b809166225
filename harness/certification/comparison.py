"""Comparing two models or recipes on the same seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from scipy import stats

from harness.errors import InputError

Outcome = Literal["identical", "B is worse", "B is better", "no difference beyond the margin", "no difference shown"]
_POWER = 0.8


@dataclass(frozen=True, kw_only=True)
class Flips:
    """The test images that exactly one of two runs predicts correctly: ``lost`` only A, ``gained`` only B."""

    lost: int
    gained: int

    @property
    def p_value(self) -> float:
        """Two-sided p-value of Q. McNemar's exact test (Psychometrika 12, 1947, 153-157): as many flips either way."""
        flips = self.lost + self.gained
        return float(stats.binomtest(self.gained, flips).pvalue) if flips else 1.0

    @classmethod
    def between(cls, a: Mapping[int, int], b: Mapping[int, int]) -> Flips:
        """From the wrong predictions of each run, by image."""
        return cls(lost=len(b.keys() - a.keys()), gained=len(a.keys() - b.keys()))


@dataclass(frozen=True, kw_only=True)
class PairedComparison:
    """The mean difference between B and A over seeds, in images, with a paired t interval.

    Args:
        differences: for each seed, B's number of correct images minus A's, in the mean over the epochs that count.
        margin: the largest difference in images that counts as none.
        identical: whether the runs of every seed are bit-equal.
        confidence: of the two-sided interval.
    """

    differences: tuple[float, ...]
    margin: float
    identical: bool = False
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if len(self.differences) < 2:  # noqa: PLR2004 - a standard deviation needs two
            raise InputError(f"expected at least two seeds on both sides, got {len(self.differences)}.")
        if not self.margin >= 0:
            raise InputError(f"expected margin >= 0, got margin={self.margin}.")

    @property
    def mean(self) -> float:
        """The mean difference, in images."""
        return statistics.fmean(self.differences)

    @property
    def standard_error(self) -> float:
        """The standard error of the mean difference, in images."""
        return statistics.stdev(self.differences) / math.sqrt(len(self.differences))

    @property
    def interval(self) -> tuple[float, float]:
        """The confidence interval for the mean difference, by Student's t over seeds, in images."""
        half = self._quantile * self.standard_error
        return self.mean - half, self.mean + half

    @property
    def outcome(self) -> Outcome:
        """What the interval says. A whole interval within the margin is no difference, even if it leaves out zero."""
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
        """The smallest true difference, in images, that these seeds would have shown four times out of five.

        The minimum detectable effect of H. S. Bloom (Evaluation Review 19, 1995, 547-556): the quantiles of Student's t for the
        interval and for the power, added, times the standard error.
        """
        return (self._quantile + float(stats.t.ppf(_POWER, self._freedom))) * self.standard_error

    @property
    def _freedom(self) -> int:
        return len(self.differences) - 1

    @property
    def _quantile(self) -> float:
        return float(stats.t.ppf((1 + self.confidence) / 2, self._freedom))


def placed(value: float, sample: Sequence[float]) -> float:
    """The two-sided p-value of one more value from the normal distribution of a sample, by Student's t prediction interval."""
    spread = statistics.stdev(sample) * math.sqrt(1 + 1 / len(sample))
    distance = abs(value - statistics.fmean(sample))
    if spread == 0:
        return 1.0 if distance == 0 else 0.0
    return float(2 * stats.t.sf(distance / spread, len(sample) - 1))
