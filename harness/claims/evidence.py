"""What was read from documents, as plain typed data: claims, training runs, layer tables and receptive-field tables.

Numbers are exact: counts are integers, and a printed number is a `Decimal`, whose digits show its precision.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from functools import cached_property
from itertools import pairwise
from typing import Literal

DataPart = Literal["train", "test"]


@dataclass(frozen=True, kw_only=True)
class Place:
    """The position of a line: the file, and in a notebook the cell and, if it is not the source, the output; all from 1."""

    file: str
    line: int = 1
    cell: int | None = None
    output: int | None = None

    def __str__(self) -> str:
        if self.cell is None:
            return f"{self.file}:{self.line}"
        output = "" if self.output is None else f", output {self.output}"
        return f"{self.file}: cell {self.cell}{output}, line {self.line}"


@dataclass(frozen=True, kw_only=True)
class Quote:
    """A line of a document, with its place."""

    place: Place
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A printed number; ``scale`` is the unit of one, such as 1,000 for ``13.8k``."""

    printed: Decimal
    scale: int = 1

    @cached_property
    def exact(self) -> Fraction:
        """The printed number as it stands."""
        return Fraction(self.printed) * self.scale

    @cached_property
    def unit(self) -> Fraction:
        """The value of one unit of the last printed digit."""
        return Fraction(10) ** int(self.printed.as_tuple().exponent) * self.scale

    def rounds(self, value: Fraction) -> bool:
        """Whether the printed number is ``value``, rounded; a value halfway between may be rounded up or down."""
        return abs(self.exact - value) <= self.unit / 2

    def may_be(self, other: Figure) -> bool:
        """Whether one of the numbers is the other, rounded to as many digits."""
        coarse, fine = (self, other) if self.unit >= other.unit else (other, self)
        return coarse.exact == fine.exact or (coarse.unit > fine.unit and coarse.rounds(fine.exact))

    def __str__(self) -> str:
        return f"{self.printed:,f}" + {1: "", 1000: "k", 1_000_000: "M"}[self.scale]


def two_digits(value: Fraction) -> str:
    """Format a percentage with two decimals."""
    return f"{Decimal(value.numerator) / value.denominator:.2f}"


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """An accuracy as a log prints it: a percentage, a count of correct predictions, or both."""

    percent: Figure | None = None
    correct: int | None = None
    total: int | None = None

    @cached_property
    def exact(self) -> Fraction:
        """The percentage by the count if it is known, else the printed number."""
        if self.correct is not None and self.total:
            return Fraction(100 * self.correct, self.total)
        return self.percent.exact if self.percent else Fraction(0)

    def is_shown_by(self, figure: Figure) -> bool:
        """Whether a figure is this accuracy, rounded."""
        if self.percent is None or (self.correct is not None and self.total):
            return figure.rounds(self.exact)
        return figure.may_be(self.percent)

    def __str__(self) -> str:
        if self.correct is not None and self.total:
            return f"{self.correct:,} of {self.total:,} ({two_digits(self.exact)} %)"
        return f"{self.percent} %"


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One epoch of a run.

    ``label`` is the number that the log prints, in its ``heading``; the times are printed ones. ``validation`` is the
    accuracy on validation data, if the log prints it besides that on the test data.
    """

    label: int | None
    test: Accuracy
    test_quote: Quote
    test_loss: str | None = None
    validation: Accuracy | None = None
    heading: Quote | None = None
    train: Accuracy | None = None
    train_quote: Quote | None = None
    steps: int | None = None
    begun: datetime | None = None
    ended: datetime | None = None

    def of(self, part: DataPart) -> Accuracy | None:
        """The accuracy on one part of the data; the higher of those on validation and test data."""
        if part == "train" or self.validation is None:
            return self.train if part == "train" else self.test
        return max(self.test, self.validation, key=lambda one: one.exact)

    def exact(self, part: DataPart) -> Fraction:
        """The percentage on one part of the data; 0 if the log does not show it."""
        accuracy = self.of(part)
        return accuracy.exact if accuracy else Fraction(0)

    def quote(self, part: DataPart) -> Quote:
        """The line that prints the accuracy on one part of the data."""
        return self.train_quote if part == "train" and self.train_quote else self.test_quote


@dataclass(frozen=True, kw_only=True)
class Run:
    """A training log: its epochs in order.

    ``damaged`` is the number of results that could not be read; ``elided`` is whether a line says that others are left out.
    """

    section: Section
    epochs: tuple[Epoch, ...]
    damaged: int = 0
    elided: bool = False

    @property
    def labels(self) -> tuple[int, ...]:
        """The numbers of the epochs that the log prints."""
        return tuple(epoch.label for epoch in self.epochs if epoch.label is not None)

    @property
    def is_excerpt(self) -> bool:
        """Whether epochs are left out, by the numbers of the others or by a line that says so."""
        return (
            self.elided or self.labels[:1] > (1,) or any(after - before > 1 for before, after in pairwise(self.labels))
        )


@dataclass(frozen=True, kw_only=True)
class Section:
    """The part of a document that speaks of one model. ``key`` is the model's number, or None where no heading names one."""

    file: str
    key: str | None
    title: str


Bound = Literal["", "<", "<=", ">", ">="]
_COMPARISONS: dict[str, Callable[[Fraction, Fraction], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
ClaimKind = Literal[
    "parameters", "accuracy", "best", "at least", "consistent", "epochs", "batch size", "receptive field"
]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A figure that a document states.

    Args:
        kind: what the figure is.
        part: the part of the data of an accuracy; None if the text does not say.
        value: the figure.
        bound: the comparison before the figure, such as ``<``, or empty.
        epoch: the epoch that the document names for an accuracy, as it counts epochs.
        last: number of last epochs of a claim of consistency; None if the text does not say.
        others: further figures that the line gives for the same, such as a batch size for another device.
        mentions: the models that the sentence names.
        labelled: whether the figure stands behind a label, such as ``Parameters: 13.8k``, and not in a sentence.
        variant: the heading above, if it names a variant of the section's model, such as ``With BatchNorm``.
        printed: whether a program printed it, and not the author wrote it.
        target: whether the text states an aim instead of a result.
        met: whether the text says that the aim is met.
    """

    kind: ClaimKind
    section: Section
    quote: Quote
    value: Figure
    part: DataPart | None = None
    bound: Bound = ""
    epoch: int | None = None
    last: int | None = None
    others: tuple[Figure, ...] = ()
    mentions: tuple[str, ...] = ()
    labelled: bool = False
    variant: str = ""
    printed: bool = False
    target: bool = False
    met: bool = False

    def allows(self, value: Fraction) -> bool:
        """Whether a value meets the bound, at least the figure if none is stated, which may be rounded if it is no aim."""
        if not self.bound and not self.met and self.value.rounds(value):
            return True
        return _COMPARISONS[self.bound or ">="](value, self.value.exact)


@dataclass(frozen=True, kw_only=True)
class LayerRow:
    """A row of a layer table; ``shape`` is the output's without the batch, None if the table does not show it."""

    operation: str
    shape: tuple[int, ...] | None
    parameters: int
    quote: Quote


TableForm = Literal["torchsummary", "torchinfo", "keras", "print", "total"]


@dataclass(frozen=True, kw_only=True)
class LayerTable:
    """A layer summary. ``total`` is the printed total; ``complete`` is false if a row could not be read."""

    form: TableForm
    section: Section
    rows: tuple[LayerRow, ...]
    total: int | None
    quote: Quote
    complete: bool = True


@dataclass(frozen=True, kw_only=True)
class FieldRow:
    """A row of a receptive-field table; what the table does not show is None."""

    name: str
    field: int | None
    kernel: int | None
    stride: int | None
    size_in: int | None
    size_out: int | None
    quote: Quote
    dilation: int | None = 1


@dataclass(frozen=True, kw_only=True)
class CodeModel:
    """A captured model.

    Args:
        section: the file of the code, or the document and section of a code block.
        total: number of parameters; ``unreached`` of them belong to modules that forward never calls, ``never_called``.
        layers: operation and output shape, without the batch, of each layer with a window or weights.
        fields: the sizes that may be called the receptive field: before the head's pooling and behind it, unbounded and
            clipped to the image.
    """

    section: Section
    total: int
    unreached: int
    never_called: tuple[str, ...]
    layers: tuple[tuple[str, tuple[int, ...]], ...]
    fields: frozenset[int]


@dataclass(frozen=True, kw_only=True)
class Unread:
    """Something that could not be read, and why."""

    place: Place
    reason: str


@dataclass(frozen=True, kw_only=True)
class Reading:
    """All that was read from one document, in the order of its lines.

    ``fields`` are the receptive-field tables; ``counts`` the printed counts that have a percentage beside them;
    ``sections`` those with a model's number.
    """

    file: str
    claims: tuple[Claim, ...] = ()
    runs: tuple[Run, ...] = ()
    tables: tuple[LayerTable, ...] = ()
    fields: tuple[tuple[FieldRow, ...], ...] = ()
    counts: tuple[tuple[Accuracy, Quote], ...] = ()
    sections: tuple[Section, ...] = ()
    unread: tuple[Unread, ...] = ()
    code: tuple[tuple[Section, str], ...] = ()
    stops_early: bool = False
    characters: int = 0
