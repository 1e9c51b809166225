"""The probability that a model of a given true accuracy passes an accuracy rule, and which verdicts a certificate then reaches.

The model of the noise: the test accuracies of the counted epochs of a run are jointly normal, with one mean, one
standard deviation over seeds and one correlation between any two epochs. With correlation 1 all counted epochs of a run
have the same accuracy.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import scipy  # imports its submodules, which take a second, on first access

from harness.certification.consistency import ConsistencyRule
from harness.certification.designs import Design, OperatingCharacteristics
from harness.errors import InputError
from harness.tables import Range, require_ranges

_FAR = 8.0  # standard deviations, beyond which a normal density is below 1e-14


@dataclass(frozen=True, kw_only=True)
class EpochNoise:
    """The variation of the test accuracy over seeds and between the counted epochs of a run.

    ``sd`` is the standard deviation of one epoch's accuracy over seeds, in percentage points; ``correlation`` is the
    correlation over seeds between the accuracies of two epochs of a run; ``images`` is the number of test images.
    """

    sd: Annotated[float, Range(above=0, most=50)]
    correlation: Annotated[float, Range(least=0, most=1)]
    images: Annotated[int, Range(least=1)]

    def __post_init__(self) -> None:
        require_ranges(self, InputError)

    @classmethod
    def of(cls, runs: Sequence[Sequence[int]], images: int) -> EpochNoise:
        """Estimate the variation from the correct images in each counted epoch (columns) of at least two runs (rows)."""
        points = [[100 * count / images for count in run] for run in runs]
        sd = math.sqrt(statistics.fmean(statistics.variance(epoch) for epoch in zip(*points, strict=True)))
        return cls(sd=sd, correlation=max(0.0, epoch_correlation(runs)), images=images)


def epoch_correlation(runs: Sequence[Sequence[int]]) -> float:
    """Estimate the correlation over runs between the numbers of correct images in two epochs, assumed equal for all pairs.

    The estimate is the mean covariance of pairs of epochs divided by the mean variance of an epoch. ``runs`` has one
    row of counts per run. The result is 1 for a single epoch and NaN if all runs are equal.
    """
    epochs = list(zip(*runs, strict=True))
    variance = statistics.fmean(statistics.variance(epoch) for epoch in epochs)
    pairs = [(first, second) for index, first in enumerate(epochs) for second in epochs[:index]]
    if not pairs:
        return 1.0
    covariance = statistics.fmean(statistics.covariance(first, second) for first, second in pairs)
    return covariance / variance if variance else math.nan


def pass_probability(rule: ConsistencyRule, mean: float, noise: EpochNoise) -> float:
    """Compute the probability that one run passes the rule if each counted epoch has an expected accuracy of ``mean`` percent.

    The rule ``best`` counts all ``max_epochs`` epochs. The correlation between epochs is modelled by a random effect
    that all epochs of a run share; given the effect, the epochs are independent, and the probability is integrated over
    the effect. As a continuity correction, a count c of correct images stands for the counts from c - 1/2 to c + 1/2.
    """
    least = 100 * (rule.required(noise.images) - 0.5) / noise.images
    shared, own = math.sqrt(noise.correlation), math.sqrt(1 - noise.correlation)
    distance = (mean - least) / noise.sd
    if own == 0:
        return float(scipy.stats.norm.cdf(distance))

    def passes(common: float) -> float:
        one = scipy.stats.norm.cdf((distance + shared * common) / own)
        return float(1 - (1 - one) ** rule.max_epochs if rule.last is None else one**rule.last)

    # The point where the integrand rises from 0 to 1, so that the integration places a sample near the step.
    turn = min(max(-distance / shared, -_FAR), _FAR) if shared else 0.0
    value, _ = scipy.integrate.quad(
        lambda z: passes(z) * scipy.stats.norm.pdf(z), -_FAR, _FAR, points=[turn], limit=200
    )
    return min(max(float(value), 0.0), 1.0)


@dataclass(frozen=True, kw_only=True)
class PowerRow:
    """The probability that a run passes, and the characteristics of a certificate, at one true mean accuracy in percent."""

    mean: float
    run_passes: float
    certificate: OperatingCharacteristics


def power_table(
    rule: ConsistencyRule, means: Sequence[float], noise: EpochNoise, design: Design
) -> tuple[PowerRow, ...]:
    """Compute the pass probability of a run and the characteristics of a certificate for each true mean accuracy in percent."""
    rows = []
    for mean in means:
        rate = pass_probability(rule, mean, noise)
        rows.append(PowerRow(mean=mean, run_passes=rate, certificate=design.characteristics(rate)))
    return tuple(rows)
