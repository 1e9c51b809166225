"""Documents as lines with their places: Markdown, text, reStructuredText, logs, and notebooks by cell and output.

Nothing outside the named path is read: links are not followed, and only regular files are opened.
"""

from __future__ import annotations

import codecs
import io
import os
import re
import stat
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from harness.claims.evidence import Place, Unread
from harness.errors import InputError
from harness.files import read_whole

SUFFIXES = frozenset({".md", ".markdown", ".txt", ".rst", ".log", ".ipynb"})
NOTEBOOK = ".ipynb"
# Longer than any line that a program prints for a reader; the bars of a whole epoch, updated in place, are cut to the last one.
MAX_LINE = 4_000
_CHUNK = 65_536
_MAX_NOTEBOOK_BYTES = 64 * 2**20
_MAX_FILES = 1_000
_MAX_ENTRIES = 50_000
_SKIPPED_FOLDERS = frozenset({"__pycache__", "build", "dist", "env", "node_modules", "site-packages", "venv"})
_BYTE_ORDER_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_ANSI = re.compile(r"\x1b(?:\[[0-9;?]{0,16}[A-Za-z]|[@-Z\\-_])")

Kind = Literal["prose", "log", "code", "output"]


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of a document: the last state of a line that was updated in place, without control sequences.

    ``kind``: ``prose`` for Markdown and text, ``log`` for a log file, ``code`` and ``output`` for a notebook's code cell.
    """

    place: Place
    text: str
    kind: Kind


@dataclass(frozen=True, kw_only=True)
class Document:
    """A file to read; ``name`` is how it is called in findings: its path relative to the folder that was named."""

    path: Path
    name: str

    def lines(self) -> Iterator[Line | Unread]:
        """Return the lines in order, and what could not be read."""
        read = _notebook if self.path.suffix.lower() == NOTEBOOK else _text
        return read(self.path, self.name)


def find_documents(path: Path) -> tuple[list[Document], list[Unread]]:
    """Return the documents of a folder in alphabetical order, or the named file, and what was left out.

    Raises:
        InputError: the path does not exist, is neither a regular file nor a folder, or holds no document.
    """
    mode, reason = 0, "it is a device, a pipe or a socket"
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
    if stat.S_ISREG(mode):
        return [Document(path=path, name=path.name)], []
    if not stat.S_ISDIR(mode):
        raise InputError(
            f"expected a document, a notebook, a log or a folder, got path={str(path)!r}: {reason}. Name an existing file."
        )
    found, left_out = _walk(path)
    if not found:
        raise InputError(
            f"expected a folder with documents ({', '.join(sorted(SUFFIXES))}), got path={str(path)!r} without any. "
            "Name the folder of the README, the notebooks or the logs."
        )
    return found, left_out


def _walk(root: Path) -> tuple[list[Document], list[Unread]]:
    found: list[Document] = []
    left_out: list[Unread] = []
    entries = 0
    for folder, folders, files in os.walk(root):
        here = Path(folder)
        links = (here / name for name in sorted(folders) if (here / name).is_symlink())
        left_out += [_left_out(root, link, "a link to a folder is not followed") for link in links]
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _SKIPPED_FOLDERS)
        entries += len(folders) + len(files)
        for name in sorted(files):
            path = here / name
            if path.suffix.lower() not in SUFFIXES or name.startswith("."):
                continue
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode):
                found.append(Document(path=path, name=path.relative_to(root).as_posix()))
            else:
                what = "a link" if stat.S_ISLNK(mode) else "a device, pipe or socket"
                left_out.append(_left_out(root, path, f"{what} is not opened"))
        if len(found) > _MAX_FILES or entries > _MAX_ENTRIES:
            left_out.append(
                _left_out(root, here, f"more than {_MAX_FILES:,} documents: the rest of the folder is not read")
            )
            break
    return found[:_MAX_FILES], left_out


def _left_out(root: Path, path: Path, reason: str) -> Unread:
    return Unread(place=Place(file=path.relative_to(root).as_posix()), reason=reason)


def _text(path: Path, name: str) -> Iterator[Line | Unread]:
    kind: Kind = "log" if path.suffix.lower() == ".log" else "prose"
    try:
        with path.open("rb") as raw:
            start = raw.read(8192)
            encoding = next((known for mark, known in _BYTE_ORDER_MARKS if start.startswith(mark)), None)
            if encoding is None and b"\0" in start:
                yield Unread(place=Place(file=name), reason="a binary file is not read")
                return
            raw.seek(0)
            with io.TextIOWrapper(raw, encoding or "utf-8", errors="replace", newline="\n") as file:
                for number, text, lost in _logical_lines(file):
                    yield _line(Place(file=name, line=number), text, kind, lost)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text in UTF-8 or UTF-16"
        yield Unread(place=Place(file=name), reason=f"the file cannot be read: {reason}")


def _logical_lines(file: io.TextIOWrapper) -> Iterator[tuple[int, str, int]]:
    """Yield the number and the text of each line, and the number of characters if the line is too long to be read."""
    number = 0
    while chunk := file.readline(_CHUNK):
        number += 1
        length, tail = len(chunk), chunk
        while not chunk.endswith("\n") and (chunk := file.readline(_CHUNK)):
            length += len(chunk)
            tail = (tail + chunk)[-_CHUNK:]
        text = _last_state(tail)
        # A line that was updated in place is read if its last state is whole.
        cut = length > len(tail) and len(text) >= len(tail.rstrip())
        yield number, text, length if len(text) > MAX_LINE or cut else 0


def _last_state(text: str) -> str:
    """Return what a terminal shows of a line: the last non-empty text after a carriage return, without ANSI sequences."""
    if "\r" in text:
        text = next((part for part in reversed(text.split("\r")) if part.strip()), "")
    return _ANSI.sub("", text).rstrip()


def _notebook(path: Path, name: str) -> Iterator[Line | Unread]:
    import nbformat  # noqa: PLC0415 - slow, and only notebooks need it

    try:
        text = read_whole(path, "a notebook", most=_MAX_NOTEBOOK_BYTES).decode("utf-8-sig")
        with warnings.catch_warnings():
            # Deviations from the schema, such as missing cell identifiers, do not matter to a reader.
            warnings.simplefilter("ignore")
            notebook: Any = nbformat.reads(text, as_version=4)  # type: ignore[no-untyped-call]
        cells = list(notebook.cells)
    except InputError as error:
        yield Unread(place=Place(file=name), reason=str(error))
        return
    except Exception as error:  # noqa: BLE001 - its validation and its conversions of old forms raise errors of any type
        yield Unread(place=Place(file=name), reason=f"it is not a notebook that nbformat reads: {type(error).__name__}")
        return
    for number, cell in enumerate(cells, start=1):
        try:
            yield from _cell_lines(name, number, cell)
        except (KeyError, TypeError, AttributeError) as error:
            yield Unread(place=Place(file=name, cell=number), reason=f"the cell is malformed: {type(error).__name__}")


def _cell_lines(name: str, number: int, cell: Any) -> Iterator[Line | Unread]:  # noqa: ANN401 - a node of nbformat
    kind: Kind = "code" if cell.cell_type == "code" else "prose"
    yield from _lines_of(str(cell.source), Place(file=name, cell=number), kind)
    for index, output in enumerate(cell.get("outputs", ()), start=1):
        text = output.get("text") or output.get("data", {}).get("text/plain") or ""
        yield from _lines_of(str(text), Place(file=name, cell=number, output=index), "output")


def _lines_of(text: str, start: Place, kind: Kind) -> Iterator[Line | Unread]:
    for number, raw in enumerate(text.split("\n"), start=1):
        yield _line(replace(start, line=number), _last_state(raw), kind)


def _line(place: Place, text: str, kind: Kind, length: int = 0) -> Line | Unread:
    """Return a line, or note that it is too long; ``length`` is that of a line that was cut."""
    if length or len(text) > MAX_LINE:
        return Unread(place=place, reason=f"a line of {length or len(text):,} characters is not read")
    return Line(place=place, text=text, kind=kind)
