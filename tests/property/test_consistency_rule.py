"""Laws of the consistency rule."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from harness.certification import ConsistencyRule
from harness.findings import Status
from tests.made_up import record

TARGETS = st.decimals(min_value="1", max_value=100, places=3)


def rule(target: Decimal, last: int | None) -> ConsistencyRule:
    """The rule over the last epochs, or over the best one."""
    return ConsistencyRule(target=target, rule="last" if last else "best", last=last, max_epochs=15)


@given(target=TARGETS, total=st.integers(1, 10**6))
def test_required_is_the_least_sufficient_count(target: Decimal, total: int) -> None:
    """The required count reaches the target as an exact fraction, and one image less does not."""
    required = rule(target, 1).required(total)
    share = Fraction(target) / 100
    assert Fraction(required, total) >= share > Fraction(required - 1, total)


@given(target=TARGETS)
def test_a_target_survives_toml(target: Decimal) -> None:
    """A target read as the float that TOML gives is the decimal number that was written."""
    table = {"target": float(target), "rule": "best", "max_epochs": 15}
    assert rule(target, None) == ConsistencyRule.from_table(table)


@given(
    target=TARGETS,
    last=st.none() | st.integers(1, 5),
    counts=st.lists(st.integers(0, 100), min_size=1, max_size=8),
    raised=st.lists(st.integers(0, 100), min_size=8, max_size=8),
)
def test_more_right_answers_never_hurt(target: Decimal, last: int | None, counts: list[int], raised: list[int]) -> None:
    """Raising counts never turns a pass into anything else."""
    better = [max(pair) for pair in zip(counts, raised, strict=False)]
    before, after = (rule(target, last).judge(record(each, total=100))[1].status for each in (counts, better))
    assert before is not Status.PASS or after is Status.PASS


@given(target=TARGETS, last=st.integers(1, 5), counts=st.lists(st.integers(0, 100), min_size=1, max_size=8))
def test_last_is_at_least_as_strict_as_best(target: Decimal, last: int, counts: list[int]) -> None:
    """Whoever passes by the last epochs passes by the best one, and by any shorter stretch of last ones."""
    run = record(counts, total=100)
    if rule(target, last).judge(run)[1].status is Status.PASS:
        weaker = [rule(target, None), *(rule(target, shorter) for shorter in range(1, last))]
        assert {Status.PASS} == {each.judge(run)[1].status for each in weaker}
