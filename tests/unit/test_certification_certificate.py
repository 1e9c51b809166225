"""Certificates as documents: declared seeds, verdicts, summaries, and what a changed file is refused for."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import statistics
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from harness.certification import (
    Certificate,
    CertifiedRun,
    ConsistencyRule,
    Crash,
    Declaration,
    FixedDesign,
    SequentialDesign,
    compare,
    comparison,
    declared_seeds,
    place_run,
)
from harness.certification.comparison import PlacedEpoch
from harness.errors import InputError
from harness.sandbox.layers import unavailable_layers
from harness.training import WrongPredictions
from tests.documents import schema_errors
from tests.made_up import RECIPE, record

RULE = ConsistencyRule(target=Decimal("99.4"), rule="last", last=2, max_epochs=3)
DECLARATION = Declaration(
    model="net",
    source="net.py",
    arguments="",
    graph_digest="a" * 64,
    contract="mine",
    rule=RULE,
    recipe=RECIPE,
    data_name="mnist",
    data_title="MNIST",
    data_digest="d" * 64,
    engine="fast",
    device="cpu",
    design=SequentialDesign(),
    salt="1",
)


def run(seed: int, *counts: int, status: str = "complete", wrong: tuple[tuple[int, int], ...] = ()) -> CertifiedRun:
    """A run with these correct predictions out of 10,000, one number an epoch; without ``wrong``, the first images are."""
    if status == "complete" and counts and not wrong:
        wrong = tuple((index, 0) for index in range(10_000 - counts[-1]))
    return CertifiedRun(
        seed=seed,
        record_digest="1" * 64,
        results_digest=f"{hash((counts, wrong)) % 2**64:064x}",
        status=status,
        correct=counts,
        total=10_000,
        wrong=wrong,
        processor=None,
        torch="2.15.0",
    )


def certificate(*rows: tuple[int, ...], declaration: Declaration = DECLARATION) -> Certificate:
    """The first declared seeds, with these counts."""
    seeds = declaration.seeds
    return Certificate(
        declaration=declaration, runs=tuple(run(seed, *row) for seed, row in zip(seeds, rows, strict=False))
    )


GOOD, BAD = (9_900, 9_940, 9_945), (9_960, 9_939, 9_960)
PASSED = certificate(*[GOOD] * 18)


def test_seeds_depend_on_rule_and_salt_only() -> None:
    """A changed model or recipe draws the same seeds; another rule or salt draws others; more seeds begin with the same."""
    other_model = dataclasses.replace(DECLARATION, model="other", graph_digest="b" * 64, recipe=RECIPE.with_epochs(2))

    assert DECLARATION.seeds == other_model.seeds
    assert 50 == len(set(DECLARATION.seeds))
    assert DECLARATION.seeds[:20] == declared_seeds(RULE, "1", 20)
    for changed in (dataclasses.replace(RULE, target=Decimal("99.41")), dataclasses.replace(RULE, last=3)):
        assert not set(DECLARATION.seeds) & set(declared_seeds(changed, "1", 50))
    assert not set(DECLARATION.seeds) & set(declared_seeds(RULE, "2", 50))
    assert DECLARATION.seeds == declared_seeds(dataclasses.replace(RULE, target=Decimal("99.40")), "1", 50)
    # Published certificates depend on these numbers.
    assert (1472638546, 98107554) == declared_seeds(RULE, "1", 2)


@pytest.mark.parametrize(
    ("one", "passed"),
    [
        (run(1, 9_000, 9_940, 9_940), True),
        (run(1, 9_999, 9_939, 9_999), False),
        (run(1, 9_940, 9_940), False),
        (run(1, 9_940, 9_940, status="diverged"), False),
        (run(1, 9_940, 9_940, 9_940, 9_940), False),
    ],
)
def test_a_run_passes_by_the_rule(one: CertifiedRun, passed: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """9,940 in each of the last two epochs, all declared epochs complete; one image fewer fails."""
    assert passed == PASSED.passed(one)


def test_the_verdict_is_the_designs() -> None:
    """18 passes pass, three early failures fail, fewer leave it open; a fixed number of runs waits for all."""
    assert "pass" == PASSED.verdict
    assert "fail" == certificate(*[BAD] * 3).verdict
    assert certificate(*[GOOD] * 17).verdict is None
    fixed = dataclasses.replace(DECLARATION, design=FixedDesign(runs=20))
    assert certificate(*[GOOD] * 19, declaration=fixed).verdict is None
    assert "pass" == certificate(*[GOOD] * 20, declaration=fixed).verdict


def test_the_summary_is_of_the_counted_epochs() -> None:
    """Mean, standard deviation and minimum of the last two epochs; the correlation over runs."""
    summary = certificate((1, 9_940, 9_942), (1, 9_950, 9_952), (1, 9_930, 9_934)).summary()

    assert (3, 2, 9_930) == (summary["runs"], summary["passed"], summary["minimum"])
    assert pytest.approx((9_941 + 9_951 + 9_932) / 3) == summary["mean"]
    assert pytest.approx(9.504, abs=0.001) == summary["sd"]
    assert pytest.approx(0.993, abs=0.001) == summary["correlation"]
    assert [None, None] == [summary["verdict"], summary["interval"]]
    assert pytest.approx((0.8147, 1.0), abs=1e-4) == tuple(PASSED.summary()["interval"])


def test_an_undecided_certificate_without_runs_has_no_figures() -> None:
    """Nothing is claimed before the first run."""
    summary = certificate().summary()
    assert {0} == {value for value in summary.values() if value is not None}


def test_a_certificate_is_read_back(tmp_path: Path) -> None:
    """The file holds everything, conforms to the schema, and is written atomically."""
    crashes = (Crash(seed=3, problem="its process was killed by SIGKILL"),)
    whole = dataclasses.replace(PASSED, crashes=crashes, sandbox=unavailable_layers())
    path = tmp_path / "certificate.json"
    whole.write(path)

    assert whole == Certificate.read(path)
    document = json.loads(path.read_text())
    assert [] == schema_errors(document)
    # Reading leaves the document as it was.
    assert whole == Certificate.from_json(document) == Certificate.from_json(document)
    assert [path] == list(tmp_path.iterdir())
    assert "sandbox" not in PASSED.to_json()


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a better count": (lambda d: d["runs"][0].update(correct=[9_900, 9_960, 9_945]), "expected summary="),
    "a better last count": (lambda d: d["runs"][0].update(correct=[9_900, 9_940, 9_960]), "got 3 epochs and 55 wrong"),
    "an epoch left out": (lambda d: d["runs"][0].update(correct=[9_940, 9_945]), "got 2 epochs and 55 wrong"),
    "no epoch": (lambda d: d["runs"][0].update(correct=[]), "got 0 epochs and 55 wrong"),
    "more correct than there are images": (
        lambda d: d["runs"][0].update(total=9_900),
        "expected correct predictions of seed .* from 0 to total=9900",
    ),
    "another verdict": (lambda d: d["summary"].update(verdict="fail"), "expected summary="),
    "another seed": (lambda d: d["runs"][0].update(seed=7), "expected runs with the first seeds of the declaration"),
    "a run left out": (lambda d: d["runs"].pop(0), "expected runs with the first seeds of the declaration"),
    "other declared seeds": (lambda d: d["declaration"]["seeds"].reverse(), "expected seeds="),
    "an easier rule": (lambda d: d["declaration"]["rule"].update(target=99.0), "expected runs with the first seeds"),
    "another schema": (
        lambda d: d.update(schema="harness.run/1"),
        "expected a certificate with schema='harness.certificate/1'",
    ),
    "an unknown key": (lambda d: d.update(more=1), "'more' is not a known key"),
    "a missing key": (lambda d: d["declaration"].pop("salt"), "expected a value for salt"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_certificate_is_refused(change: str) -> None:
    """Seeds, verdict and summary are computed anew; the message says what was expected."""
    alter, message = CHANGES[change]
    document = copy.deepcopy(PASSED.to_json())
    alter(document)
    with pytest.raises(InputError, match=message):
        Certificate.from_json(document)


def test_the_last_digits_of_a_statistic_may_differ() -> None:
    """Another version of Python may round a sum in another way; a larger difference is a change by hand."""
    document = certificate((9_900, 9_940, 9_951), (9_902, 9_942, 9_951), (9_898, 9_944, 9_949)).to_json()
    summary = document["summary"]
    assert -1 < summary["correlation"] < 0
    for factor, fits in ((1 + 1e-12, True), (1 + 1e-6, False)):
        other = {**document, "summary": {**summary, "correlation": summary["correlation"] * factor}}
        with contextlib.nullcontext() if fits else pytest.raises(InputError, match="expected summary="):
            assert Certificate.from_json(other).to_json() == document


def test_files_that_are_no_certificates_are_refused(tmp_path: Path) -> None:
    """A missing file and one that is not JSON."""
    with pytest.raises(InputError, match=r"expected a certificate, got .*which cannot be read: No such file"):
        Certificate.read(tmp_path / "none.json")
    (tmp_path / "text.json").write_text("hello")
    with pytest.raises(InputError, match="is not valid JSON"):
        Certificate.read(tmp_path / "text.json")


def predictions(*wrong: int, state: str = "0") -> WrongPredictions:
    """Wrong predictions of these images."""
    return WrongPredictions(state_digest=state * 64, data_digest="d" * 64, wrong=tuple((index, 3) for index in wrong))


def test_a_run_keeps_counts_and_wrong_predictions() -> None:
    """A certified run holds what its record says, and the results' digest ignores the times only."""
    one = record([9_990, 9_998])
    slower = dataclasses.replace(one, wall_seconds=99.0)
    certified = CertifiedRun.of(one, predictions(4, 7))

    assert ((9_990, 9_998), 10_000, ((4, 3), (7, 3))) == (certified.correct, certified.total, certified.wrong)
    assert certified.results_digest == CertifiedRun.of(slower, predictions(4, 7)).results_digest
    assert certified.record_digest != CertifiedRun.of(slower, predictions(4, 7)).record_digest
    assert certified.results_digest != CertifiedRun.of(one, predictions(4, 8)).results_digest
    assert certified.results_digest != CertifiedRun.of(record([9_991, 9_998]), predictions(4, 7)).results_digest
    assert () == CertifiedRun.of(record([9_990], declared=2, status="diverged"), None).wrong


@pytest.mark.parametrize("other", [predictions(4), predictions(4, 7, state="1")])
def test_predictions_of_another_run_are_refused(other: WrongPredictions) -> None:
    """Too few wrong predictions for the count, or those of another state."""
    with pytest.raises(InputError, match="expected the predictions of the final state of seed 1"):
        CertifiedRun.of(record([9_990, 9_998]), other)


def test_certificates_are_compared_on_common_seeds() -> None:
    """Only seeds of both count, in the epochs that count; the flips are those of the final states."""
    seeds = DECLARATION.seeds
    a = Certificate(
        declaration=DECLARATION, runs=tuple(run(seed, 0, 9_950, 9_960, wrong=((1, 2), (5, 5))) for seed in seeds[:5])
    )
    b = Certificate(
        declaration=DECLARATION,
        runs=tuple(run(seed, 0, 9_930, 9_940 + n, wrong=((5, 6),)) for n, seed in enumerate(seeds[:4])),
    )
    found = compare(a, b, margin=5)

    assert ("B is worse", seeds[:4]) == (found.outcome, tuple(pair.seed for pair in found.seeds))
    assert pytest.approx((-20.0, -19.5, -19.0, -18.5)) == found.differences
    assert (0, 1) == (found.seeds[0].flips.lost, found.seeds[0].flips.gained)
    assert "identical" == compare(a, dataclasses.replace(a, runs=a.runs[:3]), margin=0).outcome


def test_a_diverged_run_has_no_correct_predictions() -> None:
    """B diverges on every seed: worse. On one of four: not shown. A seed on which both diverge: equal."""
    seeds = DECLARATION.seeds[:4]
    a = certificate(*[GOOD] * 4)
    none = Certificate(declaration=DECLARATION, runs=tuple(run(seed, status="diverged") for seed in seeds))
    one = dataclasses.replace(a, runs=(run(seeds[0], 9_000, status="diverged"), *a.runs[1:]))

    assert ("B is worse", "B is better") == (compare(a, none, margin=5).outcome, compare(none, a, margin=5).outcome)
    assert (9_945, 0) == tuple(dataclasses.astuple(compare(a, none, margin=5).seeds[0].flips))
    assert "no difference shown" == compare(a, one, margin=5).outcome
    assert (0.0, 0.0) == (compare(none, one, margin=5).differences[0], compare(one, one, margin=5).mean)
    with pytest.raises(InputError, match="a complete run of A or of B, got 4 diverged runs of each"):
        compare(none, none, margin=5)


def test_a_recipe_of_too_few_epochs_never_passes() -> None:
    """Two epochs count and one is trained: no run meets the rule, as in the judgement of a run record."""
    short = dataclasses.replace(DECLARATION, recipe=DECLARATION.recipe.with_epochs(1))
    assert (False, False) == certificate((9_950,), (9_960,), declaration=short).outcomes


def test_equal_differences_are_as_uncertain_as_their_rounding() -> None:
    """Two seeds with one image less each are no proof of a difference."""
    a, b = certificate(*[(0, 9_950, 9_950)] * 2), certificate(*[(0, 9_949, 9_949)] * 2)
    found = compare(a, b, margin=0)

    assert ("no difference shown", -1) == (found.outcome, found.mean)
    assert found.smallest_visible > 1
    assert (0, 0) == compare(a, a, margin=0).interval


def test_certificates_of_different_kinds_are_not_compared() -> None:
    """Another rule or other data, too few common seeds."""
    with pytest.raises(InputError, match="expected two certificates with the same data_digest"):
        compare(PASSED, certificate(GOOD, declaration=dataclasses.replace(DECLARATION, data_digest="e" * 64)), margin=5)
    other = dataclasses.replace(DECLARATION, rule=dataclasses.replace(RULE, last=1))
    with pytest.raises(InputError, match="expected two certificates with the same rule"):
        compare(PASSED, certificate(GOOD, declaration=other), margin=5)
    with pytest.raises(InputError, match="at least two seeds for which both A and B have a run, got 1"):
        compare(PASSED, certificate(GOOD), margin=5)


def test_a_run_is_placed_epoch_by_epoch() -> None:
    """Usual epochs are within, a slow one is below and a suspiciously good one is above."""
    known = certificate((9_900, 9_940, 9_950), (9_902, 9_942, 9_951), (9_898, 9_944, 9_949), (9_901, 9_941, 9_950))
    one = dataclasses.replace(record([9_700, 9_942, 9_990]), recipe=RECIPE)
    found = place_run(one, known)
    assert ["below", "within", "above"] == [epoch.outcome for epoch in found.epochs]
    assert ("worse", 4) == (found.outcome, found.runs)
    assert "better" == place_run(dataclasses.replace(record([9_900, 9_942, 9_990]), recipe=RECIPE), known).outcome
    with pytest.raises(InputError, match=r"expected a run with the recipe of the certificate, .*'epochs': 3"):
        place_run(record([9_940] * 2), known)
    with pytest.raises(InputError, match="expected a run on the data of the certificate, MNIST, got a run on"):
        place_run(dataclasses.replace(one, data_digest="e" * 64), known)
    with pytest.raises(InputError, match="which was tested on 200 training images"):
        place_run(dataclasses.replace(one, validation=200), known)
    with pytest.raises(InputError, match="at least two complete runs, got a certificate with 1"):
        place_run(one, certificate(GOOD))


@pytest.mark.parametrize("counts", [(), (9_900,), (9_900, 9_942)])
def test_a_run_that_did_not_complete_is_not_consistent(counts: tuple[int, ...]) -> None:
    """A diverged run is worse, after as many usual epochs as you like; an interrupted run is refused."""
    known = certificate((9_900, 9_940, 9_950), (9_902, 9_942, 9_951), (9_898, 9_944, 9_949))
    ended = dataclasses.replace(record(counts, declared=3, status="diverged"), recipe=RECIPE)
    diverged = dataclasses.replace(known, runs=(*known.runs, run(DECLARATION.seeds[3], 9_900, status="diverged")))

    found = place_run(ended, diverged)
    assert ("worse", "diverged", 3) == (found.outcome, found.status, found.runs)
    assert len(counts) == len(found.epochs)
    with pytest.raises(
        InputError, match=rf"got an interrupted run with {len(counts)} of 3 epochs\. Resume the run first"
    ):
        place_run(dataclasses.replace(record(counts, declared=3, status="interrupted"), recipe=RECIPE), known)


PATH = Path(__file__).parents[2] / "benchmarks" / "records" / "certificates" / "relu-7752-dropout.json"
RECORDED = [run.correct for run in Certificate.read(PATH).runs]


def placed(counts: Sequence[int], rows: Sequence[tuple[int, ...]]) -> tuple[PlacedEpoch, ...]:
    """The epochs of a run with these counts beside a certificate with runs of these counts."""
    one = record(counts)
    known = certificate(*rows, declaration=dataclasses.replace(DECLARATION, recipe=one.recipe))
    return place_run(one, known).epochs


def false_alarms() -> int:
    """The number of runs on record with an epoch outside the intervals of all other runs of the certificate."""
    others = [(counts, RECORDED[:left_out] + RECORDED[left_out + 1 :]) for left_out, counts in enumerate(RECORDED)]
    return sum(any(epoch.outcome != "within" for epoch in placed(counts, rows)) for counts, rows in others)


def test_one_run_in_twenty_is_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 50 runs on record 2.5 are expected outside; t intervals, which assume a normal distribution, exclude too many."""
    assert 0 < false_alarms() <= 5

    def normal(sample: NDArray[np.float64], total: int, rank: int) -> float:
        assert (len(sample), total, rank) == (49, 10_000, 48)
        return float(stats.t.ppf(1 - 0.05 / 15 / 2, 48) * np.sqrt(1 + 1 / 49))

    monkeypatch.setattr(comparison, "_jackknife_width", normal)
    assert false_alarms() > 5


def test_a_run_far_from_the_runs_on_record_is_outside() -> None:
    """A run with half or twice the usual number of wrong predictions after the last epoch."""
    usual = [round(statistics.fmean(counts)) for counts in zip(*RECORDED, strict=True)]
    for last, outcome in ((2 * usual[-1] - 10_000, "below"), (usual[-1], "within"), (9_980, "above")):
        assert ["within"] * 14 + [outcome] == [epoch.outcome for epoch in placed([*usual[:-1], last], RECORDED)]


@pytest.mark.parametrize("runs", [2, 20])
def test_equal_counts_are_as_uncertain_as_their_rounding(runs: int) -> None:
    """Runs that happen to have equal counts in an epoch do not put a run with one image more outside."""
    known = [(9_900, 9_940, 9_950), (9_902, 9_942, 9_950)] * (runs // 2)
    assert "within" == placed([9_901, 9_941, 9_950], known)[-1].outcome
    assert "within" == placed([9_901, 9_941, 9_951], known[:2])[-1].outcome
    for count in (30, 5_000, 9_084, 9_999, 10_000):
        assert "within" == placed([count], [(count,)] * runs)[0].outcome


@pytest.mark.parametrize("runs", [3, 20])
def test_intervals_are_of_possible_counts(runs: int) -> None:
    """Accuracies near 0 and near 1, and ones that vary a lot, have no bounds below no image and above all of them."""
    known = [(index, 1_000 + 400 * index, 10_000 - index) for index in range(runs)]
    epochs = placed([0, 1_000, 10_000], known)
    assert all(0 <= epoch.lower < epoch.upper <= 10_000 for epoch in epochs)
    assert ["within"] * 3 == [epoch.outcome for epoch in epochs]
