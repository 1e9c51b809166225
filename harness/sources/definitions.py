"""Extracting the definitions of a file or a notebook from its syntax tree, without running the code.

A notebook mixes definitions with downloads, plots and training. Only imports, classes, functions and simple constants
are extracted. A simple constant is built from literals, names, attributes and operators, without a call.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from harness.sources.cells import Cell, parse, parsed

_LITERALS = (ast.Constant, ast.Tuple, ast.List, ast.Dict, ast.Set)
_REFERENCES = (ast.Name, ast.Attribute, ast.Subscript, ast.Slice, ast.expr_context)
_OPERATIONS = (ast.UnaryOp, ast.BinOp, ast.BoolOp, ast.Compare, ast.IfExp)
_OPERATORS = (ast.operator, ast.unaryop, ast.boolop, ast.cmpop)
_SIMPLE = (*_LITERALS, *_REFERENCES, *_OPERATIONS, *_OPERATORS)
# The header of a class in text that cannot be parsed, on a line of its own or in a string of a notebook's JSON.
_CLASS_HEAD = re.compile(r"(?m)(?:^|\")[ \t]*class[ \t]+(\w+)[ \t]*\(([^()]*)\)[ \t]*:")
_LIBRARY_BASES = frozenset({"LightningModule", "Module", "Sequential"})


@dataclass(frozen=True, kw_only=True)
class Definition:
    """An extracted statement, with the name of its cell and the names that the statement binds: ``*`` for an ``import *``."""

    place: str
    node: ast.stmt
    names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Definitions:
    """The statements extracted from a sequence of cells, in order, and the names that skipped code affects.

    ``skipped`` maps names to a sentence on the skipped code that binds them; ``altered`` maps classes to a sentence on
    the skipped code that redefines or changes them. ``notes`` has a message for each cell that is not valid Python and
    each class that is defined repeatedly.
    """

    taken: tuple[Definition, ...]
    skipped: Mapping[str, str]
    altered: Mapping[str, str]
    notes: tuple[str, ...]


def read_definitions(cells: Iterable[Cell], *, start: int = 0) -> Definitions:
    """Extract the definitions of the cells, without statements that end before line ``start`` of a cell."""
    taken: list[Definition] = []
    skipped: dict[str, str] = {}
    altered: dict[str, str] = {}
    notes: list[str] = []
    class_places: dict[str, list[str]] = {}
    for cell in cells:
        try:
            tree = parse(cell.source)
        except SyntaxError as error:
            reason = f"it is not valid Python ({error.msg}, line {error.lineno})"
            notes.append(f"{cell.place} is left out: {reason}")
            altered.update(dict.fromkeys(bases_in_text(cell.source), f"{cell.place} defines it, and {reason}"))
            continue
        for statement in tree.body:
            if (statement.end_lineno or 0) < start:
                continue
            definitions = list(_definitions(statement, cell.place))
            names = {name for definition in definitions for name in definition.names}
            for name in _bound_names(statement) - names:
                skipped[name] = f"it is assigned in line {statement.lineno} of {cell.place}, by code that is not run"
            for name in names:
                skipped.pop(name, None)
                altered.pop(name, None)
            if not definitions:
                where = f"line {statement.lineno} of {cell.place} changes it, and is not run"
                altered.update(dict.fromkeys(_replaced_names(statement), where))
            taken.extend(definitions)
            if isinstance(statement, ast.ClassDef):
                class_places.setdefault(statement.name, []).append(cell.place)
    notes.extend(
        f"{name} is defined {len(places)} times ({', '.join(places)}); the last definition is used"
        for name, places in class_places.items()
        if len(places) > 1
    )
    return Definitions(taken=tuple(taken), skipped=skipped, altered=altered, notes=tuple(notes))


def _definitions(statement: ast.stmt, place: str) -> Iterator[Definition]:
    match statement:
        case ast.Import(names=names) | ast.ImportFrom(names=names):
            bound = tuple((alias.asname or alias.name).partition(".")[0] for alias in names)
            yield Definition(place=place, node=statement, names=bound)
        case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            yield Definition(place=place, node=statement, names=(name,))
        case ast.Assign(targets=targets, value=value) if _is_simple(value) and all(map(_is_target, targets)):
            yield Definition(place=place, node=statement, names=tuple(sorted(_bound_names(statement))))
        case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value) if _is_simple(value):
            yield Definition(place=place, node=statement, names=(name,))
        case ast.Try(body=body):
            # `try: import x` / `except: !pip install x`
            for inner in body:
                if isinstance(inner, ast.Import | ast.ImportFrom):
                    yield from _definitions(inner, place)


def _is_simple(value: ast.expr) -> bool:
    return all(isinstance(node, _SIMPLE) for node in ast.walk(value))


def _is_target(target: ast.expr) -> bool:
    """Return whether an assignment target is a name, an attribute of a name as in ``Net.forward = f``, or a tuple of these."""
    if isinstance(target, ast.Tuple):
        return all(map(_is_target, target.elts))
    return isinstance(target, ast.Name) or (isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name))


def _replaced_names(statement: ast.stmt) -> set[str]:
    """Return the names that a statement rebinds or sets an attribute of.

    A statement such as ``Net = Net()`` changes no class and is left out.
    """
    if not isinstance(statement, ast.Assign | ast.AugAssign | ast.AnnAssign) or statement.value is None:
        return set()
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    changed = {target.id for target in targets if isinstance(target, ast.Name)}
    owners = (target.value for target in targets if isinstance(target, ast.Attribute))
    changed |= {owner.id for owner in owners if isinstance(owner, ast.Name)}
    calls = (node.func for node in ast.walk(statement.value) if isinstance(node, ast.Call))
    return changed - {function.id for function in calls if isinstance(function, ast.Name)}


def _bound_names(statement: ast.stmt) -> set[str]:
    """Return the names that a statement binds in the module, including those bound in branches and loops."""
    if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return {statement.name}
    names = {node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    inner = (node for node in ast.iter_child_nodes(statement) if isinstance(node, ast.stmt))
    return names.union(*map(_bound_names, inner))


def base_names(cells: Iterable[Cell]) -> dict[str, frozenset[str]]:
    """Map each class, nested ones included, to its bases' names without their prefix: ``Module`` for ``nn.Module``."""
    found: dict[str, frozenset[str]] = {}
    for cell in cells:
        try:
            nodes = [node for node in ast.walk(parse(cell.source)) if isinstance(node, ast.ClassDef)]
            bases = [
                (node.name, {getattr(base, "attr", getattr(base, "id", "")) for base in node.bases}) for node in nodes
            ]
        except SyntaxError:
            bases = [(name, set(parents)) for name, parents in bases_in_text(cell.source).items()]
        for name, parents in bases:
            # A class may derive from an earlier class of the same name.
            found[name] = found.get(name, frozenset()) | parents
    return found


def bases_in_text(text: str) -> dict[str, frozenset[str]]:
    """Return the same as `base_names` for text that cannot be parsed, by matching class headers with a regular expression."""
    heads = (match.groups() for match in _CLASS_HEAD.finditer(text))
    return {name: frozenset(base.rpartition(".")[2].strip() for base in bases.split(",")) for name, bases in heads}


def import_depth(cells: Iterable[Cell]) -> int:
    """Return the largest number of leading dots in the relative imports of the cells."""
    nodes = (node for _, tree in parsed(cells) for node in ast.walk(tree))
    return max((node.level for node in nodes if isinstance(node, ast.ImportFrom)), default=0)


def models_among(bases: Mapping[str, frozenset[str]]) -> frozenset[str]:
    """Return the names of classes that derive, even indirectly, from ``Module``, ``Sequential`` or ``LightningModule``."""
    derived: dict[str, list[str]] = {}
    for name, parents in bases.items():
        for parent in parents:
            derived.setdefault(parent, []).append(name)
    known, waiting = set(_LIBRARY_BASES), [*_LIBRARY_BASES]
    while waiting:
        more = set(derived.get(waiting.pop(), ())) - known
        known |= more
        waiting += more
    return frozenset(bases) & known


def hidden_models(cells: Iterable[Cell]) -> dict[str, str]:
    """Map each model class defined inside a function or another block, not at the top level, to a phrase on the place."""
    places: dict[str, str] = {}
    for cell, tree in parsed(cells):
        models = models_among(base_names((cell,)))
        for outer in tree.body:
            if isinstance(outer, ast.ClassDef):
                continue
            name = getattr(outer, "name", "")
            inside = f"in the function {name}" if name else f"under `{ast.unparse(outer).splitlines()[0][:60]}`"
            for node in ast.walk(outer):
                if isinstance(node, ast.ClassDef) and node.name in models:
                    places[node.name] = f"{inside} (line {node.lineno} of {cell.place})"
    return places
