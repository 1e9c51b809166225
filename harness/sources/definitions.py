"""What a file or a notebook defines, apart from what it does.

A notebook is a record of work: between its definitions stand downloads, plots and trainings. Only imports, classes, functions and
plain constants are taken from it. A plain constant is built from literals, names, attributes and operators, without a call.
Nothing is run here; `harness.sources.worker` does that, in its own process.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import ModelSourceError

NOTEBOOK_SUFFIX = ".ipynb"

# What stands in such a cell is Python all the same.
_MAGICS_OVER_PYTHON = frozenset({"capture", "prun", "time", "timeit"})
# `%matplotlib inline`, `!pip install x`, `files = !ls`, `?print`, `print?`
_MAGIC_LINE = re.compile(r"^(\s*)(?:(?:[A-Za-z_][\w, ]*=\s*)?[%!](?=\S)|\?+\w|[\w.]+\?\??\s*$)")
_PLAIN = (
    ast.Constant,
    ast.Tuple,
    ast.List,
    ast.Dict,
    ast.Set,
    ast.UnaryOp,
    ast.BinOp,
    ast.BoolOp,
    ast.Compare,
    ast.IfExp,
    ast.Name,
    ast.Attribute,
    ast.Subscript,
    ast.Slice,
    ast.operator,
    ast.unaryop,
    ast.boolop,
    ast.cmpop,
    ast.expr_context,
)
_LIBRARY_BASES = frozenset({"LightningModule", "Module", "Sequential"})


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A stretch of source: a notebook's code cell, or a whole file.

    Args:
        place: what to call it in messages, such as ``cell 3``.
        source: the text, magics included.
    """

    place: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Definition:
    """One statement that is taken.

    Args:
        place: where it stands.
        node: the statement.
        names: what it binds; ``*`` for an ``import *``.
    """

    place: str
    node: ast.stmt
    names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Definitions:
    """What a sequence of pieces defines.

    Args:
        taken: the statements, in order.
        skipped: where a name is bound by code that is not taken, for each such name.
        notes: a sentence for each cell that is no Python, and for each class that is defined more than once.
    """

    taken: tuple[Definition, ...]
    skipped: Mapping[str, str]
    notes: tuple[str, ...]


def read_pieces(path: Path) -> tuple[Piece, ...]:
    """The code of a ``.py`` file (one piece) or of a notebook (a piece for each code cell).

    Raises:
        ModelSourceError: the file cannot be read, or is no notebook of Python cells.
    """
    try:
        if path.suffix != NOTEBOOK_SUFFIX:
            # Bytes that are no text stand in comments at most, as far as a model goes.
            return (Piece(place=path.name, source=path.read_text(encoding="utf-8-sig", errors="replace")),)
        document = json.loads(path.read_text(encoding="utf-8-sig"))
        language = document.get("metadata", {}).get("language_info", {}).get("name", "python")
        sources = list(_code_cells(document))
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        msg = (
            f"{path.name} is no Jupyter notebook: expected a JSON document with a list of cells, found {type(error).__name__}: "
            f"{error}. Save it from Jupyter once more, or point at a .py file"
        )
        raise ModelSourceError(msg) from error
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror}. Expected a Python file or a notebook that may be read"
        raise ModelSourceError(msg) from error
    if not str(language).lower().startswith(("python", "ipython")):
        msg = f"{path.name} is a notebook of language={language!r}: expected one of Python cells"
        raise ModelSourceError(msg)
    return tuple(Piece(place=f"cell {number}", source=source) for number, source in sources)


def _code_cells(document: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    # Until version 3 of the format the cells stood in worksheets, their text under "input".
    cells = (
        document["cells"]
        if "cells" in document
        else [cell for sheet in document["worksheets"] for cell in sheet["cells"]]
    )
    for number, cell in enumerate(cells, start=1):
        if cell["cell_type"] == "code":
            yield number, "".join(cell["source"] if "source" in cell else cell["input"])


def parse(source: str) -> ast.Module:
    """The syntax tree of a cell, magics and shell lines left out; line numbers stay.

    Raises:
        SyntaxError: it is no Python even so.
    """
    try:
        return _tree(source)
    except SyntaxError:
        # Only now: a line of Python can begin with a percent sign, within brackets or a text.
        return _tree(_without_magics(source))


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
        if name not in _MAGICS_OVER_PYTHON and not writes_python:
            return ""
    kept = []
    continued = ""
    for line in lines:
        magic = _MAGIC_LINE.match(line)
        indent = continued or (f"{magic[1]}pass" if magic else "")
        kept.append(indent or line)
        continued = indent if indent and line.rstrip().endswith("\\") else ""
    return "\n".join(kept)


def read_definitions(pieces: Iterable[Piece]) -> Definitions:
    """What is taken of the pieces, and what is not."""
    taken: list[Definition] = []
    skipped: dict[str, str] = {}
    notes: list[str] = []
    class_places: dict[str, list[str]] = {}
    for piece in pieces:
        try:
            tree = parse(piece.source)
        except SyntaxError as error:
            notes.append(f"{piece.place} is left out: it is no valid Python ({error.msg}, line {error.lineno})")
            continue
        for statement in tree.body:
            definitions = list(_definitions(statement, piece.place))
            names = {name for definition in definitions for name in definition.names}
            for name in _bound_names(statement) - names:
                skipped[name] = f"line {statement.lineno} of {piece.place} makes it, by code that is not run"
            for name in names:
                skipped.pop(name, None)
            taken.extend(definitions)
            if isinstance(statement, ast.ClassDef):
                class_places.setdefault(statement.name, []).append(piece.place)
    notes.extend(
        f"{name} is defined {len(places)} times ({', '.join(places)}); the last one counts"
        for name, places in class_places.items()
        if len(places) > 1
    )
    return Definitions(taken=tuple(taken), skipped=skipped, notes=tuple(notes))


def _definitions(statement: ast.stmt, place: str) -> Iterator[Definition]:
    match statement:
        case ast.Import(names=names) | ast.ImportFrom(names=names):
            bound = tuple((alias.asname or alias.name).partition(".")[0] for alias in names)
            yield Definition(place=place, node=statement, names=bound)
        case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            yield Definition(place=place, node=statement, names=(name,))
        case ast.Assign(targets=targets, value=value) if _is_plain(value) and all(map(_is_name, targets)):
            yield Definition(place=place, node=statement, names=tuple(sorted(_bound_names(statement))))
        case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value) if _is_plain(value):
            yield Definition(place=place, node=statement, names=(name,))
        case ast.Try(body=body):
            # `try: import x` / `except: !pip install x`
            for inner in body:
                if isinstance(inner, ast.Import | ast.ImportFrom):
                    yield from _definitions(inner, place)


def _is_plain(value: ast.expr) -> bool:
    return all(isinstance(node, _PLAIN) for node in ast.walk(value))


def _is_name(target: ast.expr) -> bool:
    return isinstance(target, ast.Name) or (isinstance(target, ast.Tuple) and all(map(_is_name, target.elts)))


def _bound_names(statement: ast.stmt) -> set[str]:
    """Names that a statement binds in the module, those in branches and loops included."""
    if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return {statement.name}
    names = {node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    inner = (node for node in ast.iter_child_nodes(statement) if isinstance(node, ast.stmt))
    return names.union(*map(_bound_names, inner))


def base_names(tree: ast.Module) -> dict[str, frozenset[str]]:
    """The last words of the bases of each class of a file, nested ones included."""
    return {
        node.name: frozenset(
            base.attr if isinstance(base, ast.Attribute) else base.id
            for base in node.bases
            if isinstance(base, ast.Attribute | ast.Name)
        )
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }


def models_among(bases: Mapping[str, frozenset[str]]) -> frozenset[str]:
    """The classes that derive, directly or by others of them, from one that is called as PyTorch's modules are."""
    known = _LIBRARY_BASES
    while more := {name for name, parents in bases.items() if name not in known and parents & known}:
        known |= more
    return frozenset(bases) & known


def hidden_models(pieces: Iterable[Piece]) -> dict[str, str]:
    """Models that an import does not reach, and where they stand: under a condition, or in a function."""
    places: dict[str, str] = {}
    for piece in pieces:
        try:
            tree = parse(piece.source)
        except SyntaxError:
            continue
        models = models_among(base_names(tree))
        for outer in tree.body:
            if isinstance(outer, ast.ClassDef):
                continue
            name = getattr(outer, "name", "")
            inside = f"in the function {name}" if name else f"under `{ast.unparse(outer).splitlines()[0][:60]}`"
            for node in ast.walk(outer):
                if isinstance(node, ast.ClassDef) and node.name in models:
                    places[node.name] = f"{inside} (line {node.lineno} of {piece.place})"
    return places
