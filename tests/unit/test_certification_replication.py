"""Published figures against our runs: intervals at their edges, pooling, and what is not testable."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import stats

from harness.certification import Certificate, Published, Replication, replicate
from tests.unit.test_certification_certificate import DECLARATION, run

COUNTS = {
    "a": [(9_900, 9_930, 9_940), (9_904, 9_936, 9_930), (9_902, 9_931, 9_936)],
    "b": [(9_800, 9_850, 9_860), (9_806, 9_852, 9_866), (9_803, 9_857, 9_862)],
}


def certificates() -> dict[str, Certificate]:
    """Three runs of each model."""
    return {
        model: Certificate(
            declaration=DECLARATION,
            runs=tuple(run(seed, *row) for seed, row in zip(DECLARATION.seeds, rows, strict=False)),
        )
        for model, rows in COUNTS.items()
    }


def outcomes(found: Replication) -> dict[tuple[str, str], str]:
    """The outcome of each figure."""
    return {(one.model, one.figure): one.outcome for one in found.figures}


def test_figures_are_placed_by_a_pooled_prediction_interval() -> None:
    """The interval is that of Student's t with the pooled standard deviation, at the level for six figures."""
    found = replicate(
        [Published(model="a", correct=(9_900, 9_930, 9_941)), Published(model="b", correct=(9_700, 9_700, 9_920))],
        certificates(),
    )
    last = next(one for one in found.figures if (one.model, one.figure) == ("a", "last"))
    samples = [[row[-1] for row in rows] for rows in COUNTS.values()]
    sd = np.sqrt(np.mean([np.var(sample, ddof=1) for sample in samples]))
    half = stats.t.ppf(1 - 0.05 / 6 / 2, 4) * sd * np.sqrt(1 + 1 / 3)

    assert pytest.approx(sd) == found.sd["last"]
    assert pytest.approx((np.mean(samples[0]) - half, np.mean(samples[0]) + half)) == (last.lower, last.upper)
    assert ("a", "b") == found.pooled
    assert {
        ("a", "best"): "consistent",
        ("a", "last"): "consistent",
        ("a", "mean of the last three"): "consistent",
        ("b", "best"): "above what we see",
        ("b", "last"): "above what we see",
        ("b", "mean of the last three"): "below what we see",
    } == outcomes(found)


def test_the_level_holds_for_all_figures_together() -> None:
    """With published runs from our own distribution, a page has a figure outside in at most 5 % of 400 simulations."""
    drawn = np.random.default_rng(5)
    outside = 0
    for _ in range(400):
        rows = np.rint(9_940 + 5 * drawn.normal(size=(6, 4, 3))).astype(int).tolist()
        known = {
            f"m{index}": Certificate(
                declaration=DECLARATION,
                runs=tuple(run(seed, *counts) for seed, counts in zip(DECLARATION.seeds, model[:3], strict=False)),
            )
            for index, model in enumerate(rows)
        }
        found = replicate([Published(model=f"m{i}", correct=tuple(model[3])) for i, model in enumerate(rows)], known)
        outside += any(one.outcome != "consistent" for one in found.figures)
    assert outside / 400 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)


def test_best_is_compared_with_the_best_of_as_many_epochs() -> None:
    """Our best epoch of three: higher than the last one."""
    found = replicate([Published(model="a", correct=(9_936, 9_930, 9_930))], certificates())
    best = next(one for one in found.figures if one.figure == "best")
    assert pytest.approx((9_940 + 9_936 + 9_936) / 3) == best.mean


def test_what_is_not_testable_says_why() -> None:
    """Without runs, without a log, and with another number of epochs; a claimed best without a log is tested."""
    found = replicate(
        [
            Published(model="c", correct=(1, 2, 3)),
            Published(model="a", correct=(), claimed_best="99.36"),
            Published(model="b", correct=(9_800, 9_850)),
        ],
        certificates(),
    )
    reasons = {(one.model, one.figure): one.reason for one in found.figures if one.outcome == "not testable"}

    assert "not run" == reasons["c", "last"]
    assert "no training log is published" == reasons["a", "last"]
    assert "the published log and the recipe have different numbers of epochs" == reasons["b", "best"]
    assert "consistent" == outcomes(found)["a", "best"]


def test_shared_runs_are_pooled_once() -> None:
    """Two models that share a certificate add its runs to the standard deviation once."""
    shared = certificates()
    both = {"a": shared["a"], "twin": shared["a"]}
    found = replicate([Published(model=name, correct=(9_900, 9_930, 9_940)) for name in both], both)
    alone = replicate([Published(model="a", correct=(9_900, 9_930, 9_940))], shared)

    assert 1 == len(found.pooled)
    assert found.sd == alone.sd
    assert dataclasses.asdict(found)["figures"]
