"""Reading files that a user named, writing files atomically, and exclusive access to a folder."""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock

from harness.errors import InputError, WriteError

MAX_BYTES = 2**31


def read_whole(path: Path, what: str, *, error: type[InputError] = InputError, most: int = MAX_BYTES) -> bytes:
    """Return the content of a file; ``what`` names the expected kind of file in error messages, such as "a run record".

    Raises:
        InputError: the file cannot be read or has more than ``most`` bytes; the exception is of the class ``error``.
    """
    try:
        with path.open("rb") as file:
            # The path may be a device that never ends.
            content = file.read(most + 1)
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or str(problem)
        msg = f"expected {what}, got path={str(path)!r}, which cannot be read: {reason}. Name a file that exists and is readable."
        raise error(msg) from problem
    if len(content) > most:
        raise error(f"expected {what}, got path={str(path)!r}, which has more than {most:,} bytes. Name another file.")
    return content


def read_limited(path: Path, max_bytes: int, *, first_bytes: int | None = None, last_bytes: int | None = None) -> bytes:
    """Read a regular file of at most ``max_bytes``, written by an untrusted process, or its ``first_bytes`` or ``last_bytes``.

    Raises:
        FileNotFoundError: the file does not exist.
        OSError: the file is too large, not readable, or not regular: a link could refer to a file elsewhere, and reading
            from a pipe could block.
    """
    flags = os.O_NOFOLLOW | os.O_NONBLOCK if os.name == "posix" else 0
    with open(path, "rb", opener=lambda name, given: os.open(name, given | flags)) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"{path.name} is not a regular file")
        if status.st_size > max_bytes:
            raise OSError(f"{path.name} has {status.st_size:,} bytes, at most {max_bytes:,} are read")
        if last_bytes is not None:
            file.seek(max(status.st_size - last_bytes, 0))
        return file.read(first_bytes or last_bytes or max_bytes)


def expanded(path: str) -> Path:
    """Return the path with a leading ``~`` or ``~user`` replaced by the home folder of the user.

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
    """Return the text with every character except letters, digits, ``-`` and ``_`` replaced by a dash, for use as a file name."""
    return "".join(character if character.isalnum() or character in "-_" else "-" for character in text)


def make_folder(folder: Path, *, option: str, what: str = "folder") -> None:
    """Create a folder, if it does not exist; the error calls it ``what`` and names the command-line option that sets it.

    Raises:
        WriteError: the folder cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(
            f"could not create the {what} {str(folder)!r}: {error.strerror}. Name another folder with {option}."
        ) from error


def write_whole(path: Path, content: bytes) -> None:
    """Write a file atomically: a reader finds the old content or the new content, never a part of it, even after a crash.

    Links are followed, and an existing file keeps its permissions. A path that is no regular file, such as a pipe or a
    device, is written to.

    Raises:
        WriteError: the file or its folder does not exist or is not writable, or the disk is full; an existing file is
            unchanged.
    """
    target = require_writable(path)
    if _is_stream(target):
        try:
            with target.open("ab") as stream:
                stream.write(content)
        except OSError as problem:
            raise WriteError(f"could not write {str(path)!r}: {problem.strerror}. Choose another path.") from problem
        return
    try:
        replace_file(target, content)
    except OSError as problem:
        raise WriteError(
            f"could not write {str(path)!r}: {problem.strerror}. The earlier file, if any, is unchanged. Free some space or "
            "choose another path."
        ) from problem


def replace_file(path: Path, content: bytes) -> None:
    """Write a regular file atomically; an existing file is replaced and passes its permissions on.

    Raises:
        OSError: the file cannot be written; an existing file is unchanged.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            # Not in a confined process.
            with contextlib.suppress(PermissionError):
                shutil.copymode(path, temporary)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def unused_name(path: Path) -> Path:
    """Return the path, with a number after the stem if there is already such a file."""
    numbers = itertools.count(2)
    unused = path
    while unused.exists():
        unused = path.with_stem(f"{path.stem}-{next(numbers)}")
    return unused


def require_writable(path: Path) -> Path:
    """Return the path that `write_whole` writes to: that of the file which ``path`` leads to, if it is a link.

    Raises:
        WriteError: the path is empty or a folder, the file is read-only, or its folder does not exist or is not writable.
    """
    try:
        is_stream = _is_stream(path)
        # The link of a pipe in /dev/fd leads to a name that does not exist.
        target = path if is_stream else Path(os.path.realpath(path))
        reason = _why_unwritable(target, is_stream=is_stream)
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or str(problem)
    if reason:
        raise WriteError(f"expected a writable file, got {str(path)!r}: {reason}. Choose another path.")
    return target


def _is_stream(path: Path) -> bool:
    """Return whether a path is a pipe, a device, or a descriptor of a process, which may be that of a regular file."""
    return path.exists() and (
        path.absolute().parts[1:2] in (("dev",), ("proc",)) or not (path.is_file() or path.is_dir())
    )


def _why_unwritable(target: Path, *, is_stream: bool) -> str:
    if target.is_dir():
        return "it is a folder"
    if target.is_symlink() and not is_stream:
        return "it is a link that leads to itself"
    # Root may write a file without any write permission; its owner protected it.
    if target.exists() and not (target.stat().st_mode & 0o222 and os.access(target, os.W_OK)):
        return "it is read-only"
    if not is_stream:
        folder = target.parent
        if not folder.is_dir():
            return f"the folder {str(folder)!r} does not exist"
        if not os.access(folder, os.W_OK):
            return f"the folder {str(folder)!r} is not writable"
    return ""


@contextlib.contextmanager
def sole_writer(folder: Path, *, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold an exclusive write lock on a folder; the lock is released when the ``with`` block or the process ends.

    If another process holds the lock, ``on_wait`` is called, and the lock is waited for; without ``on_wait`` this is an
    error.

    Raises:
        InputError: another process holds the lock, or the folder is not writable.
    """
    lock = filelock.FileLock(folder / ".lock")
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        if on_wait is None:
            raise InputError(
                f"expected a folder that is not in use, got {str(folder)!r}, into which another process is writing. Wait for "
                "that process, or choose another folder with --out."
            ) from None
        on_wait()
        lock.acquire()
    except OSError as problem:
        raise InputError(
            f"expected a writable folder, got {str(folder)!r}: {problem.strerror}. Choose another folder with --out."
        ) from problem
    try:
        yield
    finally:
        lock.release()


_TEMPORARY_PREFIX = "harness-"
# Only a folder with such a file was made by `temporary_folder`.
_TEMPORARY_LOCK = ".mnist-harness-temporary"
_SECONDS_TO_LOCK = 60


@contextlib.contextmanager
def temporary_folder(name: str, *, inside: Path | None = None) -> Iterator[Path]:
    """Create a temporary folder that is deleted at the end of the ``with`` block, also if this process is killed.

    In the latter case, the next call of this function by the same user deletes it: the process that uses such a folder
    holds a lock on it. It is created ``inside`` of another one, or in the system's folder for temporary files.
    """
    place = inside or Path(tempfile.gettempdir())
    for abandoned in (*place.glob(f"{_TEMPORARY_PREFIX}*"), *place.glob(f".{_TEMPORARY_PREFIX}*")):
        with contextlib.suppress(OSError):
            _delete_if_abandoned(abandoned)
    # Under its name it is locked from the first moment on, so that no other process takes it for abandoned.
    folder = Path(tempfile.mkdtemp(prefix=f".{_TEMPORARY_PREFIX}{name}-", dir=place))
    try:
        with filelock.FileLock(folder / _TEMPORARY_LOCK).acquire(blocking=False):
            folder = folder.rename(place / folder.name[1:])
            yield folder
    finally:
        _delete(folder)


def _delete_if_abandoned(folder: Path) -> None:
    status, lock = folder.lstat(), folder / _TEMPORARY_LOCK
    own = not hasattr(os, "getuid") or status.st_uid == os.getuid()
    # A hidden one is about to be locked, unless its process was killed.
    is_new = folder.name.startswith(".") and time.time() - status.st_mtime < _SECONDS_TO_LOCK
    if stat.S_ISDIR(status.st_mode) and own and not is_new and lock.is_file():
        with contextlib.suppress(filelock.Timeout), filelock.FileLock(lock).acquire(blocking=False):
            _delete(folder)


def _delete(folder: Path) -> None:
    """Delete a folder, which may be nested deeper than a path can be long; ignore what cannot be deleted."""
    is_nested = True
    while is_nested:
        is_nested = False
        for path in _entries(folder):
            for inner in _entries(path):
                with contextlib.suppress(OSError):
                    if inner.is_dir() and not inner.is_symlink():
                        inner.chmod(stat.S_IRWXU)
                        inner.rename(folder / secrets.token_hex())
                        is_nested = True
                    else:
                        inner.unlink()
            with contextlib.suppress(OSError):
                path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    with contextlib.suppress(OSError):
        folder.rmdir()


def _entries(folder: Path) -> list[Path]:
    if not folder.is_symlink() and folder.is_dir():
        with contextlib.suppress(OSError):
            folder.chmod(stat.S_IRWXU)
            return list(folder.iterdir())
    return []
