"""The source code of a model file: a whole Python file, or the code cells of a notebook with their magics left out."""

from __future__ import annotations

import ast
import codecs
import contextlib
import io
import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import ModelSourceError

# Each takes some hundred bytes when it is read.
_MAX_LISTS = 500_000
NOTEBOOK_SUFFIX = ".ipynb"

_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_BINARY_FORMATS = {
    b"PK\x03\x04": "a ZIP archive, such as torch.save writes",
    b"\x1f\x8b": "a gzip archive",
    b"\x80\x02": "a pickle",
    b"\x80\x04": "a pickle",
    b"%PDF-": "a PDF document",
    b"\x7fELF": "a compiled program",
}
# The declaration of PEP 263, in the first or second line.
_DECLARED_ENCODING = re.compile(rb"\A(?:[ \t\f]*(?:#[^\r\n]*)?\r?\n)?[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)")
# Cell magics whose cell is Python code.
_PYTHON_CELL_MAGICS = frozenset({"capture", "prun", "time", "timeit"})
# `%matplotlib inline`, `!pip install x`, `files = !ls`, `?print`, `print?`
_MAGIC_LINE = re.compile(r"^(\s*)(?:(?:[A-Za-z_][\w, ]*=\s*)?[%!](?=\S)|\?+\w|[\w.]+\?\??\s*$)")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A code cell of a notebook, magics included, or a whole file; ``place`` is its name in messages, such as ``cell 3``."""

    place: str
    source: str


def read_cells(path: Path) -> tuple[Cell, ...]:
    """Read a ``.py`` file as one cell, or a notebook as one cell for each of its code cells.

    Raises:
        ModelSourceError: the file cannot be read, is not text in UTF-8 or the declared encoding, or is a notebook
            without the suffix ``.ipynb`` or in another language than Python.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        expected = "Expected a Python file or a notebook with read permission"
        raise ModelSourceError(f"{path} cannot be read: {error.strerror}. {expected}") from error
    is_notebook = path.suffix == NOTEBOOK_SUFFIX
    text = _decoded(path, content, is_notebook=is_notebook)
    wanted = "a Jupyter notebook" if is_notebook else "Python code"
    problem = ""
    if not text.strip():
        problem = (
            f"an empty file ({len(content):,} bytes): expected {wanted} that defines the model. Save the file again"
        )
    elif text.lstrip()[:15].lower().startswith(("<!doctype html", "<html")):
        problem = "an HTML page that a browser saved: expected the file shown on the page. Download the raw file"
    elif not is_notebook and text.lstrip().startswith("{") and _is_notebook(text):
        problem = f"a Jupyter notebook: expected Python code. Rename the file to {path.stem}{NOTEBOOK_SUFFIX}"
    if problem:
        raise ModelSourceError(f"{path.name} is {problem}")
    if not is_notebook:
        return (Cell(place=path.name, source=text),)
    try:
        document = _loaded(text)
        language = document.get("metadata", {}).get("language_info", {}).get("name", "python")
        sources = list(_code_cells(document))
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise ModelSourceError(
            f"{path.name} is not a Jupyter notebook: expected a JSON document with a list of cells, got "
            f"{type(error).__name__}: {error}. Save the notebook from Jupyter again, or name a .py file"
        ) from error
    if not str(language).lower().startswith(("python", "ipython")):
        raise ModelSourceError(f"expected a Python notebook, got {path.name} with {language=}. Name another notebook")
    return tuple(Cell(place=f"cell {number}", source=source) for number, source in sources)


def _decoded(path: Path, content: bytes, *, is_notebook: bool) -> str:
    """Decode the content of a file, with universal newlines.

    Raises:
        ModelSourceError: the content is binary, or in an encoding that Python or Jupyter cannot read.
    """
    kind = next((kind for start, kind in _BINARY_FORMATS.items() if content.startswith(start)), None)
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if content.startswith(mark)), None)
    # Without a byte order mark, code in UTF-16 shows by the null bytes between its letters.
    for name, other_bytes in (("utf-16-le", content[1:200:2]), ("utf-16-be", content[:200:2])):
        encoding = encoding or (name if 2 * other_bytes.count(0) > len(other_bytes) else None)
    if encoding is None and (kind or b"\0" in content):
        found = kind or "binary data"
        raise ModelSourceError(
            f"{path.name} is not text but {found}: expected Python code or a notebook. Name the source file"
        )
    if encoding is not None:
        raise ModelSourceError(
            f"{path.name} is encoded in {encoding.upper()}: expected UTF-8. {_remedy(path, encoding)}"
        )
    declared = None if is_notebook else _DECLARED_ENCODING.match(content)
    expected = declared[1].decode() if declared and not content.startswith(codecs.BOM_UTF8) else "utf-8"
    try:
        text = content.decode("utf-8-sig" if expected == "utf-8" else expected)
    except LookupError as error:
        raise ModelSourceError(
            f"{path.name} declares the encoding {expected!r}, which Python does not know. Save the file as UTF-8 and remove the "
            "declaration"
        ) from error
    except UnicodeDecodeError as error:
        line, byte = content.count(b"\n", 0, error.start) + 1, content[error.start]
        likely = next((name for name in ("utf-8", "cp1252") if _decodes(content, name)), None)
        seems = f" The encoding is probably {'cp1252 (Windows)' if likely == 'cp1252' else 'UTF-8'}." if likely else ""
        declare = (
            ""
            if is_notebook or not likely
            else f", or declare the encoding in the first line: # -*- coding: {likely} -*-"
        )
        raise ModelSourceError(
            f"{path.name} is not encoded in {expected.upper()}, as expected: byte 0x{byte:02x} in line {line}.{seems} "
            f"{_remedy(path, likely)}{declare}"
        ) from error
    return io.StringIO(text, newline=None).read()


def _remedy(path: Path, encoding: str | None) -> str:
    name, new = shlex.quote(path.name), shlex.quote(f"new-{path.name}")
    convert = f", or convert the file: iconv -f {encoding} -t utf-8 {name} > {new}" if encoding else ""
    return f"Save the file as UTF-8 in an editor{convert}"


def _decodes(content: bytes, encoding: str) -> bool:
    try:
        content.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _is_notebook(text: str) -> bool:
    try:
        return bool(list(_code_cells(_loaded(text))))
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        return False


def _loaded(text: str) -> Any:  # noqa: ANN401 - any JSON
    if text.count("[") + text.count("{") > _MAX_LISTS:
        raise ValueError(f"more than {_MAX_LISTS:,} lists and objects")
    return json.loads(text)


def _code_cells(document: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    # Until version 3 of the format the cells were in worksheets, their text under "input".
    sheets = [document] if "cells" in document else document["worksheets"]
    cells = [cell for sheet in sheets for cell in sheet["cells"]]
    for number, cell in enumerate(cells, start=1):
        if cell["cell_type"] == "code":
            yield number, "".join(cell["source"] if "source" in cell else cell["input"])


def parse(source: str) -> ast.Module:
    """Parse a cell without its IPython magics and shell commands; line numbers are preserved.

    Raises:
        SyntaxError: the remaining code is not valid Python.
    """
    try:
        return _tree(source)
    except SyntaxError:
        # Magics are removed only if needed: within brackets or a string, a line of Python can begin with a percent sign.
        return _tree(_without_magics(source))


def is_exported_notebook(cell: Cell) -> bool:
    """Return whether a ``.py`` file has IPython magics or shell commands, as an exported notebook has.

    The commands may stand verbatim or as calls of ``get_ipython()``.
    """
    try:
        tree = _tree(cell.source)
    except SyntaxError:
        with contextlib.suppress(SyntaxError):
            return bool(parse(cell.source).body)
        return False
    calls = [statement for statement in tree.body if isinstance(statement, ast.Expr | ast.Assign)]
    return any(isinstance(node, ast.Name) and node.id == "get_ipython" for call in calls for node in ast.walk(call))


def parsed(cells: Iterable[Cell]) -> Iterator[tuple[Cell, ast.Module]]:
    """Yield each cell that is valid Python with its syntax tree; skip the others."""
    for cell in cells:
        with contextlib.suppress(SyntaxError):
            yield cell, parse(cell.source)


def _tree(source: str) -> ast.Module:
    try:
        return ast.parse(source)
    except (ValueError, RecursionError, MemoryError) as error:
        # Null bytes, and brackets nested thousands deep.
        raise SyntaxError(str(error) or type(error).__name__) from error


def _without_magics(source: str) -> str:
    lines = source.splitlines()
    first = next((line for line in lines if line.strip()), "")
    if first.startswith("%%"):
        name, *rest = first[2:].split() or [""]
        writes_python = name == "writefile" and bool(rest) and rest[-1].endswith(".py")
        if name not in _PYTHON_CELL_MAGICS and not writes_python:
            return ""
    kept = []
    continued = ""
    for line in lines:
        magic = _MAGIC_LINE.match(line)
        replacement = continued or (f"{magic[1]}pass" if magic else "")
        kept.append(replacement or line)
        continued = replacement if replacement and line.rstrip().endswith("\\") else ""
    return "\n".join(kept)
