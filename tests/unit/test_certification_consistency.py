"""The consistency rule at its boundaries, the words of its findings, and the errors of its table."""

from __future__ import annotations

import dataclasses
import tomllib
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.certification import ConsistencyRule
from harness.errors import ContractError, InputError
from harness.findings import Status, percent
from tests.made_up import record

LAST_3 = ConsistencyRule(target=Decimal("99.4"), rule="last", last=3, max_epochs=15)
BEST = ConsistencyRule(target=Decimal("99.4"), rule="best", max_epochs=19)


def accuracy(rule: ConsistencyRule, counts: list[int], **settings: Any) -> Status:  # noqa: ANN401 - the keyword arguments of record
    """The status of the accuracy finding for a run with these counts."""
    _, finding = rule.judge(record(counts, **settings))
    assert "accuracy" == finding.requirement
    return finding.status


@pytest.mark.parametrize(
    ("target", "total", "required"),
    [
        ("99.4", 10_000, 9_940),
        ("99.41", 10_000, 9_941),
        ("99.405", 10_000, 9_941),
        ("99.4", 360, 358),
        ("100", 7, 7),
        ("1.1", 10_000, 110),
    ],
)
def test_required_is_exact(target: str, total: int, required: int) -> None:
    """A percentage in TOML becomes the exact count of images, without floating-point error."""
    table = tomllib.loads(f"target = {target}\nrule = 'last'\nlast = 3\nmax_epochs = 15")
    assert required == ConsistencyRule.from_table(table).required(total)


def test_one_image_decides() -> None:
    """With 99.4 % of 10,000 required, 9,940 passes, and 9,939 in any of the last three epochs fails."""
    early = [9_000] * 12
    assert Status.PASS == accuracy(LAST_3, [*early, 9_940, 9_940, 9_940])
    for place in range(3):
        late = [9_940] * 3
        late[place] = 9_939
        assert Status.FAIL == accuracy(LAST_3, early + late)


def test_last_and_best_differ() -> None:
    """One good epoch is enough for the rule best and not for the rule last."""
    counts = [9_900, 9_945, 9_900, 9_900]
    assert [Status.PASS, Status.FAIL] == [accuracy(BEST, counts), accuracy(LAST_3, counts)]
    assert Status.FAIL == accuracy(BEST, [9_939] * 4)


def test_too_many_epochs_fail() -> None:
    """A recipe of 25 epochs against at most 15 fails, however accurate the run is."""
    epochs, scored = LAST_3.judge(record([9_990] * 25))
    assert ("epochs", Status.FAIL, "25 epochs declared, 10 too many") == (
        epochs.requirement,
        epochs.status,
        epochs.observed,
    )
    assert Status.PASS == scored.status


def test_fewer_declared_epochs_than_allowed_pass() -> None:
    """A recipe may declare fewer epochs than the rule allows."""
    assert [Status.PASS] * 2 == [finding.status for finding in LAST_3.judge(record([9_950] * 5))]


def test_fewer_epochs_than_counted_fail() -> None:
    """A run of two epochs fails a rule on the last three."""
    _, scored = LAST_3.judge(record([9_990, 9_990]))
    assert (Status.FAIL, "the run has 2 epochs, fewer than the last 3 that the rule counts") == (
        scored.status,
        scored.observed,
    )


@pytest.mark.parametrize(
    ("status", "counts", "last", "best"),
    [
        ("interrupted", [9_990] * 5, Status.UNKNOWN, Status.PASS),
        ("interrupted", [9_000] * 5, Status.UNKNOWN, Status.UNKNOWN),
        ("interrupted", [], Status.UNKNOWN, Status.UNKNOWN),
        ("diverged", [9_990] * 5, Status.FAIL, Status.PASS),
        ("diverged", [9_000] * 5, Status.FAIL, Status.FAIL),
        ("diverged", [], Status.FAIL, Status.FAIL),
    ],
)
def test_an_incomplete_run_does_not_pass(status: Any, counts: list[int], last: Status, best: Status) -> None:  # noqa: ANN401 - a Literal
    """A run that did not complete its declared epochs fails `epochs`, whatever its accuracy."""
    stopped = record(counts, declared=15, status=status)
    for rule, expected in ((LAST_3, last), (BEST, best)):
        epochs, scored = rule.judge(stopped)
        assert (Status.FAIL, expected) == (epochs.status, scored.status)
        assert status in epochs.observed


def test_diverged_names_the_epoch() -> None:
    """The epoch that a run diverged in is the one after its last whole epoch."""
    epochs, _ = LAST_3.judge(record([9_000, 9_100], declared=15, status="diverged"))
    assert "diverged at epoch 3 of 15: the loss was not finite" == epochs.observed


def test_evidence_has_counts_and_margin() -> None:
    """The finding gives the counts of the best, the last and the counted epochs, and the distance to the required count."""
    _, scored = LAST_3.judge(record([9_951, 9_945, 9_938, 9_947]))
    assert "at least 99.4 % of the test images correct in each of the last 3 epochs" == scored.expected
    assert "epoch 3: 9,938 of 10,000 (99.38 %), 2 below the required count" == scored.observed
    expected = (
        "required: 9,940 of 10,000",
        "best: epoch 1: 9,951 of 10,000 (99.51 %)",
        "last: epoch 4: 9,947 of 10,000 (99.47 %)",
        "counted: epoch 2: 9,945 of 10,000 (99.45 %)",
        "counted: epoch 3: 9,938 of 10,000 (99.38 %)",
        "counted: epoch 4: 9,947 of 10,000 (99.47 %)",
    )
    assert expected == scored.evidence


def test_a_miss_never_prints_as_the_target() -> None:
    """59,639 of 60,000, which is below 99.4 %, is not printed as 99.40 %."""
    _, scored = LAST_3.judge(record([59_639] * 3, total=60_000))
    assert "epoch 1: 59,639 of 60,000 (99.39 %), 1 below the required count" == scored.observed


def test_skipped_findings_expect_the_same() -> None:
    """Skipped findings name both requirements and the reason."""
    expected = [(finding.requirement, finding.expected) for finding in BEST.judge(record([9_990]))]
    skipped = BEST.skipped("check trains nothing")
    assert expected == [(finding.requirement, finding.expected) for finding in skipped]
    assert {(Status.SKIP, "check trains nothing")} == {(finding.status, finding.observed) for finding in skipped}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"traget": 99.4}, "'traget' is not a known key. Did you mean 'target'?"),
        ({"target": None}, "expected a value for target"),
        ({"target": "99.4"}, "expected target to be a number, got target='99.4' (str)"),
        ({"target": True}, "expected target to be a number, got target=True (bool)"),
        ({"target": 0}, "expected 0 < target <= 100, got target=Decimal('0')"),
        (
            {"target": 0.994},
            "expected target in percent of the test images, at least 1, got target=0.994. Did you mean target=99.4?",
        ),
        ({"target": 100.1}, "expected 0 < target <= 100, got target=Decimal('100.1')"),
        ({"target": float("nan")}, "expected target to be a finite number, got target=nan"),
        ({"rule": "mean"}, "expected rule to be one of 'last', 'best', got rule='mean'"),
        ({"rule": "best"}, "expected rule='best' without the key 'last'"),
        ({"last": None}, "expected the key 'last' to be from 1 to max_epochs=15 with rule='last', got last=None"),
        ({"last": 0}, "expected the key 'last' to be from 1 to max_epochs=15 with rule='last', got last=0"),
        ({"last": 16}, "got last=16"),
        ({"last": 3.0}, "expected last to be a whole number, got last=3.0 (float)"),
        ({"max_epochs": 0}, "expected max_epochs >= 1, got max_epochs=0"),
        ({"max_epochs": None}, "expected a value for max_epochs"),
    ],
)
def test_bad_tables_are_named(change: dict[str, object], message: str) -> None:
    """A wrong key, type or value in [accuracy] is an error that says what was expected."""
    table = {"target": 99.4, "rule": "last", "last": 3, "max_epochs": 15, **change}
    given = {key: value for key, value in table.items() if value is not None}
    with pytest.raises(ContractError) as caught:
        ConsistencyRule.from_table(given, where="mine.toml, [accuracy]")
    assert str(caught.value).startswith("mine.toml, [accuracy]: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("correct", "expected"), [(9_916, "99.16 %"), (59_499, "99.16 %"), (59_500, "99.16 %"), (59_502, "99.17 %")]
)
def test_a_share_is_printed_one_way(correct: int, expected: str) -> None:
    """A share is rounded down, exactly, so that what is below a target never prints as the target."""
    assert expected == percent(correct, 10_000 if correct < 10_000 else 60_000)
    assert ("99.39 %", "100.00 %", "0.00 %") == (percent(99_399, 100_000), percent(3, 3), percent(0, 3))


def test_a_run_on_validation_images_is_refused() -> None:
    """Its counts are not of the test images, so no rule judges them, however good they are."""
    chosen = dataclasses.replace(record([9_990] * 5), validation=10_000)
    with pytest.raises(InputError, match="got a run with validation=10000, which was tested on 10000 training images"):
        LAST_3.judge(chosen)


@given(
    total=st.integers(1, 10**6),
    hundredths=st.integers(101, 10_000),
    last=st.integers(1, 4),
    counts=st.lists(st.floats(0, 1), min_size=4, max_size=4),
)
def test_counts_decide_and_never_percentages(total: int, hundredths: int, last: int, counts: list[float]) -> None:
    """For any number of images, target and number of epochs: a run passes exactly if 100 * count >= target * total in each."""
    target = Decimal(hundredths).scaleb(-2)
    rule = ConsistencyRule(target=target, rule="last", last=last, max_epochs=15)
    # Counts around the edge, where a float percentage may round to the wrong side.
    edge = rule.required(total)
    correct = [min(max(edge + round(3 * share) - 1, 0), total) for share in counts]
    passes = all(100 * 100 * count >= hundredths * total for count in correct[-last:])
    assert (Status.PASS if passes else Status.FAIL) == accuracy(rule, correct, total=total)
    assert 100 * 100 * edge >= hundredths * total > 100 * 100 * (edge - 1)
