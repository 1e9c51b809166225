"""Comparison of two saved benchmark runs, with a confidence interval for each ratio.

If two runs cannot be compared, an error with a specific message is raised: a file is missing or of another kind, the
machine is another, only one run has a benchmark, or there are too few rounds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import scipy  # imports its submodules, which take a second, on first access

from harness.benchmarking.measurement import MIN_BLOCKS, ROUNDS_PER_BLOCK, Measurement
from harness.errors import InputError
from harness.files import read_whole
from harness.tables import parse_document

CONFIDENCE = 0.95
# Where pytest-benchmark saves runs, relative to the checkout.
STORAGE = Path(".benchmarks")
_MAX_BYTES = 2**28

# The properties of a machine on which ratios depend, and their keys in a saved run.
_MACHINE = {
    "CPU": ("cpu", "brand_raw"),
    "CPU capability": ("harness", "cpu_capability"),
    "accelerator": ("harness", "accelerator"),
    "CUDA": ("harness", "cuda"),
    "torch": ("harness", "torch"),
}


@dataclass(frozen=True, kw_only=True)
class SavedRun:
    """A saved benchmark run.

    Args:
        path: the file that the run was read from.
        commit: the measured commit of the harness, with the suffix ``-dirty`` if files differed from it; None if unknown.
        when: date and time of the run, UTC.
        machine: the properties of the machine, by name.
        measurements: the result of each benchmark, by its name.
    """

    path: str
    commit: str | None
    when: str
    machine: Mapping[str, str]
    measurements: Mapping[str, Measurement]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The comparison of one benchmark in two runs; times are in units of the reference workload's time.

    Args:
        name: name of the benchmark.
        baseline: time in the baseline run.
        current: time in the current run.
        allowed: the largest accepted ratio of current to baseline.
        half_width: the factor, above 1, between the ratio and either end of its confidence interval.
    """

    name: str
    baseline: float
    current: float
    allowed: float
    half_width: float

    @property
    def ratio(self) -> float:
        """The current time divided by the baseline time; above 1 the current run is slower."""
        return self.current / self.baseline

    @property
    def interval(self) -> tuple[float, float]:
        """The confidence interval of the ratio of current to baseline time, at the level `CONFIDENCE`."""
        return self.ratio / self.half_width, self.ratio * self.half_width

    @property
    def slower(self) -> bool:
        """Whether the confidence interval lies entirely above the allowed ratio."""
        return self.interval[0] > self.allowed

    @property
    def smallest_visible(self) -> float:
        """The smallest ratio that counts as slower: the lower end of its confidence interval is the allowed ratio."""
        return self.allowed * self.half_width


def read_run(path: str | Path) -> SavedRun:
    """Read a run saved by pytest-benchmark.

    Raises:
        InputError: the file does not exist, was not saved by pytest-benchmark, or lacks the times of the
            reference workload.
    """
    if not Path(path).exists():
        raise InputError(
            f"expected a saved benchmark run, but there is no file {str(path)!r}. Save a run with `tox -e bench`, on this "
            f"machine and at the commit to compare with; the file is written below {STORAGE}/."
        )
    content = read_whole(Path(path), "a saved benchmark run", most=_MAX_BYTES)
    document = parse_document(content, "JSON", where=f"benchmark run {path}", error=InputError)
    try:
        machine_info = document["machine_info"]
        machine = {name: str(machine_info[part][key]) for name, (part, key) in _MACHINE.items()}
        commit, when = machine_info["harness"]["commit"], str(document["datetime"])
        calibrations = {str(entry["fullname"]): entry["extra_info"]["calibration"] for entry in document["benchmarks"]}
    except (KeyError, TypeError) as problem:
        reason = f"the file has no {problem}" if isinstance(problem, KeyError) else "the content has another structure"
        raise _foreign(path, reason) from problem
    if not calibrations:
        raise _foreign(path, "the file contains no benchmark")
    measurements = {name: Measurement.from_json(table, where=f"{path}, {name}") for name, table in calibrations.items()}
    return SavedRun(
        path=str(path), commit=commit and str(commit), when=when, machine=machine, measurements=measurements
    )


def newest_runs(count: int, storage: Path = STORAGE) -> tuple[str, ...]:
    """Return the paths of the newest runs that ``--benchmark-autosave`` saved, the newest last.

    Raises:
        InputError: fewer than ``count`` runs are saved.
    """
    found = sorted(storage.glob("*/*.json"), key=lambda path: path.stat().st_mtime)
    if len(found) < count:
        raise InputError(
            f"expected {count} saved benchmark runs under {str(storage)!r}, found {len(found)}. Save a run with `tox -e bench`, "
            "or name the files."
        )
    return tuple(str(path) for path in found[-count:])


def compare_runs(baseline: SavedRun, current: SavedRun, *, allowed: float) -> tuple[Comparison, ...]:
    """Compare each benchmark of two runs, in the order of the current run.

    ``allowed`` is the largest accepted ratio of current to baseline time.

    Raises:
        InputError: the runs cannot be compared; the message names the benchmark or the property of the machine.
    """
    _check_runs(baseline, current)
    comparisons = []
    for name, now in current.measurements.items():
        before = baseline.measurements[name]
        _check_rounds(baseline, name)
        _check_rounds(current, name)
        _check_conditions(name, before, now)
        ratios = {"baseline": before.ratio, "current": now.ratio, "half_width": _half_width(before, now)}
        comparisons.append(Comparison(name=name, allowed=allowed, **ratios))
    return tuple(comparisons)


def _half_width(before: Measurement, now: Measurement) -> float:
    """Return the factor between the ratio of two measurements and either end of its confidence interval.

    Its logarithm is half the width of Welch's confidence interval for the difference of the mean log ratios. Blocks are
    independent of each other; rounds within a block are not, because they share their place in memory. The median of a
    block is robust against outliers, so that Student's t distribution fits the blocks.
    """
    interval = scipy.stats.ttest_ind(now.log_ratios, before.log_ratios, equal_var=False).confidence_interval(CONFIDENCE)
    return math.exp((interval.high - interval.low) / 2)


def _check_runs(baseline: SavedRun, current: SavedRun) -> None:
    if differing := _differences(baseline.machine, current.machine):
        raise InputError(
            f"expected two runs on the same kind of machine, got differences: {differing}. Times relative to the "
            "reference workload hold for one kind of machine. Save a baseline on this machine."
        )
    for run, other in ((baseline, current), (current, baseline)):
        if lacking := [name for name in other.measurements if name not in run.measurements]:
            raise InputError(
                f"expected the same benchmarks in both runs, but {run.path} lacks {len(lacking)} that {other.path} has: "
                f"{', '.join(name.rpartition('::')[2] for name in lacking)}. Run both with the same selection of benchmarks."
            )


def _check_rounds(run: SavedRun, name: str) -> None:
    """Raise an `InputError` if the measurement of a benchmark in one run cannot be compared with any other."""
    measurement = run.measurements[name]
    if measurement.xdist:
        raise InputError(
            f"{run.path}, {name}: expected a run in one process, got a run under pytest-xdist, where benchmarks slow each other "
            "down. Run pytest without -n."
        )
    fewest = MIN_BLOCKS * ROUNDS_PER_BLOCK
    if len(measurement.blocks) < MIN_BLOCKS or measurement.rounds < fewest:
        raise InputError(
            f"{run.path}, {name}: expected at least {fewest} rounds in {MIN_BLOCKS} blocks, got {measurement.rounds} "
            f"in {len(measurement.blocks)}, too few to distinguish a slow-down from noise. Repeat the run."
        )
    if len(set(measurement.log_ratios)) == 1:
        raise InputError(
            f"{run.path}, {name}: expected times that vary, as measured times do, got equal times in all blocks. Repeat the run."
        )
    if measurement.waits:
        raise InputError(
            f"{run.path}, {name}: expected work that computes all the time, got work that sleeps or waits in each round "
            f"(waits={measurement.waits}), which a CPU clock does not measure. Remove the waiting."
        )


def _check_conditions(name: str, before: Measurement, now: Measurement) -> None:
    if before.workload != now.workload:
        raise InputError(
            f"{name}: expected the same reference workload in both runs, got {before.workload!r} in the baseline and "
            f"{now.workload!r} now. Save a baseline with this version of the harness."
        )
    properties = [{what: getattr(run, what) for what in ("device", "clock", "threads")} for run in (before, now)]
    if differing := _differences(*properties):
        raise InputError(
            f"{name}: expected two runs with the same device, clock and number of threads, got differences: {differing}. "
            "Save a baseline under the same conditions."
        )


def _differences(baseline: Mapping[str, object], current: Mapping[str, object]) -> str:
    """Describe the properties with different values in two mappings; empty if there are none."""
    differing = [what for what, value in baseline.items() if value != current[what]]
    return "; ".join(f"{what} {baseline[what]} in the baseline, {current[what]} now" for what in differing)


def _foreign(path: str | Path, reason: str) -> InputError:
    return InputError(
        f"expected path={str(path)!r} to be a benchmark run of the harness, saved by pytest-benchmark, but {reason}. Save "
        "a run with `tox -e bench`."
    )
