"""Work timed in turn with the reference workload, on a process kept as steady as it can be."""

from __future__ import annotations

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
from typing import Literal

import torch

from harness.benchmarking.workload import WORKLOAD, Kind, reference_workload
from harness.errors import InputError
from harness.training import keep_freed_memory, preserved_randomness

ROUNDS_A_SITTING = 5
# Fewer say too little about how sittings differ.
FEWEST_SITTINGS = 8
_LARGEST_BALLAST = 8 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Sitting:
    """Some rounds of the work, with one of the reference workload before, between and after them.

    Args:
        seconds: of each round of the work, in order.
        reference_seconds: of each round of the reference workload, in order; one more than ``seconds``.

    Raises:
        InputError: no rounds, another number of reference rounds, or a time that is not above 0.
    """

    seconds: tuple[float, ...]
    reference_seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.seconds or len(self.reference_seconds) != len(self.seconds) + 1:
            msg = (
                "expected at least one round and one more of the reference workload, "
                f"got {len(self.seconds)} and {len(self.reference_seconds)}."
            )
            raise InputError(msg)
        shortest = min(*self.seconds, *self.reference_seconds)
        if shortest <= 0:
            msg = f"expected each round to take time, got {shortest} seconds."
            raise InputError(msg)

    @property
    def log_ratio(self) -> float:
        """The median over the rounds of the logarithm of a round's time over the mean of the two reference rounds around it."""
        around = zip(self.seconds, self.reference_seconds, self.reference_seconds[1:], strict=False)
        return statistics.median(math.log(2 * work / (before + after)) for work, before, after in around)


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What a benchmark saw.

    Args:
        workload: name of the reference workload.
        device: where both ran.
        clock: ``cpu``: seconds that this process computed; ``wall``: seconds that passed until the device was done.
        threads: threads that both computed with on the CPU.
        xdist: whether it was taken in one of several test processes side by side.
        waits: how often a round of the work slept or waited for something, the median; the ``cpu`` clock does not see
            how long. 0 with the clock ``wall``, which does.
        sittings: the rounds; work and reference workload were built anew for each sitting.
    """

    workload: str
    device: str
    clock: Literal["cpu", "wall"]
    threads: int
    xdist: bool
    waits: int
    sittings: tuple[Sitting, ...]

    @property
    def rounds(self) -> int:
        """Rounds of the work in all sittings."""
        return sum(len(sitting.seconds) for sitting in self.sittings)

    @property
    def log_ratios(self) -> tuple[float, ...]:
        """Each sitting's."""
        return tuple(sitting.log_ratio for sitting in self.sittings)

    @property
    def ratio(self) -> float:
        """How many times the reference workload the work takes: the geometric mean of the sittings' medians."""
        return math.exp(statistics.fmean(self.log_ratios))


class PairedRounds:
    """Times work and reference workload in turn: `time_reference`, `time_work`, `time_reference`, and so on.

    For each sitting, that is every five rounds, both are built anew, at another place in memory, and warmed up: where
    tensors lie is worth 2 or 3 % of an evaluation's time for as long as they lie there.

    Args:
        build: gives the work; one round of it takes a few milliseconds or more.
        kind: which reference workload resembles it.
        device: where the work runs; the reference workload runs there, too.
    """

    def __init__(self, build: Callable[[], Callable[[], object]], *, kind: Kind, device: torch.device) -> None:
        self._build = build
        self._kind = kind
        self._device = device
        self._wait = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(device.type, lambda: None)
        # What a busy machine gives to other processes is no time of ours. A device computes while the process waits.
        self._clock: Literal["cpu", "wall"] = "cpu" if device.type == "cpu" else "wall"
        self._now = time.process_time if self._clock == "cpu" else time.perf_counter
        self._places = random.Random(0)  # noqa: S311 - no secret; the same places in each run
        self._sittings: list[Sitting] = []
        self._waits: list[int] = []
        self._sit_down()

    def time_reference(self) -> None:
        """One round of the reference workload."""
        if len(self._seconds) == ROUNDS_A_SITTING:
            self._get_up()
            self._sit_down()
        self._reference_seconds.append(self._time(self._reference))

    def time_work(self) -> None:
        """One round of the work."""
        before = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
        self._seconds.append(self._time(self._work))
        self._waits.append(resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - before)

    def rounds_within(self, seconds: float, *, most: int) -> int:
        """How many rounds to take: whole sittings, as many as fit into ``seconds``, from the fewest to ``most``."""
        one = self._time(self._work) + self._time(self._reference)
        sittings = int(seconds / (one * ROUNDS_A_SITTING))
        return ROUNDS_A_SITTING * max(FEWEST_SITTINGS, min(most, sittings))

    def measurement(self) -> Measurement:
        """All rounds, closed by one more of the reference workload."""
        self._get_up()
        return Measurement(
            workload=WORKLOAD,
            device=str(self._device),
            clock=self._clock,
            threads=torch.get_num_threads(),
            xdist="PYTEST_XDIST_WORKER" in os.environ,
            waits=int(statistics.median(self._waits)) if self._clock == "cpu" else 0,
            sittings=tuple(self._sittings),
        )

    def _sit_down(self) -> None:
        self._seconds: list[float] = []
        self._reference_seconds: list[float] = []
        self._ballast = bytearray(self._places.randrange(_LARGEST_BALLAST))
        self._work, self._reference = self._build(), reference_workload(self._kind, self._device)
        for work in (self._work, self._reference):
            self._time(work)

    def _get_up(self) -> None:
        self._reference_seconds.append(self._time(self._reference))
        self._sittings.append(Sitting(seconds=tuple(self._seconds), reference_seconds=tuple(self._reference_seconds)))

    def _time(self, work: Callable[[], object]) -> float:
        self._wait()
        began = self._now()
        work()
        self._wait()
        return self._now() - began


@contextmanager
def steady(device: torch.device) -> Iterator[None]:
    """Compute on one thread, without garbage collection, in memory that stays with the process.

    A second thread would be waited for as soon as anything else runs. What freed memory costs depends on what the process
    did before; so it is kept, see `keep_freed_memory`.

    Threads, garbage collection and torch's random state are as before afterwards.
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
