"""The probability to pass an accuracy rule, against scipy's multivariate normal and closed forms."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest
from scipy import stats

from harness.certification import (
    ConsistencyRule,
    EpochNoise,
    FixedDesign,
    SequentialDesign,
    epoch_correlation,
    pass_probability,
    power_table,
)
from harness.errors import InputError

LAST_5 = ConsistencyRule(target=Decimal("99.4"), rule="last", last=5, max_epochs=15)
LAST_1 = ConsistencyRule(target=Decimal("99.4"), rule="last", last=1, max_epochs=15)
BEST = ConsistencyRule(target=Decimal("99.4"), rule="best", max_epochs=15)
LEAST = 99.395  # 9,939.5 of 10,000 images


@pytest.mark.parametrize("mean", [99.3, 99.4, 99.45, 99.6])
@pytest.mark.parametrize("correlation", [0.1, 0.6, 0.95])
def test_all_of_several_epochs_agree_with_scipy(mean: float, correlation: float) -> None:
    """All of the last five: the orthant probability of a multivariate normal."""
    covariance = 0.05**2 * (correlation * np.ones((5, 5)) + (1 - correlation) * np.eye(5))
    expected = stats.multivariate_normal.cdf(np.full(5, mean - LEAST), cov=covariance)
    found = pass_probability(LAST_5, mean, EpochNoise(sd=0.05, correlation=correlation, images=10_000))
    assert pytest.approx(expected, abs=2e-4) == found


def test_independent_and_equal_epochs_have_closed_forms() -> None:
    """Without correlation the epochs multiply; with correlation 1 they are one epoch, for both rules."""
    one = stats.norm.cdf((99.45 - LEAST) / 0.05)
    apart = EpochNoise(sd=0.05, correlation=0, images=10_000)
    same = EpochNoise(sd=0.05, correlation=1, images=10_000)

    assert pytest.approx(one**5) == pass_probability(LAST_5, 99.45, apart)
    assert pytest.approx(1 - (1 - one) ** 15) == pass_probability(BEST, 99.45, apart)
    for rule in (LAST_1, LAST_5, BEST):
        assert pytest.approx(one) == pass_probability(rule, 99.45, same)


def test_known_figures() -> None:
    """A mean at the target passes one check half of the time; a best epoch of 15 passes where the mean is far below."""
    noise = EpochNoise(sd=0.05, correlation=0, images=1_000_000)

    assert pytest.approx(0.5, abs=0.001) == pass_probability(LAST_1, 99.4, noise)
    assert pytest.approx(0.84, abs=0.002) == pass_probability(LAST_1, 99.45, noise)
    assert pytest.approx(0.92, abs=0.01) == pass_probability(BEST, 99.35, noise)


def test_certificates_follow_the_pass_rate() -> None:
    """A row is the design's own figures at the rate of a single run, and a better model passes more often."""
    noise = EpochNoise(sd=0.05, correlation=0.6, images=10_000)
    for design in (SequentialDesign(), FixedDesign(runs=20)):
        rows = power_table(LAST_5, (99.4, 99.45, 99.5, 99.55), noise, design)
        assert [design.characteristics(row.run_passes) for row in rows] == [row.certificate for row in rows]
        assert sorted(row.certificate.passed for row in rows) == [row.certificate.passed for row in rows]


def test_noise_is_estimated_from_runs() -> None:
    """Standard deviation and correlation of simulated runs come back."""
    drawn = np.random.default_rng(1)
    shared, own = drawn.normal(size=(4000, 1)), drawn.normal(size=(4000, 5))
    counts = np.rint(9_950 + 5 * (np.sqrt(0.7) * shared + np.sqrt(0.3) * own)).astype(int).tolist()
    noise = EpochNoise.of(counts, 10_000)

    assert pytest.approx(0.05, rel=0.05) == noise.sd
    assert pytest.approx(0.7, abs=0.05) == noise.correlation
    assert 1.0 == epoch_correlation([[3], [4], [6]])
    assert 1.0 == epoch_correlation([[3, 5], [4, 6]])
    assert -1.0 == epoch_correlation([[3, 6], [4, 5]])


@pytest.mark.parametrize("wrong", [{"sd": 0}, {"correlation": 1.5}, {"correlation": -0.1}, {"images": 0}])
def test_noise_out_of_range_is_refused(wrong: dict[str, float]) -> None:
    """The message names the value."""
    with pytest.raises(InputError, match=f"got {next(iter(wrong))}="):
        EpochNoise(**{"sd": 0.05, "correlation": 0.5, "images": 10_000, **wrong})  # type: ignore[arg-type]
