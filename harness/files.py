"""Writing files so that nothing is lost, and so that two processes do not write the same ones."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import filelock

from harness.errors import InputError


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash at any moment, finds the old content or the new one and never a part.

    Raises:
        InputError: the folder is not there, not writable or full; the old file is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as problem:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if not isinstance(problem, OSError):
            raise
        msg = (
            f"could not write path={str(path)!r}: {problem.strerror}. What was there before is untouched. "
            "Free some space or name another place."
        )
        raise InputError(msg) from problem


@contextlib.contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Be the only process that writes into a folder, in the block; however it ends, the next one may.

    Raises:
        InputError: another process is, or the folder cannot be written to.
    """
    lock = filelock.FileLock(folder / ".lock")
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        msg = (
            f"expected a folder that nobody else writes to, got {str(folder)!r}, which another process is busy with. Wait for "
            "it, or name another folder with --out."
        )
        raise InputError(msg) from None
    except OSError as problem:
        msg = f"expected a folder that can be written to, got {str(folder)!r}: {problem.strerror}. Name another one with --out."
        raise InputError(msg) from problem
    try:
        yield
    finally:
        lock.release()
