"""Two saved runs of the benchmarks against each other, each figure with its confidence interval.

What cannot be compared is an error with its own message, never a pass: a file that is not there or is something else,
another machine, a benchmark that only one of the runs has, too few rounds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.benchmarking.measurement import FEWEST_SITTINGS, ROUNDS_A_SITTING, Measurement
from harness.errors import InputError
from harness.tables import read_table

CONFIDENCE = 0.95
# Where pytest-benchmark saves runs, beside the checkout's tests.
STORAGE = Path(".benchmarks")

# What of the machine decides how work and reference workload compare, and where a saved run has it.
_MACHINE = {
    "CPU": ("cpu", "brand_raw"),
    "CPU capability": ("harness", "cpu_capability"),
    "accelerator": ("harness", "accelerator"),
    "CUDA": ("harness", "cuda"),
    "torch": ("harness", "torch"),
}


@dataclass(frozen=True, kw_only=True)
class SavedRun:
    """One run of the benchmarks.

    Args:
        path: the file.
        commit: the commit that was measured, with ``-dirty`` after it when files differed from it; None if not known.
        when: date and time, UTC.
        machine: what kind of machine it was, in words, by what is described.
        measurements: by the benchmark's name.
    """

    path: str
    commit: str | None
    when: str
    machine: Mapping[str, str]
    measurements: Mapping[str, Measurement]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One benchmark of two runs.

    Args:
        name: of the benchmark.
        baseline: how many times the reference workload the work took in the one run.
        current: in the other.
        allowed: the largest ratio of the two that is accepted.
        half_width: the factor, above 1, by which the ends of the ratio's confidence interval lie below and above it.
    """

    name: str
    baseline: float
    current: float
    allowed: float
    half_width: float

    @property
    def ratio(self) -> float:
        """How many times as slow: above 1 the current run is the slower one."""
        return self.current / self.baseline

    @property
    def interval(self) -> tuple[float, float]:
        """Confidence interval of the ratio."""
        return self.ratio / self.half_width, self.ratio * self.half_width

    @property
    def slower(self) -> bool:
        """Whether the whole interval lies above the allowed ratio."""
        return self.interval[0] > self.allowed

    @property
    def smallest_visible(self) -> float:
        """The smallest ratio that would have been called slower: the one whose interval begins at the allowed ratio."""
        return self.allowed * self.half_width


def read_run(path: str | Path) -> SavedRun:
    """Read a run as pytest-benchmark saved it.

    Raises:
        InputError: there is no such file, it is not pytest-benchmark's, or its benchmarks are not calibrated as ours are.
    """
    try:
        document = json.loads(Path(path).read_bytes())
    except FileNotFoundError:
        msg = (
            f"expected a saved run of the benchmarks, found no file path={str(path)!r}. Save one with `tox -e bench`, on "
            f"this machine and at the commit to compare with; it goes to {STORAGE}/."
        )
        raise InputError(msg) from None
    except (OSError, ValueError) as problem:
        raise _foreign(path, f"it cannot be read as JSON ({problem})") from problem
    try:
        machine_info = document["machine_info"]
        machine = {name: str(machine_info[part][key]) for name, (part, key) in _MACHINE.items()}
        commit, when = machine_info["harness"]["commit"], str(document["datetime"])
        calibrations = {entry["fullname"]: entry["extra_info"]["calibration"] for entry in document["benchmarks"]}
    except (KeyError, TypeError) as problem:
        raise _foreign(path, f"it has no {problem}") from problem
    if not calibrations:
        raise _foreign(path, "it holds no benchmark")
    measurements = {
        name: read_table(Measurement, table, where=f"{path}, {name}", error=InputError)
        for name, table in calibrations.items()
    }
    return SavedRun(path=str(path), commit=commit, when=when, machine=machine, measurements=measurements)


def newest_runs(count: int, storage: Path = STORAGE) -> tuple[str, ...]:
    """The newest runs that pytest-benchmark saved by itself, the very newest last.

    Raises:
        InputError: there are fewer than ``count``.
    """
    found = sorted(storage.glob("*/*.json"), key=lambda path: path.stat().st_mtime)
    if len(found) < count:
        msg = (
            f"expected {count} saved runs of the benchmarks under {str(storage)!r}, found {len(found)}. Save one with "
            "`tox -e bench`, or name the files."
        )
        raise InputError(msg)
    return tuple(str(path) for path in found[-count:])


def compare_runs(baseline: SavedRun, current: SavedRun, *, allowed: float) -> tuple[Comparison, ...]:
    """Compare each benchmark of two runs, in the order of the current one.

    Args:
        baseline: what to compare with.
        current: what is judged.
        allowed: the largest ratio of the calibrated medians, current over baseline, that is accepted.

    Raises:
        InputError: the runs cannot be compared; says why, and which benchmark or which part of the machine.
    """
    _check_machines(baseline, current)
    _check_names(baseline, current)
    comparisons = []
    for name, now in current.measurements.items():
        before = baseline.measurements[name]
        for run, measurement in ((baseline, before), (current, now)):
            _check_rounds(run, name, measurement)
        _check_alike(name, before, now)
        comparisons.append(
            Comparison(
                name=name,
                baseline=before.ratio,
                current=now.ratio,
                allowed=allowed,
                half_width=_half_width(before, now),
            )
        )
    return tuple(comparisons)


def _half_width(before: Measurement, now: Measurement) -> float:
    """Welch's confidence interval for the difference of two means, of the sittings' logarithms.

    Sittings are independent of each other, rounds within one are not: they share a place in memory. A sitting's median
    leaves the stray rounds out, so that Student's t fits what is left.
    """
    from scipy import stats  # noqa: PLC0415 - a second to import

    interval = stats.ttest_ind(now.log_ratios, before.log_ratios, equal_var=False).confidence_interval(CONFIDENCE)
    return math.exp((interval.high - interval.low) / 2)


def _check_machines(baseline: SavedRun, current: SavedRun) -> None:
    differing = [
        f"{what} {before} in the baseline, {current.machine[what]} now"
        for what, before in baseline.machine.items()
        if before != current.machine[what]
    ]
    if differing:
        msg = (
            f"expected two runs on the same class of machine, got others: {'; '.join(differing)}. How work and reference "
            "workload compare holds for one class. Save a baseline on this machine."
        )
        raise InputError(msg)


def _check_names(baseline: SavedRun, current: SavedRun) -> None:
    for run, other in ((baseline, current), (current, baseline)):
        lacking = [name for name in other.measurements if name not in run.measurements]
        if lacking:
            msg = (
                f"expected the same benchmarks in both runs, {run.path} lacks {len(lacking)} that {other.path} has: "
                f"{', '.join(name.rpartition('::')[2] for name in lacking)}. Run both with the same selection."
            )
            raise InputError(msg)


def _check_rounds(run: SavedRun, name: str, measurement: Measurement) -> None:
    """Whether one measurement is fit for any comparison."""
    if measurement.xdist:
        msg = (
            f"{run.path}, {name}: expected a run in one process, got one under pytest-xdist, where benchmarks slow each "
            "other down. Run without -n."
        )
        raise InputError(msg)
    fewest = FEWEST_SITTINGS * ROUNDS_A_SITTING
    if len(measurement.sittings) < FEWEST_SITTINGS or measurement.rounds < fewest:
        msg = (
            f"{run.path}, {name}: expected at least {fewest} rounds in {FEWEST_SITTINGS} sittings, got {measurement.rounds} "
            f"in {len(measurement.sittings)}, too few to tell a slow-down from chance. Run it again."
        )
        raise InputError(msg)
    if len(set(measurement.log_ratios)) == 1:
        msg = f"{run.path}, {name}: expected times that vary as measured ones do, got the same in each sitting. Run it again."
        raise InputError(msg)
    if measurement.waits:
        msg = (
            f"{run.path}, {name}: expected work that computes all the time, got some that sleeps or waits for something "
            f"in each round (waits={measurement.waits}), which the clock that counts computing does not see. Take the "
            "waiting out of it."
        )
        raise InputError(msg)


def _check_alike(name: str, before: Measurement, now: Measurement) -> None:
    if before.workload != now.workload:
        msg = (
            f"{name}: expected both runs to be calibrated by the same reference workload, got {before.workload!r} in the "
            f"baseline and {now.workload!r} now. Save a baseline with this version of the harness."
        )
        raise InputError(msg)
    differing = [
        f"{what} {getattr(before, what)} in the baseline, {getattr(now, what)} now"
        for what in ("device", "clock", "threads")
        if getattr(before, what) != getattr(now, what)
    ]
    if differing:
        msg = (
            f"{name}: expected two runs on the same device, clock and number of threads, got others: "
            f"{'; '.join(differing)}. Save a baseline in the same way."
        )
        raise InputError(msg)


def _foreign(path: str | Path, reason: str) -> InputError:
    return InputError(
        f"expected path={str(path)!r} to be a run of the benchmarks that pytest-benchmark saved, with our calibration; "
        f"{reason}. Save one with `tox -e bench`."
    )
