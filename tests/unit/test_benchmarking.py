"""The reference workload, the rounds in turn, and the statistics of a comparison."""

from __future__ import annotations

import gc
import itertools
import math
import random
import time
from collections.abc import Callable

import pytest
import torch

from harness.benchmarking import (
    FEWEST_SITTINGS,
    ROUNDS_A_SITTING,
    WORKLOAD,
    Kind,
    Measurement,
    PairedRounds,
    SavedRun,
    Sitting,
    compare_runs,
    reference_workload,
    steady,
)
from harness.errors import InputError

CPU = torch.device("cpu")


def sitting(ratios: list[float]) -> Sitting:
    """Rounds that take so many times the reference workload, on a machine that gets slower and slower."""
    slowing = [0.01 * 1.1**index for index in range(len(ratios) + 1)]
    return Sitting(
        seconds=tuple(ratio * (a + b) / 2 for ratio, (a, b) in zip(ratios, itertools.pairwise(slowing), strict=True)),
        reference_seconds=tuple(slowing),
    )


def saved(*ratios: list[float]) -> SavedRun:
    """A run of one benchmark, with these sittings."""
    measurement = Measurement(
        workload=WORKLOAD,
        device="cpu",
        clock="cpu",
        threads=1,
        xdist=False,
        waits=0,
        sittings=tuple(map(sitting, ratios)),
    )
    return SavedRun(path="run.json", commit=None, when="now", machine={}, measurements={"benchmark": measurement})


def drawn(generator: random.Random, *, ratio: float = 1.0, place: float = 0.02, spread: float = 0.06) -> SavedRun:
    """The fewest sittings, each at a place of its own; rounds vary, and some take far too long."""
    places = [ratio * math.exp(generator.gauss(0, place)) for _ in range(FEWEST_SITTINGS)]
    return saved(
        *(
            [at * math.exp(generator.gauss(0, spread)) * (1.5 if generator.random() < 0.05 else 1) for _ in range(5)]
            for at in places
        )
    )


@pytest.mark.smoke
@pytest.mark.parametrize("kind", ["training", "inference"])
def test_work_and_reference_take_turns(kind: Kind) -> None:
    """Each round of the work lies between two of the reference workload, and each sitting has a work of its own."""
    built: list[Callable[[], object]] = []

    def build() -> Callable[[], object]:
        built.append(reference_workload(kind, CPU))
        return built[-1]

    with steady(CPU):
        pairs = PairedRounds(build, kind=kind, device=CPU)
        for _ in range(2 * ROUNDS_A_SITTING):
            pairs.time_reference()
            pairs.time_work()
        found = pairs.measurement()

    assert [(5, 6), (5, 6)] == [(len(each.seconds), len(each.reference_seconds)) for each in found.sittings]
    assert (2, 10) == (len(built), found.rounds)
    assert (WORKLOAD, "cpu", "cpu", 1, 0) == (found.workload, found.device, found.clock, found.threads, found.waits)
    assert 0.5 < found.ratio < 2


def test_work_that_sleeps_is_noticed() -> None:
    """The clock counts computing, so sleeping is counted apart."""
    with steady(CPU):
        pairs = PairedRounds(lambda: lambda: time.sleep(0.001), kind="inference", device=CPU)
        pairs.time_reference()
        pairs.time_work()
        found = pairs.measurement()

    assert 1 <= found.waits


def test_large_work_takes_fewer_rounds() -> None:
    """Whole sittings, as many as fit, but never too few or more than asked for."""
    pairs = PairedRounds(lambda: lambda: time.sleep(0.001), kind="inference", device=CPU)

    assert 5 * FEWEST_SITTINGS == pairs.rounds_within(0, most=20)
    assert 5 * 20 == pairs.rounds_within(1000, most=20)


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
    (found,) = saved([2.0] * 5, [8.0, 8.0, 8.0, 1.0, 99.0]).measurements.values()

    assert pytest.approx([math.log(2), math.log(8)]) == list(found.log_ratios)
    assert pytest.approx(4) == found.ratio


@pytest.mark.parametrize(
    ("seconds", "reference", "words"),
    [((), (0.1,), "at least one round"), ((0.1,), (0.1,), "got 1 and 1"), ((0.1,), (0.1, 0.0), "got 0.0 seconds")],
)
def test_a_sitting_is_whole(seconds: tuple[float, ...], reference: tuple[float, ...], words: str) -> None:
    """Rounds are enclosed by those of the reference workload, and each takes time."""
    with pytest.raises(InputError, match=words):
        Sitting(seconds=seconds, reference_seconds=reference)


def test_the_interval_covers_what_it_says() -> None:
    """Of 300 comparisons of runs that differ by chance some 95 % enclose 1: not fewer, and not all."""
    generator = random.Random(0)  # noqa: S311 - no secret
    comparisons = [compare_runs(drawn(generator), drawn(generator, spread=0.1), allowed=1.1)[0] for _ in range(300)]
    covered = sum(found.interval[0] <= 1 <= found.interval[1] for found in comparisons)

    assert 276 <= covered <= 297
    assert not any(found.slower for found in comparisons)


def test_a_slow_down_is_flagged_from_what_is_visible() -> None:
    """A ratio just above the smallest visible one is called slower, one just below is not."""

    def against_baseline(ratio: float) -> tuple[bool, float]:
        runs = (drawn(random.Random(1), ratio=factor) for factor in (1.0, ratio))  # noqa: S311 - no secret
        (found,) = compare_runs(*runs, allowed=1.1)
        assert pytest.approx(ratio) == found.ratio
        return found.slower, found.smallest_visible

    _, visible = against_baseline(1.0)

    assert 1.11 < visible < 1.2
    assert [True, False] == [against_baseline(factor * visible)[0] for factor in (1.001, 0.999)]
