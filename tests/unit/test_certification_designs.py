"""The designs of a certificate: error rates and coverage by exact recursion and by simulation, and known values."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from harness.certification import Design, Endpoint, FixedDesign, SequentialDesign
from harness.errors import InputError

SIMULATIONS = 10_000
DEFAULT = SequentialDesign()


def simulated(design: Design, rate: float, seed: int) -> list[Endpoint]:
    """Where many simulated tests end, by drawing one run after another."""
    draws = np.random.default_rng(seed).random((SIMULATIONS, design.runs)) < rate
    ends = []
    for outcomes in draws.tolist():
        end = design.decide(outcomes)
        assert end is not None
        ends.append(end)
    return ends


def near(share: float, probability: float) -> bool:
    """Whether a simulated share agrees with a probability, within 4.5 standard errors."""
    return abs(share - probability) <= 4.5 * math.sqrt(probability * (1 - probability) / SIMULATIONS) + 1e-9


@pytest.mark.parametrize("rate", [0.80, 0.90, 0.95])
def test_simulations_agree_with_the_recursion(rate: float) -> None:
    """Shares of the verdicts, numbers of runs and coverage of the interval, of 10,000 simulated tests."""
    ends = simulated(DEFAULT, rate, seed=round(100 * rate))
    exact = DEFAULT.characteristics(rate)
    verdicts = Counter(end.verdict for end in ends)

    assert near(verdicts["pass"] / SIMULATIONS, exact.passed)
    assert near(verdicts["fail"] / SIMULATIONS, exact.failed)
    assert near(verdicts["inconclusive"] / SIMULATIONS, exact.inconclusive)
    runs = [end.runs for end in ends]
    deviation = math.sqrt(sum((count - exact.runs) ** 2 for count in runs) / SIMULATIONS)
    assert abs(sum(runs) / SIMULATIONS - exact.runs) <= 4.5 * deviation / math.sqrt(SIMULATIONS)
    covering = {end for end in set(ends) if covers(DEFAULT.interval(end), rate)}
    expected = math.fsum(p for end, p in DEFAULT.endpoints(rate).items() if covers(DEFAULT.interval(end), rate))
    assert near(sum(end in covering for end in ends) / SIMULATIONS, expected)


def covers(interval: tuple[float, float], rate: float) -> bool:
    """Whether the rate is in the interval."""
    return interval[0] <= rate <= interval[1]


def test_the_error_rates_of_the_default_hold() -> None:
    """The exact figures: pass at 0.80 and fail at 0.95 are at most 5 %; what is left and what it takes is known."""
    low, high = DEFAULT.characteristics(0.80), DEFAULT.characteristics(0.95)

    assert 0.0391 == round(low.passed, 4) <= DEFAULT.alpha
    assert 0.0256 == round(high.failed, 4) <= DEFAULT.beta
    assert (0.0842, 0.1213) == (round(low.inconclusive, 4), round(high.inconclusive, 4))
    assert (22.1, 28.7) == (round(low.runs, 1), round(high.runs, 1))


SETTINGS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "p0": st.floats(0.05, 0.85),
        "p1": st.floats(0.86, 0.99),
        "alpha": st.floats(0.01, 0.3),
        "beta": st.floats(0.01, 0.3),
        "runs": st.integers(1, 40),
    }
)
DESIGNS: st.SearchStrategy[Design] = st.one_of(
    SETTINGS.map(lambda chosen: SequentialDesign(**chosen)), SETTINGS.map(lambda chosen: FixedDesign(**chosen))
)


@settings(max_examples=60, deadline=None)
@given(design=DESIGNS, better=st.floats(0, 1), worse=st.floats(0, 1))
def test_error_rates_hold_for_every_design(design: Design, better: float, worse: float) -> None:
    """Whatever rates are chosen: alpha at and below p0, beta at and above p1, and the probabilities add up to 1."""
    low = design.characteristics(design.p0 * worse)
    high = design.characteristics(design.p1 + (1 - design.p1) * better)

    assert low.passed <= design.alpha + 1e-9
    assert high.failed <= design.beta + 1e-9
    assert math.isclose(1, low.passed + low.failed + low.inconclusive, abs_tol=1e-9)
    assert low.runs <= design.runs + 1e-9


@settings(max_examples=15, deadline=None)
@given(design=DESIGNS, rate=st.floats(0.02, 0.98), more=st.floats(0, 0.3))
def test_the_interval_covers_and_its_order_is_monotone(design: Design, rate: float, more: float) -> None:
    """The true rate is covered at least 95 times out of 100, and a higher rate makes strong evidence more probable."""
    ends = design.endpoints(rate)
    covered = math.fsum(p for end, p in ends.items() if p > 1e-6 and covers(design.interval(end), rate))
    assert covered >= 0.95 - 1e-4

    higher = design.endpoints(min(rate + more, 1.0))
    total = total_higher = 0.0
    for end, probability in ends.items():
        total += probability
        total_higher += higher[end]
        assert total_higher >= total - 1e-9


def test_a_test_ends_as_soon_as_it_is_decided() -> None:
    """18 passes in a row pass; three failures among nine fail; later runs change nothing."""
    assert DEFAULT.decide([True] * 17) is None
    assert Endpoint(18, 0, "pass") == DEFAULT.decide([True] * 18 + [False] * 5)
    assert Endpoint(9, 3, "fail") == DEFAULT.decide([True] * 6 + [False] * 3 + [True] * 20)
    mixed = ([True] * 9 + [False]) * 4 + [True] * 10
    assert Endpoint(50, 4, "inconclusive") == DEFAULT.decide(mixed)


def test_a_fixed_number_of_runs_is_a_binomial_test() -> None:
    """Interval and verdicts are scipy's exact ones; 49 of 50 has the one-sided lower bound 0.909."""
    design = FixedDesign()
    one = Endpoint(50, 1, "pass")

    assert design.decide([True] * 49) is None
    assert one == design.decide([False] + [True] * 49)
    expected = stats.binomtest(49, 50).proportion_ci(0.95, method="exact")
    assert pytest.approx((expected.low, expected.high)) == design.interval(one)
    assert 0.909 == round(design.lower_bound(one), 3)
    for failures in range(51):
        end = design.decide([False] * failures + [True] * (50 - failures))
        assert end is not None
        shown = stats.binomtest(50 - failures, 50, 0.80, alternative="greater").pvalue <= 0.05
        assert shown == ("pass" == end.verdict)


def test_the_binomial_distribution_agrees_with_the_recursion() -> None:
    """Probabilities, and the order of the endpoints, of a design whose verdicts are of all three kinds."""
    design = FixedDesign(runs=60, p0=0.7, p1=0.8)
    for rate in (0.0, 0.75, 1.0):
        assert pytest.approx(super(FixedDesign, design).endpoints(rate)) == design.endpoints(rate)
        assert list(super(FixedDesign, design).endpoints(rate)) == [*design.endpoints(rate)]
    assert {"pass", "fail", "inconclusive"} == {end.verdict for end in design.endpoints(0.5)}


def test_a_bound_that_is_met_exactly_decides() -> None:
    """One failure has a probability of exactly beta at p1; a likelihood ratio of 4 is exactly 1 / alpha."""
    assert "fail" == FixedDesign(runs=1).verdict(1, 1)
    sequential = SequentialDesign(p0=0.2, p1=0.8, alpha=0.25, beta=0.25)
    assert ["pass"] * 3 == [sequential.verdict(runs, runs // 2) for runs in (3, 5, 7)]
    assert "fail" == sequential.verdict(3, 2)


def test_the_ends_of_the_scale_have_one_sided_intervals() -> None:
    """Without a failure the upper limit is 1, without a success the lower limit is 0."""
    assert 1.0 == DEFAULT.interval(Endpoint(18, 0, "pass"))[1]
    least = next(reversed(DEFAULT.endpoints(0.5)))
    assert 0.0 == DEFAULT.interval(least)[0]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"p0": 0.95, "p1": 0.8}, "expected p0 < p1, got p0=0.95, p1=0.8"),
        ({"p0": 0.0}, "expected 0 < p0 < 1, got p0=0.0"),
        ({"alpha": 0.5}, "expected 0 < alpha < 0.5"),
        ({"runs": 0}, "expected 1 <= runs <= 1,000, got runs=0"),
    ],
)
def test_rates_out_of_range_are_refused(wrong: dict[str, float], message: str) -> None:
    """The message names the range and the value."""
    with pytest.raises(InputError, match=message):
        SequentialDesign(**wrong)  # type: ignore[arg-type]
