"""A run that is killed at any moment goes on to the bits of one that was not."""

from __future__ import annotations

import contextlib
import multiprocessing
import random
import signal
import time
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


def kill(server: ForkServerContext, folder: Path, after: float | None) -> tuple[int | None, int, float]:
    """Kill a run so many seconds after its first step began, or never.

    Returns its exit code, the last epoch that it told to be whole, and the seconds from its first step to its end.
    """
    receiver, sender = server.Pipe(duplex=False)
    process = server.Process(target=run_in_child, args=(folder, sender))
    process.start()
    sender.close()
    told = [receiver.recv()]
    began = time.monotonic()
    process.join(after)
    process.kill()
    process.join()
    seconds = time.monotonic() - began
    with contextlib.suppress(EOFError):
        while True:
            told.append(receiver.recv())
    return process.exitcode, told[-1], seconds


def test_killed_at_random_moments_a_run_ends_in_the_same_bits(server: ForkServerContext, tmp_path: Path) -> None:
    """Twenty kills, spread over three epochs: at most the running epoch is lost, and the end is bit-equal."""
    _, epochs, seconds = kill(server, tmp_path / "unbroken", None)
    unbroken = run(tmp_path / "unbroken", Reporter())
    assert epochs == 3
    draw = random.Random(20)  # noqa: S311 - moments, not secrets
    brought = []
    for number in range(KILLS):
        folder = tmp_path / str(number)
        code, whole, _ = kill(server, folder, seconds * (number + draw.random()) / KILLS)
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
