"""A command that is interrupted or killed while it loads a model leaves no process, and no folder after the next start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.sandbox.bubblewrap import bubblewrap_state
from harness.sandbox.kernel import machine

pytestmark = [
    pytest.mark.smoke,
    pytest.mark.skipif(machine() is None, reason="reads /proc, and the layers are implemented for Linux"),
]

# Import, building and finalising take forever.
NET = """
import time
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        open("building", "w").close()
        time.sleep(600)
"""
# After so many seconds: in the import of PyTorch, in the command and in the worker; in the code of the model.
CASES = [
    *[(signal.SIGINT, seconds, "none") for seconds in (0.5, 1.5, 3.0, 6.0, 15.0)],
    *[(signal.SIGKILL, seconds, "none") for seconds in (1.5, 3.0, 6.0, 15.0)],
    *[(signal.SIGKILL, seconds, "bubblewrap") for seconds in (3.0, 15.0)],
    *[(number, 6.0, "bubblewrap") for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)],
]


def processes(marker: str) -> list[int]:
    """The processes, other than zombies, whose environment contains a text."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if marker.encode() in (folder / "environ").read_bytes() and "\nState:\tZ" not in (
                folder / "status"
            ).read_text("utf-8"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def start(tmp_path: Path, *options: str, command: str = "check") -> subprocess.Popen[bytes]:
    """Start a command that loads a model, whose temporary files are in ``tmp_path``."""
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "net.py").write_text(NET, encoding="utf-8")
    (tmp_path / "temporary").mkdir()
    return subprocess.Popen(
        [sys.executable, "-m", "harness", command, str(tmp_path / "project" / "net.py"), *options],
        env={**os.environ, "TMPDIR": str(tmp_path / "temporary")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def wait_for_end_of(marker: str, seconds: float) -> list[int]:
    """Wait until no process of a command is left; return those that are left after some time."""
    until = time.monotonic() + seconds
    while (left := processes(marker)) and time.monotonic() < until:
        time.sleep(0.05)
    return left


@pytest.mark.parametrize(("number", "seconds", "layers"), CASES)
def test_nothing_is_left(number: signal.Signals, seconds: float, layers: str, tmp_path: Path) -> None:
    """Whatever the signal and the time, all processes end, after an interruption with all files."""
    if layers == "bubblewrap" and not bubblewrap_state().holds:
        pytest.skip("bubblewrap does not work here")
    started = start(tmp_path, "--require-sandbox", layers)
    marker = f"{tmp_path / 'temporary'}"
    time.sleep(seconds)
    at = time.monotonic()
    started.send_signal(number)
    started.wait(10)
    print(f"{number.name} after {seconds} s: ended after {time.monotonic() - at:.2f} s")  # noqa: T201 - shown with -s

    assert [] == wait_for_end_of(marker, seconds=3)
    if number is not signal.SIGINT:
        sweep = "from harness.files import temporary_folder\nwith temporary_folder('next'): pass"
        environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
        subprocess.run([sys.executable, "-c", sweep], env=environment, check=True)
    assert [] == list((tmp_path / "temporary").glob("harness-*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_a_determinism_check(number: signal.Signals, tmp_path: Path) -> None:
    """The processes that train for `harness repro` end with it, while they load the model."""
    started = start(tmp_path, "--data", "digits", command="repro")
    time.sleep(8)
    started.send_signal(number)
    started.wait(10)

    assert [] == wait_for_end_of(f"{tmp_path / 'temporary'}", seconds=3)
