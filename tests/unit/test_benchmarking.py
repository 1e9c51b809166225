"""The reference workload, the rounds in turn, and the statistics of a comparison."""

from __future__ import annotations

import gc
import itertools
import math
import random
import statistics
import time
from dataclasses import replace

import pytest
import torch

from harness.benchmarking import (
    FEWEST_ROUNDS,
    WORKLOAD,
    Kind,
    Measurement,
    PairedRounds,
    SavedRun,
    compare_runs,
    reference_workload,
    steady,
)
from harness.errors import InputError

CPU = torch.device("cpu")


def measured(ratios: list[float]) -> Measurement:
    """Rounds that take so many times the reference workload, which is twice as slow at the end as at the beginning."""
    slowing = [0.01 * (1 + index / len(ratios)) for index in range(len(ratios) + 1)]
    around = itertools.pairwise(slowing)
    return Measurement(
        workload=WORKLOAD,
        device="cpu",
        clock="cpu",
        threads=1,
        xdist=False,
        waits=0,
        seconds=tuple(ratio * (one + other) / 2 for ratio, (one, other) in zip(ratios, around, strict=True)),
        reference_seconds=tuple(slowing),
    )


def saved(ratios: list[float]) -> SavedRun:
    """A run of one benchmark."""
    return SavedRun(
        path="run.json",
        commit=None,
        when="2026-01-02",
        machine=dict.fromkeys(("CPU", "CPU capability", "accelerator", "CUDA", "torch"), "some"),
        measurements={"benchmark": measured(ratios)},
    )


def drawn(
    generator: random.Random, *, rounds: int = FEWEST_ROUNDS, ratio: float = 1.0, spread: float = 0.06
) -> list[float]:
    """Rounds around a ratio, some of them far too long."""
    return [
        ratio * math.exp(generator.gauss(0, spread)) * (1.5 if generator.random() < 0.05 else 1) for _ in range(rounds)
    ]


@pytest.mark.parametrize("kind", ["training", "inference"])
def test_work_and_reference_take_turns(kind: Kind) -> None:
    """Each round of the work lies between two of the reference workload; what came before the last rounds is left out."""
    with steady(CPU):
        pairs = PairedRounds(reference_workload(kind, CPU), kind=kind, device=CPU)
        for _ in range(12):
            pairs.time_reference()
            pairs.time_work()
        measurement = pairs.measurement(10)

    assert (10, 11) == (len(measurement.seconds), len(measurement.reference_seconds))
    assert (WORKLOAD, "cpu", "cpu", 1, 0) == (
        measurement.workload,
        measurement.device,
        measurement.clock,
        measurement.threads,
        measurement.waits,
    )
    assert 0.5 < measurement.ratio < 2


def test_work_that_sleeps_is_noticed() -> None:
    """The clock counts computing, so sleeping is counted apart."""
    with steady(CPU):
        pairs = PairedRounds(lambda: time.sleep(0.001), kind="inference", device=CPU)
        rounds = pairs.rounds_within(0.0, most=100)
        for _ in range(3):
            pairs.time_reference()
            pairs.time_work()
        measurement = pairs.measurement(3)

    assert FEWEST_ROUNDS == rounds
    assert 1 <= measurement.waits


def test_steadiness_ends_with_its_block() -> None:
    """Threads, garbage collection and random state are as before."""
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(2)
    try:
        with steady(CPU):
            assert (1, False) == (torch.get_num_threads(), gc.isenabled())
            torch.rand(1)

        assert (2, True) == (torch.get_num_threads(), gc.isenabled())
        assert torch.equal(state, torch.get_rng_state())
    finally:
        torch.set_num_threads(threads)


def test_a_slower_machine_changes_no_ratio() -> None:
    """Each round is held to the reference workload around it, so a machine that slows down cancels out."""
    assert [pytest.approx(math.log(2))] * 40 == list(measured([2.0] * 40).log_ratios)


@pytest.mark.parametrize(
    ("seconds", "reference", "words"),
    [((), (0.1,), "at least one round"), ((0.1,), (0.1,), "got 1 and 1"), ((0.1,), (0.1, 0.0), "got 0.0 seconds")],
)
def test_a_measurement_is_whole(seconds: tuple[float, ...], reference: tuple[float, ...], words: str) -> None:
    """Rounds are enclosed by those of the reference workload, and each takes time."""
    with pytest.raises(InputError, match=words):
        replace(measured([1.0]), seconds=seconds, reference_seconds=reference)


def test_the_interval_covers_what_it_says() -> None:
    """Of 400 comparisons of rounds from one distribution some 95 % enclose 1; few would not be enough, nor many honest."""
    generator = random.Random(0)  # noqa: S311 - no secret
    comparisons = [
        compare_runs(saved(drawn(generator)), saved(drawn(generator, spread=0.1)), allowed=1.1)[0] for _ in range(400)
    ]
    covered = sum(found.interval[0] <= 1 <= found.interval[1] for found in comparisons)

    assert 372 <= covered <= 396
    assert not any(found.slower for found in comparisons)
    # Twice 1.96 times the error of two medians, sqrt(pi / 2) of their mean's.
    expected = 2 * 1.96 * math.sqrt(math.pi / 2 / FEWEST_ROUNDS) * math.hypot(0.06, 0.1)
    widths = [math.log(found.interval[1] / found.interval[0]) for found in comparisons]
    assert pytest.approx(expected, rel=0.15) == statistics.fmean(widths)


def test_a_slow_down_is_flagged_from_what_is_visible() -> None:
    """A ratio just above the smallest visible one is called slower, one just below is not."""
    generator = random.Random(1)  # noqa: S311 - no secret
    rounds = drawn(generator, rounds=100)

    def against_baseline(ratio: float) -> tuple[bool, float]:
        (found,) = compare_runs(saved(rounds), saved([ratio * value for value in rounds]), allowed=1.1)
        assert pytest.approx(ratio) == found.ratio
        return found.slower, found.smallest_visible

    _, visible = against_baseline(1.0)

    assert 1.11 < visible < 1.15
    assert [True, False] == [against_baseline(factor * visible)[0] for factor in (1.001, 0.999)]
