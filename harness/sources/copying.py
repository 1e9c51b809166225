"""A private copy of the user's project, made in the workspace of the worker process that imports the model.

Files that the import writes stay in the copy. Symbolic links, large files and files beyond the size limits are not
copied: the copy has symbolic links to such files, through which they can be read but not written.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.errors import HarnessError
from harness.sources.cells import NOTEBOOK_SUFFIX
from harness.sources.source import ModelSource

_MAX_FILE_BYTES = 16 * 2**20
_MAX_BYTES = 128 * 2**20
_MAX_ENTRIES = 5_000
# Smaller limits for the files in the parent folders of the project.
_MAX_FILE_BYTES_BESIDE = 2**20
_MAX_FILES_BESIDE = 200
_LINKED_FOLDERS = frozenset({".git", ".hg", ".svn", "node_modules"})
_MAX_NAMED = 3

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# For each audit event that changes a file, or an entry of a folder: the numbers of the arguments that are paths.
_CHANGES_FILE: Mapping[str, tuple[int, ...]] = {
    "os.truncate": (0,),
    "os.chmod": (0,),
    "os.chown": (0,),
    "os.utime": (0,),
}
_CHANGES_FOLDER = {
    "os.mkdir": (0,),
    "os.remove": (0,),
    "os.rmdir": (0,),
    "os.rename": (0, 1),
    "os.link": (1,),
    "os.symlink": (1,),
}


@dataclass(frozen=True, kw_only=True)
class PrivateCopy:
    """A copy of the user's project in a worker process's workspace.

    ``base`` is the copy of the folder ``outside``, which is the project folder ``root`` or a parent of it. ``linked``
    names files and folders that exceeded the limits and were not copied.
    """

    base: Path
    outside: Path
    root: Path
    linked: list[str] = field(default_factory=list)

    def inside(self, path: Path) -> Path:
        """Return the path of the copy of a file; the same path if the file is not under ``outside``."""
        return self.base / path.relative_to(self.outside) if path.is_relative_to(self.outside) else path

    def original(self, text: str) -> str:
        """Return a text with the paths of copies replaced by the original paths."""
        return text.replace(str(self.base), str(self.outside).rstrip(os.sep))

    def notes(self) -> list[str]:
        """Return a sentence on the files that exceeded the size limits; an empty list if there are none."""
        if not self.linked:
            return []
        more = len(self.linked) - _MAX_NAMED
        named = ", ".join(self.linked[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
        limit = f"{_MAX_ENTRIES:,} files or {_MAX_BYTES // 2**20} MiB"
        return [f"{self.root} holds more than {limit}, the most that is copied: {named} can be read, but not written"]


@contextlib.contextmanager
def private_copy(source: ModelSource, folder: Path) -> Iterator[tuple[ModelSource, PrivateCopy]]:
    """Copy a source's project into a folder and change the working directory to it permanently.

    Yields:
        The source with its path in the copy, and the copy. Harness errors from the block name the original paths.
    """
    here, folder = source.working_folder, folder.resolve()
    # The home folder and the temporary folder hold more than a project: only files beside the model's file are copied.
    broad = (os.path.expanduser("~"), tempfile.gettempdir(), str(folder))  # noqa: PTH111 - there may be no home
    root = Path(source.root) if source.root and not _holds(source.root, broad) else here
    if source.path is None:
        root = here / (source.module or str(source.shipped)).partition(".")[0]
    while (root.parent / "__init__.py").is_file():
        root = root.parent
    is_whole = root.is_dir() and not _holds(str(root), broad)
    beside = [parent for parent in root.parents[:2] if parent.is_dir()]
    copy = PrivateCopy(base=folder / "copy", outside=(root, *beside)[-1], root=root)
    for inner, parent in zip((root, *beside), beside, strict=False):
        _copy_beside(copy, parent, inner)
    if is_whole:
        _copy_tree(copy, here)
    elif root.is_dir():
        _copy_beside(copy, root, None)
    _Guard.watch(copy, is_whole=is_whole)
    os.chdir(copy.inside(here))
    try:
        yield replace(source, path=source.path and str(copy.inside(Path(source.path)))), copy
    except HarnessError as error:
        error.args = tuple(copy.original(value) if isinstance(value, str) else value for value in error.args)
        raise


def _holds(folder: str, places: Iterable[str]) -> bool:
    return any(_is_in(place, Path(folder)) for place in places)


def _copy_tree(copy: PrivateCopy, here: Path) -> None:
    """Copy the project folder breadth-first, but the folders that lead to ``here`` first.

    Files and folders that exceed the limits are replaced by symbolic links.
    """
    entries = size = 0
    waiting = deque([copy.root])
    while waiting:
        folder = waiting.popleft()
        target = copy.inside(folder)
        try:
            found = sorted(
                os.scandir(folder), key=lambda entry: (not entry.name.endswith((".py", ".ipynb")), entry.name)
            )
        except OSError:
            _link(folder, target)
            continue
        entries += len(found)
        if entries > _MAX_ENTRIES and not here.is_relative_to(folder):
            entries -= len(found)
            copy.linked.append(str(folder.relative_to(copy.root)))
            _link(folder, target)
            continue
        target.mkdir(parents=True, exist_ok=True)
        for entry in found:
            path = Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                if entry.name in _LINKED_FOLDERS or (path / "pyvenv.cfg").exists():
                    _link(path, target / entry.name)
                elif here.is_relative_to(path):
                    waiting.appendleft(path)
                elif entry.name != "__pycache__":
                    waiting.append(path)
            elif entry.is_file(follow_symlinks=False) and (bytes_of := entry.stat().st_size) <= _MAX_FILE_BYTES:
                if size + bytes_of > _MAX_BYTES and not _is_code(entry.name):
                    copy.linked.append(str(path.relative_to(copy.root)))
                    _link(path, target / entry.name)
                else:
                    size += bytes_of
                    _copy_file(path, target / entry.name)
            else:
                _link(path, target / entry.name)


def _is_code(name: str) -> bool:
    return name.endswith((".py", NOTEBOOK_SUFFIX))


def _copy_beside(copy: PrivateCopy, folder: Path, inner: Path | None) -> None:
    """Copy the small files of a folder and make links to its other entries, except ``inner``, which is copied separately."""
    target = copy.inside(folder)
    target.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for number, entry in enumerate(entries):
            path = Path(entry.path)
            if path == inner or copy.base.is_relative_to(path):
                continue
            small = entry.is_file(follow_symlinks=False) and entry.stat().st_size <= _MAX_FILE_BYTES_BESIDE
            if small and number < _MAX_FILES_BESIDE:
                _copy_file(path, target / entry.name)
            else:
                _link(path, target / entry.name)


def _copy_file(path: Path, target: Path) -> None:
    try:
        shutil.copy2(path, target)
    except OSError:
        target.unlink(missing_ok=True)
        _link(path, target)


def _link(path: Path, target: Path) -> None:
    with contextlib.suppress(OSError):
        target.symlink_to(os.path.realpath(path))


class _Guard:
    """An audit hook that rejects writes through links of the copy, and to the original project by absolute paths."""

    copy: PrivateCopy | None = None
    is_whole = False
    installed = False

    @classmethod
    def watch(cls, copy: PrivateCopy, *, is_whole: bool) -> None:
        cls.copy, cls.is_whole = copy, is_whole
        if not cls.installed:
            sys.addaudithook(cls.hook)
            cls.installed = True

    @classmethod
    def hook(cls, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            if isinstance(arguments[2], int) and arguments[2] & _WRITING:
                cls.check(arguments[0], of_entry=False)
        elif event in _CHANGES_FILE or event in _CHANGES_FOLDER:
            for number in _CHANGES_FILE.get(event) or _CHANGES_FOLDER[event]:
                cls.check(arguments[number], of_entry=event in _CHANGES_FOLDER)

    @classmethod
    def check(cls, path: object, *, of_entry: bool) -> None:
        copy = cls.copy
        if copy is None or not isinstance(path, str | bytes | os.PathLike) or not copy.base.is_dir():
            return
        named = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 - Path would follow links
        folder, name = os.path.split(named)
        real = os.path.join(os.path.realpath(folder), name) if of_entry else os.path.realpath(named)  # noqa: PTH118 - as above
        through_link = _is_in(named, copy.base) and not _is_in(real, copy.base)
        if through_link or (cls.is_whole and _is_in(real, copy.root)):
            reason = (
                "not copied, since the file is large, a link, or outside of the project: such a file can only be read"
            )
            raise PermissionError(errno.EACCES, reason, copy.original(named))


def _is_in(path: str, folder: Path) -> bool:
    return Path(path).is_relative_to(folder)
