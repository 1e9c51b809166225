"""Child processes that run strange code: kept apart while they run, and ended with everything they started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

_LAST_WORDS_BYTES = 4_000
_LAST_WORDS_CHARACTERS = 300


def start_child(
    module: str, folder: Path, *, place: Path, output: Path, variables: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Start ``python -m module folder`` in a process group of its own; who starts it must call `end_child`.

    Args:
        module: what to run, a module of the harness.
        folder: its argument, where it finds its request and leaves its answer.
        place: its working directory, the model's folder.
        output: the file that takes what it prints.
        variables: its environment beside this process's.
    """
    with output.open("wb") as sink:
        return subprocess.Popen(
            [sys.executable, "-m", module, str(folder)],
            cwd=place,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            # PYTHONSAFEPATH keeps the folder off the path until torch and the harness are imported: a file called
            # torch.py beside the model must not be taken for the library. No window is to wait for being closed.
            env={**os.environ, "PYTHONSAFEPATH": "1", "MPLBACKEND": "Agg", **variables},
            start_new_session=True,
        )


def end_child(child: subprocess.Popen[bytes]) -> None:
    """End a child and everything it started."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        child.kill()
    child.wait()


def last_words(output: Path) -> str:
    """The end of what a child printed, on one line."""
    with output.open("rb") as printed:
        printed.seek(max(output.stat().st_size - _LAST_WORDS_BYTES, 0))
        return " ".join(printed.read().decode(errors="replace").split())[-_LAST_WORDS_CHARACTERS:]
