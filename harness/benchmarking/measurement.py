"""Work timed in turn with the reference workload, on a process kept as steady as it can be."""

from __future__ import annotations

import ctypes
import gc
import math
import os
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
from harness.training import preserved_randomness

# Fewer say too little about a median.
FEWEST_ROUNDS = 40
# glibc's mallopt: M_TRIM_THRESHOLD and M_MMAP_THRESHOLD, and the largest value that it takes for the second.
_TRIM, _MMAP, _LARGEST_MMAP = -1, -3, 32 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What a benchmark saw: the work's rounds, with one of the reference workload before, between and after them.

    Args:
        workload: name of the reference workload.
        device: where both ran.
        clock: ``cpu``: seconds that this process computed; ``wall``: seconds that passed until the device was done.
        threads: threads that both computed with on the CPU.
        xdist: whether it was taken in one of several test processes side by side.
        waits: how often a round of the work slept or waited for something, the median; the ``cpu`` clock does not see
            how long. 0 with the clock ``wall``, which does.
        seconds: of each round of the work, in order.
        reference_seconds: of each round of the reference workload, in order; one more than ``seconds``.

    Raises:
        InputError: no rounds, another number of reference rounds, or a time that is not above 0.
    """

    workload: str
    device: str
    clock: Literal["cpu", "wall"]
    threads: int
    xdist: bool
    waits: int
    seconds: tuple[float, ...]
    reference_seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.seconds or len(self.reference_seconds) != len(self.seconds) + 1:
            msg = (
                "expected at least one round and one more of the reference workload, "
                f"got {len(self.seconds)} and {len(self.reference_seconds)}."
            )
            raise InputError(msg)
        if min(*self.seconds, *self.reference_seconds) <= 0:
            msg = f"expected each round to take time, got {min(*self.seconds, *self.reference_seconds)} seconds."
            raise InputError(msg)

    @property
    def log_ratios(self) -> tuple[float, ...]:
        """For each round, the logarithm of its time over the mean of the two reference rounds around it."""
        around = zip(self.seconds, self.reference_seconds, self.reference_seconds[1:], strict=False)
        return tuple(math.log(2 * work / (before + after)) for work, before, after in around)

    @property
    def ratio(self) -> float:
        """The calibrated median: how many times the reference workload the work takes."""
        return math.exp(statistics.median(self.log_ratios))


class PairedRounds:
    """Times work and reference workload in turn: `time_reference`, `time_work`, `time_reference`, and so on.

    Args:
        work: one round of what is measured; a few milliseconds or more.
        kind: which reference workload resembles it.
        device: where the work runs; the reference workload runs there, too.
    """

    def __init__(self, work: Callable[[], object], *, kind: Kind, device: torch.device) -> None:
        self._work = work
        self._reference = reference_workload(kind, device)
        self._device = device
        self._wait = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(device.type, lambda: None)
        # What a busy machine gives to other processes is no time of ours. A device computes while the process waits.
        self._clock: Literal["cpu", "wall"] = "cpu" if device.type == "cpu" else "wall"
        self._now = time.process_time if self._clock == "cpu" else time.perf_counter
        self._seconds: list[float] = []
        self._reference_seconds: list[float] = []
        self._waits: list[int] = []

    def time_reference(self) -> None:
        """One round of the reference workload."""
        self._reference_seconds.append(self._time(self._reference))

    def time_work(self) -> None:
        """One round of the work."""
        before = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
        self._seconds.append(self._time(self._work))
        self._waits.append(resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - before)

    def rounds_within(self, seconds: float, *, most: int) -> int:
        """How many rounds to take: what fits into ``seconds``, but at least `FEWEST_ROUNDS` and at most ``most``.

        Takes one pair, after one that warms up.
        """
        for _ in range(2):
            self.time_reference()
            self.time_work()
        return max(FEWEST_ROUNDS, min(most, int(seconds / (self._seconds[-1] + self._reference_seconds[-1]))))

    def measurement(self, rounds: int) -> Measurement:
        """The last ``rounds`` rounds, closed by one more of the reference workload."""
        self.time_reference()
        return Measurement(
            workload=WORKLOAD,
            device=str(self._device),
            clock=self._clock,
            threads=torch.get_num_threads(),
            xdist="PYTEST_XDIST_WORKER" in os.environ,
            waits=int(statistics.median(self._waits[-rounds:])) if self._clock == "cpu" else 0,
            seconds=tuple(self._seconds[-rounds:]),
            reference_seconds=tuple(self._reference_seconds[-rounds - 1 :]),
        )

    def _time(self, work: Callable[[], object]) -> float:
        self._wait()
        began = self._now()
        work()
        self._wait()
        return self._now() - began


@contextmanager
def steady(device: torch.device) -> Iterator[None]:
    """Compute on one thread, without garbage collection, in memory that stays with the process.

    A second thread would be waited for as soon as anything else runs. Freed memory that goes back to the system is
    zeroed page by page when it is asked for again: a fifth of a training step, more or less of it depending on what the
    process did before. So where the C library is glibc it is told, for the rest of the process, to keep it.

    Threads, garbage collection and torch's random state are as before afterwards.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_TRIM, 2**31 - 1)
        libc.mallopt(_MMAP, _LARGEST_MMAP)
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
