"""Reading a file that a user named, atomic writing of files, and exclusive access to a folder."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import filelock

from harness.errors import InputError

MAX_BYTES = 2**31


def read_whole(path: Path, what: str, *, error: type[InputError] = InputError, most: int = MAX_BYTES) -> bytes:
    """The content of a file; ``what`` says what is expected there, such as "a run record".

    Raises:
        InputError: raised as ``error`` if the file is unreadable or exceeds ``most`` bytes.
    """
    try:
        with path.open("rb") as file:
            # A device may have no end.
            content = file.read(most + 1)
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or str(problem)
        msg = f"expected {what}, got path={str(path)!r}, which cannot be read: {reason}. Name a file that exists and is readable."
        raise error(msg) from problem
    if len(content) > most:
        raise error(f"expected {what}, got path={str(path)!r}, which has more than {most:,} bytes. Name another file.")
    return content


def expanded(path: str) -> Path:
    """The path with a leading ``~`` replaced by the home folder.

    Raises:
        InputError: there is no such user, or the user has no home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise InputError(
            f"expected a path, got {path!r} of a user without a home folder. Write the whole path."
        ) from None


def file_name(text: str) -> str:
    """The text with every character that may not be portable in a file name replaced by a dash."""
    return "".join(character if character.isalnum() or character in "-_" else "-" for character in text)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file atomically: readers, also after a crash, find the old content or the new content, never a part.

    Raises:
        InputError: the folder does not exist, is not writable or is full; the old file is unchanged.
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
        raise InputError(
            f"could not write {str(path)!r}: {problem.strerror}. The earlier file, if any, is unchanged. Free some space or "
            "choose another path."
        ) from problem


@contextlib.contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold an exclusive write lock on a folder; it is released when the ``with`` block or the process ends.

    Raises:
        InputError: another process holds the lock, or the folder is not writable.
    """
    lock = filelock.FileLock(folder / ".lock")
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        raise InputError(
            f"expected a folder that is not in use, got {str(folder)!r}, into which another process is writing. Wait for that "
            "process, or choose another folder with --out."
        ) from None
    except OSError as problem:
        raise InputError(
            f"expected a writable folder, got {str(folder)!r}: {problem.strerror}. Choose another folder with --out."
        ) from problem
    try:
        yield
    finally:
        lock.release()
