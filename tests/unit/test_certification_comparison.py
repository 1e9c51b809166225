"""Paired comparisons: outcomes at their edges, the type I error on simulated pairs, flips against scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from harness.certification import Flips, PairedComparison, SeedPair
from harness.errors import InputError


def comparison(differences: tuple[float, ...], *, margin: float, identical: bool = False) -> PairedComparison:
    """A comparison of runs with these differences."""
    pairs = tuple(
        SeedPair(seed=seed, a=9_950.0, b=9_950.0 + difference, flips=Flips(lost=0, gained=0))
        for seed, difference in enumerate(differences)
    )
    return PairedComparison(seeds=pairs, margin=margin, identical=identical)


@pytest.mark.parametrize(
    ("differences", "outcome"),
    [
        ((-21.0, -18.0, -20.0, -22.0), "B is worse"),
        ((21.0, 18.0, 20.0, 22.0), "B is better"),
        ((1.0, -1.0, 0.5, -0.5), "no difference beyond the margin"),
        ((-3.0, -2.9, -3.1, -3.0), "no difference beyond the margin"),
        ((30.0, -28.0, 5.0, -9.0), "no difference shown"),
        ((0.0, 0.0), "no difference beyond the margin"),
        ((-6.0, -6.0), "B is worse"),
    ],
)
def test_outcomes(differences: tuple[float, ...], outcome: str) -> None:
    """The interval over seeds decides, and one within the margin of 5 images is no difference."""
    assert outcome == comparison(differences, margin=5).outcome


def test_without_a_margin_a_small_difference_counts() -> None:
    """The same differences are worse if no difference at all is accepted."""
    assert "B is worse" == comparison((-3.0, -2.9, -3.1, -3.0), margin=0).outcome


def test_equal_bits_are_identical() -> None:
    """Bit-equal runs are identical, whatever the margin."""
    assert "identical" == comparison((0.0, 0.0), margin=0, identical=True).outcome


def test_the_interval_is_scipys() -> None:
    """Student's t over seeds, as of scipy's one-sample t test."""
    differences = (1.0, -3.0, 2.0, 4.0, -1.0, -2.0, 3.0, 0.5)
    expected = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    assert pytest.approx((expected.low, expected.high)) == comparison(differences, margin=5).interval


def test_type_one_error_on_simulated_pairs() -> None:
    """Without a true difference, at most 5 % of 4,000 comparisons say that there is one; sd 5 images, correlation 0.3."""
    drawn = np.random.default_rng(3)
    pairs = 5 * (math.sqrt(0.3) * drawn.normal(size=(4000, 8, 1)) + math.sqrt(0.7) * drawn.normal(size=(4000, 8, 2)))
    found = [comparison(tuple(map(float, pair[:, 1] - pair[:, 0])), margin=0).outcome for pair in pairs]
    shown = sum(outcome in {"B is worse", "B is better"} for outcome in found)
    assert shown / 4000 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 4000)
    assert shown / 4000 >= 0.03


def test_a_difference_of_the_smallest_visible_size_is_shown_four_times_out_of_five() -> None:
    """By simulation with a known standard deviation of the differences of 4 images and 8 seeds."""
    drawn = np.random.default_rng(4)
    visible = float(np.mean([one.smallest_visible for one in comparisons(drawn, 0.0)]))
    found = comparisons(drawn, visible)
    assert pytest.approx(0.8, abs=0.05) == sum("B is better" == one.outcome for one in found) / len(found)


def comparisons(drawn: np.random.Generator, shift: float) -> list[PairedComparison]:
    """Two thousand comparisons over eight seeds."""
    rows = shift + 4 * drawn.normal(size=(2000, 8))
    return [comparison(tuple(map(float, row)), margin=0) for row in rows]


def test_flips_are_counted_by_image() -> None:
    """An image wrong in both runs is no flip; the p-value is the binomial one."""
    flips = Flips.between({1, 2, 9}, {2, 7})

    assert Flips(lost=1, gained=2) == flips
    assert pytest.approx(stats.binomtest(2, 3).pvalue) == flips.p_value
    assert 1.0 == Flips(lost=0, gained=0).p_value
    assert Flips(lost=30, gained=5).p_value < 0.001


def test_one_seed_is_refused() -> None:
    """A spread over seeds needs two."""
    with pytest.raises(InputError, match="at least two seeds for which both A and B have a run, got 1"):
        comparison((1.0,), margin=5)
    with pytest.raises(InputError, match="margin >= 0, got margin=-1"):
        comparison((1.0, 2.0), margin=-1)
