"""Model cards: published facts about a model, with their sources, read from ``cards/NAME.toml``.

A card repeats the figures of a document, correct or not. If the document, its code and its log disagree, the card lists
the disagreement under ``discrepancies``. Line numbers count from 1 and ranges include both ends; unless a document is
named, the numbers refer to the card's first source.
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
    """The place where a model is published: number of the document, section and lines, and the repository with the code."""

    document: str
    section: str
    lines: tuple[int, int]
    repository: str


@dataclass(frozen=True, kw_only=True)
class SummaryRow:
    """One operation in a published layer table; ``shape`` is (channels, height, width), or ``None`` if no shape is printed."""

    operation: str
    shape: tuple[int, int, int] | None = None
    parameters: int


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A published layer table: the rows in the printed order, and the printed total number of parameters.

    A ``torchsummary`` table lists calls in the order of execution; a ``torchinfo`` table lists modules in the order of
    declaration (containers are omitted here); with the format ``total`` only the total is printed.
    """

    format: Literal["torchsummary", "torchinfo", "total"]
    lines: tuple[int, int]
    total: int
    rows: tuple[SummaryRow, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The best accuracies that the text of the document claims, in percent as printed; epochs are counted from 1."""

    test_percent: str
    train_percent: str | None = None
    epoch: int | None = None
    lines: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class PublishedEpoch:
    """The results of one epoch in a published training log; epochs are counted from 1 even if the log starts at 0.

    ``printed_percent`` is the test accuracy as printed, with the printed number of digits; ``line`` is the line of the
    test results.
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
    """A disagreement between published figures, text and code.

    The kinds: ``count``: a printed percentage contradicts the printed count; ``claim``: a claimed figure differs from
    the log, or there is no log; ``structure``: text, code and layer table describe different networks; ``table``: a
    derived table is wrong; ``log``: the log is from another run than the document says; ``text``: the text contradicts itself or
    describes something else. ``what`` describes the disagreement.
    """

    kind: Literal["count", "claim", "structure", "table", "log", "text"]
    document: str
    lines: tuple[int, int]
    what: str


@dataclass(frozen=True, kw_only=True)
class Expected:
    """The expected outcome of the accuracy rule for the model under the contract on the card, and the reason."""

    outcome: Literal["meets", "misses"]
    reason: str


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """The published and measured facts about a shipped model.

    Args:
        name: name of the model in this package.
        title: a few words that describe the model in a list.
        description: one or two sentences that describe the network.
        parameters: exact number of declared parameters, all of which are trainable.
        contract: name of the built-in contract for the model.
        claims_target: whether the document claims a test accuracy of 99.4 % or more.
        cpu_minutes: approximate time of 15 epochs with the recipe on two CPU cores. ``five_step_4`` with batch size 128
            takes about three minutes. For other models, nine tenths of this time are scaled by the number of elements
            of all module outputs for an image (77,320 for ``five_step_4``), one tenth by the number of
            multiply-accumulates (1,032,048).
        expected: expected outcome of the accuracy rule, according to the published counts.
        sources: where the model is published; empty for models of this package.
        recipe: the training recipe, as plain data in the recipe format.
        recipe_provenance: which part of the recipe the document states, and where the rest was found.
        summary: the published layer table; None if there is none.
        claim: the accuracies that the document claims; None if there are none.
        log: the published training log; None if there is none.
        discrepancies: disagreements within the publication.
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
        ValueError: the card is malformed; the message names the file and the key.
    """
    file = f"{name}.toml"
    return parse_card(resources.files("mnist_models").joinpath("cards", file).read_text("utf-8"), file=file)


def parse_card(text: str, *, file: str) -> ModelCard:
    """Read a card from the text of a TOML file.

    Args:
        text: the content of the file.
        file: the name of the file, for error messages.

    Raises:
        ValueError: the text is not TOML, a key is unknown or missing, or a value has the wrong type; the message names
            the file and the key.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{file}: expected a card in TOML, got text that does not parse: {error}") from error
    return _record(ModelCard, table, file=file, key="")


def _record(kind: type[_Record], table: object, *, file: str, key: str) -> _Record:
    """Build the dataclass ``kind`` from a TOML table; the keys are the field names, the types are the annotations."""
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
    """Convert a TOML value to the type that the annotation ``kind`` names; ``key`` and ``file`` name the value in messages."""
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
