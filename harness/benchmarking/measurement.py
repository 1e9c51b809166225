"""Timing work and reference workload alternately, under conditions in which the times vary little."""

from __future__ import annotations

import dataclasses
import gc
import math
import os
import random
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch

from harness.benchmarking.workload import WORKLOAD, Kind, reference_workload
from harness.errors import InputError
from harness.tables import Range, read_table, require_ranges
from harness.training import keep_freed_memory, preserved_randomness

ROUNDS_PER_BLOCK = 5
# Fewer blocks do not give an estimate of the variance between blocks.
MIN_BLOCKS = 8
_MAX_OFFSET_BYTES = 8 * 1024 * 1024
# From 0.1 ns to 30 years; ratios of times outside this range could overflow.
_Seconds = Annotated[tuple[float, ...], Range(least=1e-10, most=1e9)]


@dataclass(frozen=True, kw_only=True)
class Block:
    """Consecutive rounds of the work, with a round of the reference workload before, between and after them.

    Args:
        seconds: time of each round of the work, in order.
        reference_seconds: time of each round of the reference workload, in order; one more than ``seconds``.

    Raises:
        InputError: there are no rounds, the number of reference rounds is wrong, or a time is out of range.
    """

    seconds: _Seconds
    reference_seconds: _Seconds

    def __post_init__(self) -> None:
        if not self.seconds or len(self.reference_seconds) != len(self.seconds) + 1:
            raise InputError(
                "expected at least one round of the work, and one round more of the reference workload than of the work, "
                f"got {len(self.seconds)} of the work and {len(self.reference_seconds)} of the reference workload."
            )
        require_ranges(self, InputError)

    @property
    def log_ratio(self) -> float:
        """The median over the rounds of log(time of the round / mean time of the two adjacent reference rounds)."""
        around = zip(self.seconds, self.reference_seconds, self.reference_seconds[1:], strict=False)
        return statistics.median(math.log(2 * work / (before + after)) for work, before, after in around)


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The result of one benchmark: the times of the work and of the reference workload, and how they were measured.

    Args:
        workload: name of the reference workload.
        device: device of the work and the reference workload.
        clock: what was measured: ``cpu``: CPU time of this process; ``wall``: wall time until the device had finished.
        threads: number of CPU threads of the work and the reference workload.
        xdist: whether the benchmark ran in one of several concurrent test processes.
        waits: median number of voluntary context switches per round of the work, which the ``cpu`` clock does not measure; 0
            with the clock ``wall``, which measures them.
        blocks: the measured rounds; work and reference workload were built again for each block.
    """

    workload: str
    device: str
    clock: Literal["cpu", "wall"]
    threads: int
    xdist: bool
    waits: int
    blocks: tuple[Block, ...]

    @property
    def rounds(self) -> int:
        """The number of rounds of the work in all blocks."""
        return sum(len(block.seconds) for block in self.blocks)

    @property
    def log_ratios(self) -> tuple[float, ...]:
        """The logarithm of the ratio for each block, see `Block.log_ratio`."""
        return tuple(block.log_ratio for block in self.blocks)

    @property
    def ratio(self) -> float:
        """The time of the work divided by that of the reference workload: the geometric mean of the blocks' medians."""
        return math.exp(statistics.fmean(self.log_ratios))

    def to_json(self) -> dict[str, Any]:
        """Return the measurement as plain JSON data; in saved runs the key of the blocks is ``sittings``."""
        return {"sittings" if key == "blocks" else key: value for key, value in dataclasses.asdict(self).items()}

    @classmethod
    def from_json(cls, table: object, *, where: str) -> Measurement:
        """Build a measurement from data in the form of `to_json`; ``where`` begins error messages.

        Raises:
            InputError: a key is missing or unknown, or a value has another type.
        """
        if isinstance(table, dict):
            table = {"blocks" if key == "sittings" else key: value for key, value in table.items()}
        return read_table(cls, table, where=where, error=InputError)


class PairedRounds:
    """Times work and reference workload alternately: `time_reference`, `time_work`, `time_reference`, and so on.

    For each block of five rounds, work and reference workload are built again, at another place in memory, and warmed
    up: the addresses of tensors change the time of an evaluation by 2 to 3 %.

    Args:
        build: returns the work, a function that takes a few milliseconds or more.
        kind: the reference workload that resembles the work.
        device: device of the work and the reference workload.
    """

    def __init__(self, build: Callable[[], Callable[[], object]], *, kind: Kind, device: torch.device) -> None:
        self._build = build
        self._kind = kind
        self._device = device
        self._wait = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(device.type, lambda: None)
        # On a busy machine, wall time includes other processes. A GPU computes while this process waits.
        self._clock: Literal["cpu", "wall"] = "cpu" if device.type == "cpu" else "wall"
        self._now = time.process_time if self._clock == "cpu" else time.perf_counter
        self._offsets = random.Random(0)  # noqa: S311 - no secret; the same offsets in each run
        self._blocks: list[Block] = []
        self._waits: list[int] = []
        self._begin_block()

    def time_reference(self) -> None:
        """Time one round of the reference workload."""
        if len(self._seconds) == ROUNDS_PER_BLOCK:
            self._end_block()
            self._begin_block()
        self._reference_seconds.append(self._time(self._reference))

    def time_work(self) -> None:
        """Time one round of the work."""
        before = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
        self._seconds.append(self._time(self._work))
        self._waits.append(resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - before)

    def rounds_within(self, seconds: float, *, most: int) -> int:
        """Return how many rounds, in whole blocks, fit into ``seconds``.

        The number of blocks is at least `MIN_BLOCKS` and at most ``most``.
        """
        block = ROUNDS_PER_BLOCK * (self._time(self._work) + self._time(self._reference))
        return ROUNDS_PER_BLOCK * max(MIN_BLOCKS, min(most, int(seconds / block)))

    def measurement(self) -> Measurement:
        """Time a last round of the reference workload and return the measurement of all rounds."""
        self._end_block()
        return Measurement(
            workload=WORKLOAD,
            device=str(self._device),
            clock=self._clock,
            threads=torch.get_num_threads(),
            xdist="PYTEST_XDIST_WORKER" in os.environ,
            waits=int(statistics.median(self._waits)) if self._clock == "cpu" else 0,
            blocks=tuple(self._blocks),
        )

    def _begin_block(self) -> None:
        self._seconds: list[float] = []
        self._reference_seconds: list[float] = []
        self._offset = bytearray(self._offsets.randrange(_MAX_OFFSET_BYTES))
        self._work, self._reference = self._build(), reference_workload(self._kind, self._device)
        self._time(self._work)
        self._time(self._reference)

    def _end_block(self) -> None:
        self._reference_seconds.append(self._time(self._reference))
        self._blocks.append(Block(seconds=tuple(self._seconds), reference_seconds=tuple(self._reference_seconds)))

    def _time(self, work: Callable[[], object]) -> float:
        self._wait()
        began = self._now()
        work()
        self._wait()
        return self._now() - began


@contextmanager
def steady(device: torch.device) -> Iterator[None]:
    """Within the block, compute on one thread, without garbage collection, and keep freed memory in the process.

    Threads, collection and random state are restored afterwards. With several threads, the slowest thread determines
    the time as soon as other processes run. The cost of returning memory to the system depends on what the process did
    before, see `keep_freed_memory`.
    """
    keep_freed_memory()
    threads, collecting = torch.get_num_threads(), gc.isenabled()
    torch.set_num_threads(1)
    gc.collect()
    gc.disable()
    try:
        with preserved_randomness(device):
            yield
    finally:
        torch.set_num_threads(threads)
        if collecting:
            gc.enable()
