"""A run that is killed at any moment goes on to the bits of one that was not."""

from __future__ import annotations

import bisect
import contextlib
import multiprocessing
import random
import signal
import time
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

from harness.training import RunRecord
from tests.killed import Reporter, run, run_in_child

pytestmark = [pytest.mark.smoke, pytest.mark.usefixtures("one_thread")]

KILLS = 20


@pytest.fixture(scope="module")
def server() -> ForkServerContext:
    """Starts processes in which PyTorch is imported already."""
    context = multiprocessing.get_context("forkserver")
    # The first step of an optimizer imports the second, for seconds.
    context.set_forkserver_preload(["harness.training", "torch._dynamo"])
    return context


def bits(record: RunRecord) -> object:
    """What of a record must come again."""
    return record.status, record.state_digest, record.digests, [result.test_loss for result in record.epochs]


@dataclass(frozen=True)
class Moment:
    """A moment of a run: so many seconds after a step began. How fast the machine is just then moves it little."""

    step: int
    seconds: float


def kill(server: ForkServerContext, folder: Path, moment: Moment) -> tuple[int | None, int]:
    """Kill a run at a moment. Returns its exit code and the last epoch that it told to be whole."""
    receiver, sender = server.Pipe(duplex=False)
    process = server.Process(target=run_in_child, args=(folder, sender))
    process.start()
    sender.close()
    told = [("epoch", 0)]
    while told[-1] != ("step", moment.step):
        told.append(receiver.recv())
    process.join(moment.seconds)
    process.kill()
    process.join()
    with contextlib.suppress(EOFError):
        while True:
            told.append(receiver.recv())
    return process.exitcode, max(number for kind, number in told if kind == "epoch")


def timeline(server: ForkServerContext, folder: Path) -> list[float]:
    """Do a whole run. Returns when each step began and, last, when the run was over, in seconds from the first step."""
    receiver, sender = server.Pipe(duplex=False)
    process = server.Process(target=run_in_child, args=(folder, sender))
    process.start()
    sender.close()
    times = []
    with contextlib.suppress(EOFError):
        while True:
            kind, _ = receiver.recv()
            if kind == "step":
                times.append(time.monotonic())
    times.append(time.monotonic())
    process.join()
    return [moment - times[0] for moment in times]


def test_killed_at_random_moments_a_run_ends_in_the_same_bits(server: ForkServerContext, tmp_path: Path) -> None:
    """Twenty kills, spread over three epochs: at most the running epoch is lost, and the end is bit-equal."""
    begun = timeline(server, tmp_path / "unbroken")
    unbroken = run(tmp_path / "unbroken", Reporter())
    assert len(begun) == 3 * 120 + 1
    draw = random.Random(20)  # noqa: S311 - moments, not secrets
    brought = []
    for number in range(KILLS):
        folder = tmp_path / str(number)
        seconds = begun[-1] * (number + draw.random()) / KILLS
        step = bisect.bisect_right(begun, seconds)
        code, whole = kill(server, folder, Moment(step, seconds - begun[step - 1]))
        reporter = Reporter()
        resumed = run(folder, reporter)

        assert bits(unbroken) == bits(resumed)
        assert reporter.done >= whole
        assert reporter.warnings == []
        if code == -signal.SIGKILL:
            brought.append(reporter.done)
    # Where most runs had ended before they were killed, nothing was shown.
    assert len(brought) > KILLS / 2
    assert {0, 1} <= set(brought)
