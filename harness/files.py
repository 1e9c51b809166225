"""Writing files so that nothing is lost."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

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
