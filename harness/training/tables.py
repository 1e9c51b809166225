"""A table, as TOML or JSON gives it, into a frozen dataclass.

Recipes, run records and accuracy rules are all written by hand or by other programs. Their dataclasses say which keys exist and
of which type; this reader holds a table to that, so that a typing slip is named with the key that was probably meant instead
of being ignored.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, TypeVar

from harness.errors import InputError

T = TypeVar("T")


def read_table(cls: type[T], table: object, *, where: str, error: type[InputError]) -> T:
    """Build the dataclass ``cls`` from a table with one key a field.

    Args:
        cls: a dataclass whose fields are str, bool, int, float, Decimal, a Literal, a dataclass, a tuple of these, or None. Of
            several dataclasses, the table's own key ``name`` says which: each has a class variable ``name``.
        table: the table; anything but a mapping is an error.
        where: what the table is, for messages: a file, or the path of a section.
        error: the class to raise.

    Raises:
        InputError: as ``error``: an unknown or missing key, a value of another type, or one that ``cls`` refuses.
    """
    keys = expect_mapping(table, where=where, error=error)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    refuse_unknown(keys, fields, where=where, error=error)
    missing = [
        name
        for name, field in fields.items()
        if name not in keys and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        msg = f"{where}: expected a value for {', '.join(missing)}, got none. Add {'it' if len(missing) == 1 else 'them'}."
        raise error(msg)
    hints = typing.get_type_hints(cls)
    values = {name: _convert(hints[name], value, where=where, key=name, error=error) for name, value in keys.items()}
    try:
        return cls(**values)
    except InputError as problem:
        msg = f"{where}: {problem}"
        raise error(msg) from None


def expect_mapping(value: object, *, where: str, error: type[InputError]) -> Mapping[str, Any]:
    """``value`` itself when it is a table with text keys; ``error`` otherwise."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        msg = f"{where}: expected a table of keys and values, got {value!r} ({type(value).__name__})."
        raise error(msg)
    return value


def refuse_unknown(keys: Iterable[str], known: Iterable[str], *, where: str, error: type[InputError]) -> None:
    """Raise ``error`` for the first key that is not a known one, with the known key nearest to it."""
    names = sorted(known)
    for key in keys:
        if key not in names:
            near = difflib.get_close_matches(key, names, n=1)
            guess = f"Did you mean {near[0]!r}? " if near else ""
            msg = f"{where}: {key!r} is not a known key. {guess}Known keys: {', '.join(names)}."
            raise error(msg)


def _read_named(kinds: list[Any], table: object, *, where: str, error: type[InputError]) -> Any:  # noqa: ANN401 - any of kinds
    keys = dict(expect_mapping(table, where=where, error=error))
    named = {kind.name: kind for kind in kinds}
    name = keys.pop("name", None)
    if name not in named:
        near = difflib.get_close_matches(str(name), named, n=1)
        guess = f" Did you mean {near[0]!r}?" if near else ""
        msg = f"{where}: expected name to be one of {', '.join(sorted(named))}, got name={name!r}.{guess}"
        raise error(msg)
    return read_table(named[name], keys, where=f"{where} ({name})", error=error)


_NUMBERS: dict[object, tuple[tuple[type, ...], str]] = {
    int: ((int,), "a whole number"),
    float: ((int, float, Decimal), "a number"),
    Decimal: ((int, float, Decimal), "a number"),
}
_PLAIN: dict[object, str] = {str: "a text", bool: "true or false"}


def _convert(hint: Any, value: Any, *, where: str, key: str, error: type[InputError]) -> Any:  # noqa: ANN401 - any field type
    def refuse(expected: str) -> InputError:
        return error(f"{where}: expected {key} to be {expected}, got {key}={value!r} ({type(value).__name__}).")

    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        kinds = [argument for argument in arguments if argument is not type(None)]
        if len(kinds) == 1:
            return _convert(kinds[0], value, where=where, key=key, error=error)
        return _read_named(kinds, value, where=f"{where}, {key}", error=error)
    if origin is typing.Literal:
        if value not in arguments:
            raise refuse(f"one of {', '.join(map(repr, arguments))}")
        return value
    if origin is tuple:
        length = None if arguments[-1] is Ellipsis else len(arguments)
        if not isinstance(value, list | tuple) or (length is not None and len(value) != length):
            raise refuse("a list" if length is None else f"a list of {length}")
        items = arguments[:1] * len(value) if length is None else arguments
        return tuple(
            _convert(kind, item, where=where, key=f"{key}[{index}]", error=error)
            for index, (kind, item) in enumerate(zip(items, value, strict=True))
        )
    if dataclasses.is_dataclass(hint):
        return read_table(typing.cast("type[Any]", hint), value, where=f"{where}, {key}", error=error)
    if hint in _NUMBERS:
        accepted, expected = _NUMBERS[hint]
        # bool is a kind of int to Python, but `epochs = true` is a slip.
        if isinstance(value, bool) or not isinstance(value, accepted) or not math.isfinite(value):
            raise refuse(expected)
        # Through its text, a number written as 99.4 stays 99.4 exactly.
        return Decimal(str(value)) if hint is Decimal else hint(value)
    if not isinstance(value, hint):
        raise refuse(_PLAIN[hint])
    return value
