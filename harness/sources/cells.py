"""The source code of a model file: a whole Python file, or the code cells of a notebook with their magics left out."""

from __future__ import annotations

import ast
import contextlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import ModelSourceError

NOTEBOOK_SUFFIX = ".ipynb"

# Cell magics whose cell is Python code.
_PYTHON_CELL_MAGICS = frozenset({"capture", "prun", "time", "timeit"})
# `%matplotlib inline`, `!pip install x`, `files = !ls`, `?print`, `print?`
_MAGIC_LINE = re.compile(r"^(\s*)(?:(?:[A-Za-z_][\w, ]*=\s*)?[%!](?=\S)|\?+\w|[\w.]+\?\??\s*$)")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A notebook's code cell, magics included, or a whole file. Its place is named in messages, such as ``cell 3``."""

    place: str
    source: str


def read_cells(path: Path) -> tuple[Cell, ...]:
    """The code of a ``.py`` file (one cell) or of a notebook.

    Raises:
        ModelSourceError: the file cannot be read, or is not a notebook of Python cells.
    """
    try:
        if path.suffix != NOTEBOOK_SUFFIX:
            # Bytes that are not text stand at most in comments, as far as a model is concerned.
            return (Cell(place=path.name, source=path.read_text(encoding="utf-8-sig", errors="replace")),)
        document = json.loads(path.read_text(encoding="utf-8-sig"))
        language = document.get("metadata", {}).get("language_info", {}).get("name", "python")
        sources = list(_code_cells(document))
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise ModelSourceError(
            f"{path.name} is not a Jupyter notebook: expected a JSON document with a list of cells, got "
            f"{type(error).__name__}: {error}. Save it from Jupyter again, or name a .py file"
        ) from error
    except OSError as error:
        expected = "Expected a Python file or a notebook with read permission"
        raise ModelSourceError(f"{path} cannot be read: {error.strerror}. {expected}") from error
    if not str(language).lower().startswith(("python", "ipython")):
        raise ModelSourceError(f"{path.name} is a notebook of {language=}: expected a notebook of Python cells")
    return tuple(Cell(place=f"cell {number}", source=source) for number, source in sources)


def _code_cells(document: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    # Until version 3 of the format the cells were in worksheets, their text under "input".
    sheets = [document] if "cells" in document else document["worksheets"]
    cells = [cell for sheet in sheets for cell in sheet["cells"]]
    for number, cell in enumerate(cells, start=1):
        if cell["cell_type"] == "code":
            yield number, "".join(cell["source"] if "source" in cell else cell["input"])


def parse(source: str) -> ast.Module:
    """The syntax tree of a cell, magics and shell lines left out; line numbers stay the same.

    Raises:
        SyntaxError: the rest is not Python.
    """
    try:
        return _tree(source)
    except SyntaxError:
        # Only now: a line of Python can begin with a percent sign, within brackets or a string.
        return _tree(_without_magics(source))


def parsed(cells: Iterable[Cell]) -> Iterator[tuple[Cell, ast.Module]]:
    """The cells that are Python, each with its syntax tree."""
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
