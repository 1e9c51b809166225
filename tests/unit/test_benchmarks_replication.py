"""benchmarks/replication.py: the runs on record by model, and the bounds that a further run is judged by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from benchmarks.replication import figures_of, recorded
from harness.certification import Certificate, replication
from harness.certification.comparison import prediction_factor
from harness.errors import InputError
from tests.certificates import made_up_certificate
from tests.unit.test_certification_certificate import certificate

MEANS = {"a": 9_930, "b": 9_830, "c": 9_930}
SD = 5


def test_models_that_are_one_network_under_one_recipe_share_their_runs(tmp_path: Path) -> None:
    """`pipeline_second` has the runs of `cloud_2`; models of one network under two recipes share none."""
    for name in ("cloud_2", "cloud_3"):
        made_up_certificate(name, [9_900, 9_910, 9_905], runs=3).write(tmp_path / f"{name}.json")
    found = recorded(tmp_path)

    assert {"cloud_2", "cloud_3", "pipeline_second"} == found.keys()
    assert found["cloud_2"] is found["pipeline_second"]
    made_up_certificate("pipeline_second", [9_900, 9_910], runs=2).write(tmp_path / "pipeline_second.json")
    assert 2 == len(recorded(tmp_path)["pipeline_second"].runs)


def test_without_records_no_model_has_runs(tmp_path: Path) -> None:
    """A folder that is empty or missing is no error; a file that is no certificate is."""
    assert {} == recorded(tmp_path)
    assert {} == recorded(tmp_path / "none")
    (tmp_path / "cloud_2.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match="expected a certificate with schema="):
        recorded(tmp_path)


def drawn(generator: np.random.Generator) -> tuple[dict[str, Certificate], dict[str, int]]:
    """Three runs on record of each model and the last epochs of a further one, from one distribution a model."""
    rows = {name: np.rint(mean + SD * generator.normal(size=4)).astype(int).tolist() for name, mean in MEANS.items()}
    certificates = {name: certificate(*[(9_800, count, count) for count in row[:3]]) for name, row in rows.items()}
    return certificates, {name: row[3] for name, row in rows.items()}


def outside(name: str, last: int, certificates: dict[str, Certificate]) -> bool:
    """Whether a run that ends with these counts is outside the bounds of a figure."""
    figures = figures_of(name, (9_800, last, last), certificates)
    assert ["best", "last", "mean of the last three"] == [figure.figure for figure in figures]
    return any(figure.outcome != "consistent" for figure in figures)


def bounds_hold() -> bool:
    """Whether runs of the recorded distribution are within in 95 % of the suites, and ones eight deviations off are outside."""
    generator, suites, alarms, missed = np.random.default_rng(3), 60, 0, 0
    for _ in range(suites):
        certificates, last = drawn(generator)
        alarms += any(outside(name, last[name], certificates) for name in MEANS)
        missed += not outside("a", MEANS["a"] - 8 * SD, certificates)
    return alarms / suites <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / suites) and missed / suites <= 0.25


@pytest.mark.parametrize(("width", "hold"), [(1.0, True), (0.5, False), (2.5, False)])
def test_the_bounds_are_as_wide_as_the_noise(width: float, hold: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001 - a parameter of the test
    """The bounds hold; half as wide ones cry wolf, and much wider ones miss a model that is eight deviations worse."""

    def factor(level: float, *, freedom: int, runs: int) -> float:
        return width * prediction_factor(level, freedom=freedom, runs=runs)

    monkeypatch.setattr(replication, "prediction_factor", factor)

    assert hold == bounds_hold()


def test_the_level_is_for_a_run_of_every_model() -> None:
    """Student's t intervals with the pooled standard deviation, at the level for three figures of each model on record."""
    rows = {
        name: [(9_800 + index, 9_800, count) for count in (9_925, 9_930, 9_935)] for index, name in enumerate("abcd")
    }
    many = {name: certificate(*counts) for name, counts in rows.items()}
    for models in ("ab", "abcd"):
        figure = figures_of("a", (9_800, 9_800, 9_930), {name: many[name] for name in models})[1]
        quantile = stats.t.ppf(1 - 0.05 / (3 * len(models)) / 2, 2 * len(models))
        counts = np.array([9_925, 9_930, 9_935])
        odds = np.log((counts + 0.5) / (10_000.5 - counts))
        half = odds.std(ddof=1) * quantile * np.sqrt(1 + 1 / 3)
        ends = tuple(10_001 / (1 + np.exp(-odds.mean() - sign * half)) - 0.5 for sign in (-1, 1))
        assert pytest.approx(ends) == (figure.lower, figure.upper)


def test_intervals_are_of_possible_counts() -> None:
    """The interval of an inaccurate model whose runs differ a lot is wide, but not below no image."""
    figure = figures_of(
        "a", (9_000, 9_000, 40), {"a": certificate(*[(9_000, 9_000, one) for one in (500, 2_000, 6_000)])}
    )[1]
    assert figure.lower is not None
    assert figure.published is not None
    assert figure.upper is not None
    assert 0 <= figure.lower <= figure.published <= figure.upper <= 10_000


def test_a_model_without_two_complete_runs_on_record_is_not_testable() -> None:
    """One run has no standard deviation, and no run has no mean; the reasons differ."""
    certificates = {"a": certificate((9_930, 9_930, 9_930))}

    assert {"1 of 1 runs are complete"} == {figure.reason for figure in figures_of("a", (9_930,) * 3, certificates)}
    assert {"not run"} == {figure.reason for figure in figures_of("b", (9_930,) * 3, certificates)}
