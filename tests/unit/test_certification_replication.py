"""Published figures against our runs: intervals at their edges, pooling, and what is not testable."""

from __future__ import annotations

import dataclasses
import json

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
    samples = [[np.log((row[-1] + 0.5) / (10_000.5 - row[-1])) for row in rows] for rows in COUNTS.values()]
    sd = np.sqrt(np.mean([np.var(sample, ddof=1) for sample in samples]))
    half = stats.t.ppf(1 - 0.05 / 6 / 2, 4) * sd * np.sqrt(1 + 1 / 3)
    interval = tuple(10_001 / (1 + np.exp(sign * half - np.mean(samples[0]))) - 0.5 for sign in (1, -1))

    assert pytest.approx(sd) == found.sd["last"]
    assert pytest.approx(interval) == (last.lower, last.upper)
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
    """With published runs from our own distribution, a page has a figure outside in at most 5 % of 400 simulations.

    The models have from 40 to 140 wrong predictions, whose standard deviation over seeds is a tenth of them.
    """
    drawn = np.random.default_rng(5)
    wrong = np.linspace(40, 140, 6)[:, None, None]
    outside = 0
    for _ in range(400):
        rows = np.rint(10_000 - wrong * (1 + drawn.normal(size=(6, 4, 3)) / 10)).astype(int).tolist()
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
    """Two models with the same runs, in one certificate or in two, add them to the standard deviation once."""
    shared = certificates()
    both = {"a": shared["a"], "twin": dataclasses.replace(shared["a"])}
    found = replicate([Published(model=name, correct=(9_900, 9_930, 9_940)) for name in both], both)
    alone = replicate([Published(model="a", correct=(9_900, 9_930, 9_940))], shared)

    assert ("a",) == found.pooled
    assert found.sd == alone.sd
    assert dataclasses.asdict(found)["figures"]


def test_a_figure_without_a_log_takes_its_spread_from_a_model_that_shares_the_runs() -> None:
    """The last epoch is published by one of two models with one certificate; a figure that nobody published has no spread."""
    shared = dict.fromkeys(("a", "twin"), certificates()["a"])
    log, claim = (
        Published(model="a", correct=(9_900, 9_930, 9_000)),
        Published(model="twin", correct=(), claimed_best="99.4"),
    )
    found = replicate([log, claim], shared)

    assert "below what we see" == outcomes(found)["a", "last"]
    assert ["best"] == list(replicate([claim], shared).sd)
    json.dumps(dataclasses.asdict(replicate([claim], shared)), allow_nan=False)


def test_equal_counts_are_as_uncertain_as_their_rounding() -> None:
    """Runs that happen to end with the same count do not exclude the next one."""
    same = Certificate(declaration=DECLARATION, runs=tuple(run(seed, 0, 0, 9_940) for seed in DECLARATION.seeds[:3]))
    found = replicate([Published(model="a", correct=(0, 0, 9_941))], {"a": same})
    assert "consistent" == outcomes(found)["a", "last"]


def test_runs_that_cannot_be_compared_say_why() -> None:
    """Other test images, and runs that diverged."""
    bad = Certificate(
        declaration=DECLARATION, runs=tuple(run(seed, status="diverged") for seed in DECLARATION.seeds[:3])
    )
    found = replicate(
        [
            Published(model="a", correct=(300, 310, 320), total=360),
            Published(model="b", correct=(1, 2, 3), total=10_000),
        ],
        {"a": certificates()["a"], "b": bad},
    )

    assert {"published for 360 test images, our runs have 10,000", "0 of 3 runs are complete"} == {
        one.reason for one in found.figures
    }
    assert {"not testable"} == set(outcomes(found).values())
