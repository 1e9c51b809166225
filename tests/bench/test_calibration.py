"""A busy machine is not reported as a slow-down, a slower model is, and unmeasured benchmarks fail."""

from __future__ import annotations

import functools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from harness.benchmarking import (
    ROUNDS_PER_BLOCK,
    Comparison,
    Kind,
    Measurement,
    PairedRounds,
    SavedRun,
    compare_runs,
    steady,
)
from harness.graph import CapturedModel
from tests.bench.work import MAX_BLOCKS, work_of

pytestmark = pytest.mark.bench

Command = Callable[..., tuple[int, str, str]]
Shipped = Callable[[str], CapturedModel]
Build = Callable[[], Callable[[], object]]

CPU = torch.device("cpu")
ALLOWED = 1.1
SLOWER = 0.15
MODEL = "reference"


@contextmanager
def every_core_busy() -> Iterator[None]:
    """Run one process per core that computes endlessly."""
    children = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for child in children:
            child.kill()
            child.wait()


def measure(build: Build, kind: Kind) -> Measurement:
    """Measure as test_speed does, without pytest-benchmark."""
    pairs = PairedRounds(build, kind=kind, device=CPU)
    for _ in range(MAX_BLOCKS * ROUNDS_PER_BLOCK):
        pairs.time_reference()
        pairs.time_work()
    return pairs.measurement()


def compared(baseline: Measurement, current: Measurement) -> Comparison:
    """The comparison of two measurements on this machine."""
    before, now = (
        SavedRun(path=path, commit=None, when="now", machine={}, measurements={"benchmark": measurement})
        for path, measurement in (("baseline", baseline), ("current", current))
    )
    return compare_runs(before, now, allowed=ALLOWED)[0]


def slowed(build: Build) -> Build:
    """The work followed by convolutions that take 15 % of its time, as measured here."""
    weights = torch.ones(8, 8, 3, 3)

    def convolutions(images: int) -> Callable[[], object]:
        batch = torch.ones(images, 8, 14, 14)
        return lambda: functional.conv2d(batch, weights)

    def cost(images: int) -> float:
        work, more = build(), convolutions(images)
        seconds = [(cpu_seconds(work), cpu_seconds(more)) for _ in range(20)]
        return statistics.median(extra / plain for plain, extra in seconds[5:])

    images = 32
    # First roughly, then at ten places in memory, since the time at a single one deviates by some per cent.
    for places in (1, 10):
        images = round(images * SLOWER / statistics.fmean(cost(images) for _ in range(places)))

    def build_slower() -> Callable[[], object]:
        work, more = build(), convolutions(images)

        def slower() -> None:
            work()
            more()

        return slower

    return build_slower


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU seconds of the work."""
    began = time.process_time()
    work()
    return time.process_time() - began


@pytest.mark.parametrize("kind", ["training", "inference"])
def test_a_busy_machine_is_not_a_slow_down(kind: Kind, shipped: Shipped) -> None:
    """With every core busy the calibrated ratio of an unchanged model stays within 10 %."""
    build = functools.partial(work_of, shipped(MODEL), kind, CPU)
    with steady(CPU):
        idle = measure(build, kind)
        with every_core_busy():
            busy = measure(build, kind)

    found = compared(idle, busy)
    assert 0.9 < found.ratio < ALLOWED
    assert not found.slower


@pytest.mark.parametrize("kind", ["training", "inference"])
def test_a_slower_model_is_detected(kind: Kind, shipped: Shipped) -> None:
    """15 % more work is a slow-down where 10 % are allowed."""
    build = functools.partial(work_of, shipped(MODEL), kind, CPU)
    with steady(CPU):
        before, after = measure(build, kind), measure(slowed(build), kind)

    assert compared(before, after).slower


def test_a_saved_run_can_be_compared(command: Command, tmp_path: Path) -> None:
    """A run saved by pytest-benchmark can be read and equals itself."""
    saved = tmp_path / "run.json"
    run_benchmarks("-k", f"{MODEL}-inference", f"--benchmark-json={saved}", expected=0)

    code, out, _ = command("bench", "compare", saved, saved)

    assert 0 == code
    assert "1.000" == out.splitlines()[1].split()[3]


def test_concurrent_test_processes_are_an_error() -> None:
    """Under pytest-xdist nothing is measured, and each benchmark fails with the reason."""
    out = run_benchmarks("-n", "2", "-k", f"{MODEL}-inference", expected=1)

    assert "benchmarks are disabled: pytest-xdist is active. Run them in one process, without -n." in out


def run_benchmarks(*options: str, expected: int) -> str:
    """Run test_speed in a new process; returns its output."""
    command = [sys.executable, "-m", "pytest", "-m", "bench", "--device", "cpu", "tests/bench/test_speed.py", *options]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert expected == done.returncode, done.stdout + done.stderr
    return done.stdout
