"""A run that is killed at any time and resumed ends with the bits of an uninterrupted run."""

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
    """Starts processes with PyTorch already imported."""
    context = multiprocessing.get_context("forkserver")
    # torch._dynamo takes seconds to import, and the first step of an optimizer imports it.
    context.set_forkserver_preload(["harness.training", "torch._dynamo"])
    return context


def bits(record: RunRecord) -> object:
    """The part of a record that must repeat."""
    return record.status, record.state_digest, record.digests, [result.test_loss for result in record.epochs]


@dataclass(frozen=True)
class KillTime:
    """When to kill a run: so many seconds after a step began, which depends little on the speed of the machine."""

    step: int
    seconds: float


def kill(server: ForkServerContext, folder: Path, when: KillTime) -> tuple[int | None, int]:
    """Kill a run. Returns its exit code and the last epoch that it reported as completed."""
    receiver, sender = server.Pipe(duplex=False)
    process = server.Process(target=run_in_child, args=(folder, sender))
    process.start()
    sender.close()
    events = [("epoch", 0)]
    while events[-1] != ("step", when.step):
        events.append(receiver.recv())
    process.join(when.seconds)
    process.kill()
    process.join()
    with contextlib.suppress(EOFError):
        while True:
            events.append(receiver.recv())
    return process.exitcode, max(number for kind, number in events if kind == "epoch")


def timeline(server: ForkServerContext, folder: Path) -> list[float]:
    """Run to the end. Returns the times at which each step began and, last, at which the run ended, from the first step, in s."""
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
    return [instant - times[0] for instant in times]


def test_a_run_killed_at_random_times_ends_with_the_same_bits(server: ForkServerContext, tmp_path: Path) -> None:
    """Twenty kills, spread over three epochs: at most the current epoch is lost, and the result is bit-equal."""
    begun = timeline(server, tmp_path / "uninterrupted")
    uninterrupted = run(tmp_path / "uninterrupted", Reporter())
    assert len(begun) == 3 * 120 + 1
    draw = random.Random(20)  # noqa: S311 - not a secret
    restored = []
    for number in range(KILLS):
        folder = tmp_path / str(number)
        seconds = begun[-1] * (number + draw.random()) / KILLS
        step = bisect.bisect_right(begun, seconds)
        code, completed = kill(server, folder, KillTime(step, seconds - begun[step - 1]))
        reporter = Reporter()
        resumed = run(folder, reporter)

        assert bits(uninterrupted) == bits(resumed)
        assert reporter.done >= completed
        assert reporter.warnings == []
        if code == -signal.SIGKILL:
            restored.append(reporter.done)
    # If most runs had ended before they were killed, the test would show nothing.
    assert len(restored) > KILLS / 2
    assert {0, 1} <= set(restored)
