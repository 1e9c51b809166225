"""Model cards: what is published about a model, as data with its source, read from ``cards/NAME.toml``.

A card repeats the figures of a document, correct or not; where the document, its code and its log disagree, the card
lists that under ``discrepancies``. Line numbers count from 1 and ranges include both ends; unless a document is named, they are
lines of the card's first source.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from dataclasses import dataclass
from importlib import resources
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_Record = TypeVar("_Record", bound="DataclassInstance")


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a model is published: a document's number, its section and lines, and the repository behind it."""

    document: str
    section: str
    lines: tuple[int, int]
    repository: str


@dataclass(frozen=True, kw_only=True)
class SummaryRow:
    """One operation of a published layer table; shape is (channels, height, width), ``None`` where none is printed."""

    operation: str
    shape: tuple[int, int, int] | None = None
    parameters: int


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A published layer table, its rows in the printed order, and the printed total.

    ``torchsummary`` tables list calls in the order of execution, ``torchinfo`` tables list modules in the order of
    declaration (containers are left out here), ``total`` means that only the total is printed.
    """

    format: Literal["torchsummary", "torchinfo", "total"]
    lines: tuple[int, int]
    total: int
    rows: tuple[SummaryRow, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The best accuracies that the document's text claims, in percent as printed; the epoch counts from 1."""

    test_percent: str
    train_percent: str | None = None
    epoch: int | None = None
    lines: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class PublishedEpoch:
    """One epoch of the published log; epochs are numbered from 1 even where the log starts at 0.

    ``printed_percent`` is the text as printed, with its number of digits; ``line`` is the line of the test figures.
    """

    epoch: int
    train_percent: float | None = None
    test_loss: float
    correct: int
    total: int
    printed_percent: str
    line: int


@dataclass(frozen=True, kw_only=True)
class Log:
    """A published training log, one entry for each epoch."""

    lines: tuple[int, int]
    epochs: tuple[PublishedEpoch, ...]


@dataclass(frozen=True, kw_only=True)
class Discrepancy:
    """A place where the published figures, text and code disagree.

    The kinds: ``count`` a printed percentage contradicts its own count, ``claim`` a claimed figure differs from the
    log or has no log, ``structure`` text, code and layer table describe different networks, ``table`` a derived table is
    wrong, ``log`` the log is not of the run that it seems to be, ``text`` the text contradicts itself or describes
    something else.
    """

    kind: Literal["count", "claim", "structure", "table", "log", "text"]
    document: str
    lines: tuple[int, int]
    what: str


@dataclass(frozen=True, kw_only=True)
class Expected:
    """The expected outcome of the consistency rule for the model under its contract, and the reason."""

    outcome: Literal["meets", "misses"]
    reason: str


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What is known about a shipped model.

    Args:
        name: the model's name in this package.
        title: a few words for a listing.
        description: what the network is, in a sentence or two.
        parameters: exact number of parameters, declared and trainable.
        contract: name of the built-in contract for the model.
        claims_target: whether the document claims 99.4 % or more on the test set.
        cpu_minutes: rough time of 15 epochs by the recipe on two CPU cores. ``five_step_4`` at batch 128 takes about
            three minutes, nine tenths of them in proportion to the numbers that its modules write for an image (77,320),
            one tenth to its multiply-accumulates (1,032,048); the other models follow from their own two figures.
        expected: outcome of the consistency rule, by the published counts.
        sources: where it is published; empty for a model of our own.
        recipe: how it is trained, as plain data in the recipe format.
        recipe_provenance: which part of the recipe the document states, and where the rest was found.
        summary: the published layer table, if there is one.
        claim: the accuracies the document claims, if any.
        log: the published training log, if there is one.
        discrepancies: where the publication contradicts itself.
    """

    name: str
    title: str
    description: str
    parameters: int
    contract: Literal["reference", "era-s7", "five-steps"]
    claims_target: bool
    cpu_minutes: float
    expected: Expected
    sources: tuple[Source, ...] = ()
    recipe: dict[str, Any]
    recipe_provenance: str
    summary: Summary | None = None
    claim: Claim | None = None
    log: Log | None = None
    discrepancies: tuple[Discrepancy, ...] = ()


def read_card(name: str) -> ModelCard:
    """Read the card of a shipped model.

    Raises:
        FileNotFoundError: there is no card of that name.
        ValueError: the card is malformed; the message names file and key.
    """
    file = f"{name}.toml"
    return parse_card(resources.files("mnist_models").joinpath("cards", file).read_text("utf-8"), file=file)


def parse_card(text: str, *, file: str) -> ModelCard:
    """Read a card from the text of its TOML file.

    Args:
        text: the file's content.
        file: the file's name, for messages.

    Raises:
        ValueError: the text is not TOML, a key is unknown or missing, or a value has the wrong type; the message names
            file and key.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{file}: expected a card in TOML, got text that does not parse: {error}") from error
    return _record(ModelCard, table, file=file, key="")


def _record(kind: type[_Record], table: object, *, file: str, key: str) -> _Record:
    """A dataclass from a TOML table: its fields are the keys, their annotations the types."""
    where = f"at {key}" if key else "at the top"
    if not isinstance(table, dict):
        raise _mismatch(table, expected="a table", file=file, key=key)
    hints = get_type_hints(kind)
    for unknown in table.keys() - hints.keys():
        close = difflib.get_close_matches(unknown, hints, n=1)
        remedy = f"did you mean {close[0]}?" if close else f"remove it; the keys here are {', '.join(hints)}."
        raise ValueError(f"{file}: expected only known keys {where}, got {unknown}={table[unknown]!r}; {remedy}")
    for field in dataclasses.fields(kind):
        if field.name not in table and field.default is dataclasses.MISSING:
            raise ValueError(f"{file}: expected a key {field.name} {where}, got none; add {field.name} to the card.")
    prefix = f"{key}." if key else ""
    return kind(**{name: _value(hints[name], value, file=file, key=prefix + name) for name, value in table.items()})


def _value(kind: Any, value: Any, *, file: str, key: str) -> Any:  # noqa: ANN401 - annotations in, TOML values out
    """A TOML value as the type that an annotation names; an optional value that is absent has no key."""
    origin, arguments = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _record(kind, value, file=file, key=key)
    if origin is UnionType:
        return _value(arguments[0], value, file=file, key=key)
    if origin is Literal:
        if value in arguments:
            return value
        raise _mismatch(value, expected=f"one of {', '.join(arguments)}", file=file, key=key)
    if origin is tuple:
        if not isinstance(value, list):
            raise _mismatch(value, expected="an array", file=file, key=key)
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(kinds) != len(value):
            raise _mismatch(value, expected=f"{len(kinds)} values", file=file, key=key)
        items = enumerate(zip(kinds, value, strict=True))
        return tuple(_value(item_kind, item, file=file, key=f"{key}[{at}]") for at, (item_kind, item) in items)
    plain = origin or kind
    if plain is float and type(value) is int:
        return float(value)
    if type(value) is not plain:
        raise _mismatch(value, expected=f"a value of type {plain.__name__}", file=file, key=key)
    return value


def _mismatch(value: object, *, expected: str, file: str, key: str) -> ValueError:
    kind = type(value).__name__
    return ValueError(f"{file}: expected {expected} at {key}, got {key}={value!r} of type {kind}; correct the card.")
