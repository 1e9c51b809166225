"""The rounds of work and reference workload, and their ratio."""

from __future__ import annotations

import gc
import json
import math
import time
from collections.abc import Callable

import pytest
import torch

from harness.benchmarking import (
    MIN_BLOCKS,
    ROUNDS_PER_BLOCK,
    WORKLOAD,
    Block,
    Kind,
    Measurement,
    PairedRounds,
    reference_workload,
    steady,
)
from harness.errors import InputError
from tests.made_up import measurement

CPU = torch.device("cpu")


@pytest.mark.smoke
@pytest.mark.parametrize("kind", ["training", "inference"])
def test_work_and_reference_alternate(kind: Kind) -> None:
    """Each round of the work lies between two of the reference workload, and each block builds its own work."""
    built: list[Callable[[], object]] = []

    def build() -> Callable[[], object]:
        built.append(reference_workload(kind, CPU))
        return built[-1]

    with steady(CPU):
        pairs = PairedRounds(build, kind=kind, device=CPU)
        for _ in range(2 * ROUNDS_PER_BLOCK):
            pairs.time_reference()
            pairs.time_work()
        found = pairs.measurement()

    assert [(5, 6), (5, 6)] == [(len(each.seconds), len(each.reference_seconds)) for each in found.blocks]
    assert (2, 10) == (len(built), found.rounds)
    assert (WORKLOAD, "cpu", "cpu", 1, 0) == (found.workload, found.device, found.clock, found.threads, found.waits)
    assert 0.5 < found.ratio < 2


def test_work_that_sleeps_is_detected() -> None:
    """Sleeping, which the CPU clock does not measure, is counted as waiting."""
    with steady(CPU):
        pairs = PairedRounds(lambda: lambda: time.sleep(0.001), kind="inference", device=CPU)
        pairs.time_reference()
        pairs.time_work()
        found = pairs.measurement()

    assert 1 <= found.waits


def test_large_work_takes_fewer_rounds() -> None:
    """The number of rounds is that of the whole blocks that fit, between the two limits."""
    pairs = PairedRounds(lambda: lambda: time.sleep(0.001), kind="inference", device=CPU)

    assert 5 * MIN_BLOCKS == pairs.rounds_within(0, most=20)
    assert 5 * 20 == pairs.rounds_within(1000, most=20)


def test_steady_restores_the_process() -> None:
    """Number of threads, garbage collection and random state are restored."""
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
    """A machine that slows down does not change the ratios, since each round is compared with its adjacent reference rounds."""
    found = measurement([2.0] * 5, [8.0, 8.0, 8.0, 1.0, 99.0])

    assert pytest.approx([math.log(2), math.log(8)]) == list(found.log_ratios)
    assert pytest.approx(4) == found.ratio


@pytest.mark.parametrize(
    ("seconds", "reference", "words"),
    [
        ((), (0.1,), "at least one round"),
        ((0.1,), (0.1,), "got 1 of the work and 1 of"),
        ((0.1,), (0.1, 0.0), "expected 1e-10 <= reference_seconds"),
    ],
)
def test_a_block_is_complete(seconds: tuple[float, ...], reference: tuple[float, ...], words: str) -> None:
    """A block has one reference round more than rounds, and all times are above 0."""
    with pytest.raises(InputError, match=words):
        Block(seconds=seconds, reference_seconds=reference)


def test_a_measurement_is_saved_as_json() -> None:
    """A measurement read from its JSON is equal, and the key of the blocks is ``sittings``."""
    saved = measurement([2.0] * 5, [8.0] * 5)
    table = json.loads(json.dumps(saved.to_json()))

    assert saved == Measurement.from_json(table, where="run.json")
    assert 2 == len(table["sittings"])
    with pytest.raises(InputError, match="expected a value for blocks"):
        Measurement.from_json({key: value for key, value in table.items() if key != "sittings"}, where="run.json")
