"""The statistics of a comparison of two runs."""

from __future__ import annotations

import math
import random

import pytest

from harness.benchmarking import MIN_BLOCKS, SavedRun, compare_runs
from tests.made_up import measurement


def saved(*ratios: list[float]) -> SavedRun:
    """A run of one benchmark, with blocks of these ratios."""
    return SavedRun(
        path="run.json", commit=None, when="now", machine={}, measurements={"benchmark": measurement(*ratios)}
    )


def drawn(generator: random.Random, *, ratio: float = 1.0, place: float = 0.02, spread: float = 0.06) -> SavedRun:
    """The minimum number of blocks, each at its own place in memory; rounds vary, and some are outliers."""
    places = [ratio * math.exp(generator.gauss(0, place)) for _ in range(MIN_BLOCKS)]
    return saved(
        *(
            [at * math.exp(generator.gauss(0, spread)) * (1.5 if generator.random() < 0.05 else 1) for _ in range(5)]
            for at in places
        )
    )


def test_the_interval_has_its_nominal_coverage() -> None:
    """Of 300 comparisons of equal runs about 95 % of the intervals contain 1, and no run counts as slower."""
    generator = random.Random(0)  # noqa: S311 - no secret
    comparisons = [compare_runs(drawn(generator), drawn(generator, spread=0.1), allowed=1.1)[0] for _ in range(300)]
    covered = sum(found.interval[0] <= 1 <= found.interval[1] for found in comparisons)

    assert 276 <= covered <= 297
    assert not any(found.slower for found in comparisons)


def test_a_slow_down_is_detected_from_the_smallest_visible_ratio() -> None:
    """A ratio just above the smallest detectable one counts as slower, one just below does not."""

    def against_baseline(ratio: float) -> tuple[bool, float]:
        runs = (drawn(random.Random(1), ratio=factor) for factor in (1.0, ratio))  # noqa: S311 - no secret
        (found,) = compare_runs(*runs, allowed=1.1)
        assert pytest.approx(ratio) == found.ratio
        return found.slower, found.smallest_visible

    _, visible = against_baseline(1.0)

    assert 1.11 < visible < 1.2
    assert [True, False] == [against_baseline(factor * visible)[0] for factor in (1.001, 0.999)]
