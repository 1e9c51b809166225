"""Conversion of parsed TOML or JSON tables into frozen dataclasses.

Contracts, recipes, accuracy rules and run records are written by hand or by other programs. The fields of their
dataclasses define the allowed keys and the types of the values. An unknown key, a missing key or a value of another
type is an error; the message names the place, the value, the type of the value and the legal values, and suggests a
similar key or name.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import itertools
import json
import math
import sys
import tomllib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING
from decimal import Decimal
from typing import Any, Literal, TypeVar

from harness.errors import InputError

T = TypeVar("T")
_NUMBER = int | float | Decimal
# Larger than in any document of the harness, and far below Python's recursion limit.
_MAX_NESTING = 32
_MAX_SHOWN = 200


def parse_document(
    content: bytes,
    form: Literal["JSON", "TOML"],
    *,
    where: str,
    error: type[InputError],
    most_values: int = sys.maxsize,
) -> Any:  # noqa: ANN401 - any JSON
    """Parse a JSON or TOML document into plain data; ``where`` names the document and begins each error message.

    A document of someone who wants to exhaust the memory can be limited to some ``most_values``, texts and empty lists included.

    Raises:
        InputError: the document is malformed, too large or nested too deeply, or a number is not finite or has more than
            64 bits; the exception is of the class ``error``.
    """
    # A value follows each of these characters, which may also stand in a text.
    if sum(map(content.count, (b",", b"[", b"{"))) > most_values:
        raise error(f"{where}: expected a document of at most {most_values:,} values. Write less.")
    try:
        text = content.decode("utf-8-sig")
        document = json.loads(text) if form == "JSON" else tomllib.loads(text)
    except RecursionError:
        raise _too_deep(where, error) from None
    except (json.JSONDecodeError, tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise error(f"{where} is not valid {form}: {problem}. Correct the file, or name another one.") from problem
    except ValueError:
        # Python does not convert texts of more than 4,300 digits to integers.
        raise error(f"{where}: expected numbers of at most 64 bits, got a number of more than 4,000 digits.") from None
    require_plain(document, where=where, error=error)
    return document


def require_plain(document: object, *, where: str, error: type[InputError]) -> None:
    """Raise ``error`` if data are nested too deeply, or if a number is not finite or has more than 64 bits.

    ``where`` names the document and begins the error message.
    """
    # One iterator for each level: a list of all values could need more memory than the document.
    waiting: list[Iterator[tuple[str, object]]] = [iter([("", document)])]
    while waiting:
        key, value = next(waiting[-1], (None, None))
        if key is None:
            waiting.pop()
        elif isinstance(value, dict | list | tuple):
            if len(waiting) > _MAX_NESTING:
                raise _too_deep(where, error)
            named = value.items() if isinstance(value, dict) else zip(itertools.repeat(key), value, strict=False)
            waiting.append(iter(named))
        elif isinstance(value, int):
            if not -(2**63) <= value < 2**63:
                raise error(
                    f"{where}: expected {key} to have at most 64 bits, got a number of {value.bit_length():,} bits."
                )
        elif isinstance(value, float | Decimal) and not math.isfinite(value):
            raise error(f"{where}: expected {key} to be a finite number, got {key}={value}. Write a finite number.")


def _too_deep(where: str, error: type[InputError]) -> InputError:
    return error(f"{where}: expected lists and tables nested at most {_MAX_NESTING} deep, got deeper nesting.")


def printable(value: Any) -> Any:  # noqa: ANN401 - any JSON
    r"""Return JSON data with escape codes and other characters that are not printable written as ``\x1b`` in all texts."""
    if isinstance(value, str):
        return "".join(one if one.isprintable() or one in "\n\t" else ascii(one)[1:-1] for one in value)
    if isinstance(value, list):
        return [printable(one) for one in value]
    if isinstance(value, dict):
        return {printable(key): printable(one) for key, one in value.items()}
    return value


def shown(value: object) -> str:
    """Return the `repr` of a value, cut off after 200 characters, for use in a message."""
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def read_table(cls: type[T], table: object, *, where: str, error: type[InputError]) -> T:
    """Build the dataclass ``cls`` from a table that has a key for each field.

    Args:
        cls: a dataclass whose fields are str, bool, int, float, Decimal, a Literal, an Enum, a dataclass, a tuple or a
            mapping of these, None, Any (not checked), or another class (only instances of the class are accepted). In a
            union of dataclasses, the table's key ``name`` selects the dataclass whose class variable ``name`` has the
            same value.
        table: the table; anything but a mapping with text keys is an error.
        where: name of the table, such as a file and a section; each error message begins with ``where``.
        error: the class of exception to raise.

    Raises:
        InputError: a key is unknown or missing, a value has the wrong type, or ``cls`` or `require_plain` rejects a
            value; the exception is of the class ``error``.
    """
    require_plain(table, where=where, error=error)
    return _Place(where=where, error=error).read(cls, table)


def expect_mapping(value: object, *, where: str, error: type[InputError]) -> Mapping[str, Any]:
    """Return ``value`` if it is a mapping with text keys; otherwise raise ``error``."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise error(f"{where}: expected a table of keys and values, got {shown(value)} ({type(value).__name__}).")
    return value


def refuse_unknown(keys: Iterable[str], known: Iterable[str], *, where: str, error: type[InputError]) -> None:
    """Raise ``error`` for the first of ``keys`` that is not in ``known``; the message suggests a similar known key."""
    names = sorted(known)
    for key in keys:
        if key not in names:
            hint = f"{_suggestion(key, names)} Known keys: {', '.join(names)}."
            raise error(f"{where}: {shown(key)} is not a known key.{hint}")


def require(error: type[InputError], holds: bool, expected: str, **got: object) -> None:  # noqa: FBT001 - reads as a sentence at the call
    """Unless ``holds`` is true, raise ``error`` with a message that says what was expected and which values were given.

    Example: `require(RecipeError, lr > 0, "lr > 0", lr=lr)`.
    """
    if not holds:
        found = ", ".join(f"{name}={shown(value)}" for name, value in got.items())
        raise error(f"expected {expected}, got {found}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Range:
    """The legal values of a number, as annotation of a dataclass field: ``lr: Annotated[float, Range(above=0)]``.

    ``above`` and ``below`` exclude the limit itself, ``least`` and ``most`` include the limit.
    """

    above: float = -math.inf
    least: float = -math.inf
    most: float = math.inf
    below: float = math.inf

    def require(self, name: str, value: Any, error: type[InputError]) -> None:  # noqa: ANN401 - a number or a tuple of them
        """Raise ``error`` unless the number, or each number of a tuple, is within the range; None is accepted."""
        lower, sign = (self.above, ">") if self.above > -math.inf else (self.least, ">=")
        upper = f" < {_digits(self.below)}" if self.below < math.inf else ""
        upper = f" <= {_digits(self.most)}" if self.most < math.inf else upper
        expected = f"{name}{upper}" if upper else f"{name} {sign} {_digits(lower)}"
        if upper and lower > -math.inf:
            expected = f"{_digits(lower)} {sign.replace('>', '<')} {expected}"
        for number in value if isinstance(value, tuple) else () if value is None else (value,):
            is_number = isinstance(number, _NUMBER) and not isinstance(number, bool)
            holds = is_number and self.above < number < self.below and self.least <= number <= self.most
            require(error, holds, expected, **{name: value})


def _digits(bound: float) -> str:
    return f"{bound:,}" if isinstance(bound, int) else f"{bound:g}"


def require_ranges(settings: object, error: type[InputError]) -> None:
    """Raise ``error`` for the first field of a dataclass instance whose value is outside the `Range` in the annotation."""
    for name, hint in typing.get_type_hints(type(settings), include_extras=True).items():
        for legal in getattr(hint, "__metadata__", ()):
            legal.require(name, getattr(settings, name), error)


_WORDS: dict[object, str] = {str: "a text", bool: "true or false"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Place:
    """The position of a table in a document, for error messages, and the error class to raise."""

    where: str
    error: type[InputError]

    def read(self, cls: type[T], table: object) -> T:
        keys = expect_mapping(table, where=self.where, error=self.error)
        fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        refuse_unknown(keys, fields, where=self.where, error=self.error)
        required = [name for name, field in fields.items() if field.default is field.default_factory is MISSING]
        missing = [name for name in required if name not in keys]
        if missing:
            raise self.error(
                f"{self.where}: expected a value for {', '.join(missing)}, got none. Add the missing keys."
            )
        hints = typing.get_type_hints(cls)
        values = {name: self._convert(hints[name], value, name) for name, value in keys.items()}
        try:
            return cls(**values)
        except InputError as problem:
            raise self.error(f"{self.where}: {problem}") from None

    def _convert(self, hint: Any, value: Any, key: str) -> Any:  # noqa: ANN401 - a field may be of any type
        origin, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
        if hint is Any:
            return value
        if origin in (types.UnionType, typing.Union):
            return self._union(arguments, value, key)
        if origin in (tuple, list, Sequence):
            return self._sequence(origin, arguments, value, key)
        if origin is Mapping:
            items = expect_mapping(value, where=f"{self.where}, {key}", error=self.error).items()
            return {name: self._convert(arguments[1], item, f"{key}.{name}") for name, item in items}
        if dataclasses.is_dataclass(hint):
            return self._within(key).read(typing.cast("type[Any]", hint), value)
        if hint in (int, float, Decimal):
            return self._number(hint, value, key)
        if isinstance(hint, enum.EnumType) or origin is typing.Literal:
            legal = arguments or [member.value for member in typing.cast("type[enum.Enum]", hint)]
            if value not in legal:
                raise self._refusal(f"one of {', '.join(map(repr, legal))}", value, key)
            return value if arguments else hint(value)
        if not isinstance(value, hint):
            raise self._refusal(_WORDS.get(hint, f"a {getattr(hint, '__name__', hint)}"), value, key)
        return value

    def _union(self, hints: tuple[Any, ...], value: object, key: str) -> Any:  # noqa: ANN401 - a field may be of any type
        if value is None and type(None) in hints:
            return None
        kinds = [hint for hint in hints if hint is not type(None)]
        if len(kinds) == 1:
            return self._convert(kinds[0], value, key)
        place = self._within(key)
        table = dict(expect_mapping(value, where=place.where, error=self.error))
        named, name = {kind.name: kind for kind in kinds}, table.pop("name", None)
        if not isinstance(name, str) or name not in named:
            expected = f"one of {', '.join(sorted(named))}, got name={shown(name)}.{_suggestion(str(name), named)}"
            raise self.error(f"{place.where}: expected name to be {expected}")
        return dataclasses.replace(place, where=f"{place.where} ({name})").read(named[name], table)

    def _sequence(self, origin: Any, hints: tuple[Any, ...], value: object, key: str) -> Any:  # noqa: ANN401 - a field may be of any type
        any_length = origin is not tuple or hints[-1] is Ellipsis
        if not isinstance(value, list | tuple) or not (any_length or len(value) == len(hints)):
            raise self._refusal("a list" if any_length else f"a list of {len(hints)}", value, key)
        kinds = hints[:1] * len(value) if any_length else hints
        pairs = enumerate(zip(kinds, value, strict=True))
        items = [self._convert(kind, item, f"{key}[{index}]") for index, (kind, item) in pairs]
        return tuple(items) if origin is tuple else items

    def _number(self, hint: Any, value: Any, key: str) -> Any:  # noqa: ANN401 - a field may be of any type
        accepted = int if hint is int else _NUMBER
        # bool is a kind of int to Python, but `epochs = true` is a mistake.
        if isinstance(value, bool) or not isinstance(value, accepted):
            raise self._refusal("a whole number" if hint is int else "a number", value, key)
        # Converted from the text, a number written as 99.4 stays exactly 99.4.
        return Decimal(str(value)) if hint is Decimal else hint(value)

    def _within(self, key: str) -> _Place:
        return dataclasses.replace(self, where=f"{self.where}, {key}")

    def _refusal(self, expected: str, value: object, key: str) -> InputError:
        got = f"got {key}={shown(value)} ({type(value).__name__})."
        return self.error(f"{self.where}: expected {key} to be {expected}, {got}")


def _suggestion(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name[:_MAX_SHOWN], known, n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
