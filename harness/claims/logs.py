"""Training logs: lines become epochs, and epochs become runs."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from harness.claims.documents import Line
from harness.claims.evidence import Accuracy, Epoch, Quote, Run, Section, Unread
from harness.claims.grammar import PATTERNS, count, percentage, quote_of

# A result without an epoch's number belongs to the last heading if it follows within so many lines.
_NEAR = 12
# The test sets of MNIST and its relatives have 10,000 images, the training sets 50,000 or 60,000.
_TRAIN_TOTAL = 45_000
_DAMAGED = re.compile(r"[\d.,]\ufffd|\ufffd[\d.,]")
_RESULT_WORDS = ("acc", "correct")
# Words in a row, as no log has them
_SENTENCE = re.compile(r"(?:\b[a-z]{2,20} ){3}[a-z]{2,20}\b")
_LABEL = re.compile(r"\b(?:train|test|val|eval)", re.IGNORECASE)
_TEST_LOSSES = ("test", "testing", "val", "valid", "validation", "eval", "evaluation")

_Part = Literal["train", "validation", "test"]


@dataclass(frozen=True, kw_only=True)
class _Begun:
    """What the log has printed of an epoch before its test result; ``shown`` if there was more than a heading."""

    label: int | None = None
    heading: Quote | None = None
    at: int = -_NEAR
    train: Accuracy | None = None
    train_quote: Quote | None = None
    steps: int | None = None
    begun: datetime | None = None
    shown: bool = False


class LogReader:
    """Reads the lines of training logs, one after another.

    A run ends where the numbers of its epochs start again, and where the caller ends it. A repeated line, and an evaluation
    after the last epoch, add no epoch.
    """

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.counts: list[tuple[Accuracy, Quote]] = []
        self.unread: list[Unread] = []
        self._section = Section(file="", key=None, title="")
        self._epochs: list[Epoch] = []
        self._now = _Begun()
        self._damaged = 0
        self._elided = False
        self._number = 0
        self._part: _Part = "test"

    def read(self, line: Line, text: str, lowered: str, section: Section) -> bool:
        """Read a line, whose plain text and section are given; return whether it is part of a log."""
        self._number += 1
        self._section = section
        self._elided = self._elided or bool(PATTERNS["left out"].find(text, lowered))
        is_result = any(word in lowered for word in _RESULT_WORDS)
        heading = PATTERNS["epoch"].find(text, lowered)
        if heading and not _is_heading(heading["rest"].lower(), text):
            heading = None
        if not (is_result or heading or "%|" in text):
            return False
        if "\ufffd" in text and _DAMAGED.search(text):
            self.unread.append(Unread(place=line.place, reason="a figure has damaged characters"))
            if not _SENTENCE.search(lowered):
                self._damaged += 1
                self._now = replace(self._now, shown=True)
            return True
        if heading:
            self.begin(int(heading["epoch"]), line, text)
        is_result = is_result and not PATTERNS["progress"].find(text, lowered)
        return self._bar(line, text, lowered) or (is_result and self._result(line, text, lowered)) or bool(heading)

    def begin(self, label: int, line: Line, text: str) -> None:
        """Begin the epoch that the log numbers ``label``."""
        if self._now.label == label:
            self._now = replace(self._now, at=self._number)
            return
        last = self._epochs[-1].label if self._epochs else None
        if last is not None and label < last:
            self.end()
        self._now = _Begun(label=label, heading=quote_of(line), at=self._number, begun=_time(text))

    def _bar(self, line: Line, text: str, lowered: str) -> bool:
        """Read the progress bar of an epoch of training."""
        bar, steps = PATTERNS["bar"].last(text, lowered), PATTERNS["steps"].last(text, lowered)
        if bar:
            train = Accuracy(percent=percentage(bar["percent"]))
            count = int(steps["steps"]) if steps else int(bar["batch"]) + 1
            self._now = replace(self._now, train=train, train_quote=quote_of(line), steps=count, shown=True)
        return bool(bar or steps)

    def _result(self, line: Line, text: str, lowered: str) -> bool:
        """Read the test result of an epoch, or a train result of the same form; the best so far is none."""
        if best := PATTERNS["best"].find(text, lowered):
            self._note_counts(text[best.start() : best.start("tail")], line)
            text = text[: best.start()] + text[best.start("tail") :]
            lowered = text.lower()
        counted = PATTERNS["count"].last(text, lowered) or PATTERNS["percent and count"].last(text, lowered)
        if counted := counted or PATTERNS["bare count"].last(text, lowered):
            return self._count(counted, line, text, lowered)
        expected = self._now.shown or self._number - self._now.at <= _NEAR
        if keras := PATTERNS["keras test"].last(text, lowered):
            train, steps = PATTERNS["keras train"].last(text, lowered), PATTERNS["keras steps"].find(text, lowered)
            done = int(steps["steps"]) if steps and int(steps["steps"]) < _TRAIN_TOTAL else None
            of: dict[_Part, str] = {"validation": keras["percent"]}
            of |= {"train": train["percent"]} if train else {}
            self._now = replace(self._now, steps=done)
        elif expected and "new best" not in lowered:
            found = [*PATTERNS["part accuracy"].regex.finditer(text)] or [*PATTERNS["percent"].regex.finditer(text)][:1]
            of = {_part(one["part"]): one["percent"] for one in found}
        else:
            return False
        if "train" in of:
            train_accuracy = Accuracy(percent=percentage(of["train"]))
            self._now = replace(self._now, train=train_accuracy, train_quote=quote_of(line), shown=True)
        for part in of.keys() - {"train"}:
            self.add(Accuracy(percent=percentage(of[part])), _loss(text, lowered), line, part)
        return bool(of)

    def _note_counts(self, text: str, line: Line) -> None:
        """Note a count of correct predictions with its percentage that is no result of an epoch."""
        for found in PATTERNS["count"].regex.finditer(text):
            accuracy = Accuracy(
                percent=percentage(found["percent"]), correct=count(found["correct"]), total=count(found["total"])
            )
            self.counts.append((accuracy, quote_of(line)))

    def _count(self, found: re.Match[str], line: Line, text: str, lowered: str) -> bool:
        """Read a result with a count of correct predictions."""
        percent = percentage(found["percent"]) if "percent" in found.groupdict() else None
        correct, total = count(found["correct"]), count(found["total"])
        accuracy = Accuracy(percent=percent, correct=correct, total=total)
        if percent is not None:
            self.counts.append((accuracy, quote_of(line)))
        label = _LABEL.findall(text, 0, found.start())
        part = _part(label[-1]) if label else "test"
        # Some programs call both results "Test set"; only their totals tell them apart.
        if total >= _TRAIN_TOTAL or part == "train":
            self._now = replace(self._now, train=accuracy, train_quote=quote_of(line), shown=True)
            return True
        if "loss" not in lowered and not self._now.shown and self._number - self._now.at > _NEAR:
            return False
        self.add(accuracy, _loss(text, lowered), line, part)
        return True

    def add(self, test: Accuracy, loss: str | None, line: Line, part: _Part = "test") -> None:
        """Add an epoch to the current run, unless its line repeats the last one or is an evaluation after the last epoch.

        Of an epoch with a result on validation and one on test data, both are kept.
        """
        now, last = self._now, self._epochs[-1] if self._epochs else None
        if last is not None:
            if part != self._part and not last.validation and not now.shown and now.label in {None, last.label}:
                of_test = {"test": test, "test_quote": quote_of(line), "test_loss": loss, "validation": last.test}
                self._epochs[-1] = replace(last, **(of_test if part == "test" else {"validation": test}))
                self._now = _Begun()
                return
            repeated = (last.test, last.test_loss) == (test, loss) and (not now.shown or now.train == last.train)
            if now.label is None and (repeated or last.label is not None):
                return
            if now.label is not None and now.label == last.label:
                if repeated:
                    self._now = _Begun()
                    return
                self.end()
        kept: dict[str, Any] = {name: value for name, value in vars(now).items() if name not in {"at", "shown"}}
        ended = _time(line.text)
        self._epochs.append(Epoch(test=test, test_quote=quote_of(line), test_loss=loss, ended=ended, **kept))
        self._now, self._part = _Begun(), part

    def add_row(self, label: int, train: str | None, test: str, loss: str | None, line: Line, section: Section) -> None:
        """Add an epoch that a row of a table shows."""
        self._section = section
        self.begin(label, line, line.text)
        if train:
            self._now = replace(self._now, train=Accuracy(percent=percentage(train)), train_quote=quote_of(line))
        self.add(Accuracy(percent=percentage(test)), loss, line)

    def end(self) -> None:
        """End the current run, and an epoch without a result."""
        if self._epochs:
            epochs = tuple(self._epochs)
            self.runs.append(Run(section=self._section, epochs=epochs, damaged=self._damaged, elided=self._elided))
        self._epochs, self._damaged, self._elided, self._now = [], 0, False, _Begun()

    def cut(self) -> None:
        """Note that the rest of the current run is not read."""
        self._damaged += 1

    @property
    def moment(self) -> tuple[int, int]:
        """The number of the current run, and of its epochs so far."""
        return len(self.runs), len(self._epochs)

    @property
    def items(self) -> int:
        """The number of results that are held."""
        return len(self.counts) + len(self._epochs) + len(self.unread) + len(self.runs)


def _is_heading(rest: str, text: str) -> bool:
    """Whether a line that begins with an epoch's number is a log's: nothing or figures follow, and no sentence."""
    return not re.search("[a-z]", rest) or "loss" in rest or bool(PATTERNS["part accuracy"].regex.search(text))


def _part(word: str) -> _Part:
    """The part of the data that a word such as ``Val`` names."""
    return "train" if word[:2].lower() == "tr" else "validation" if word[:2].lower() == "va" else "test"


def _loss(text: str, lowered: str) -> str | None:
    """The test loss of a line, as printed."""
    if "loss" not in lowered:
        return None
    losses = {one["part"].lower(): one["loss"] for one in PATTERNS["part loss"].regex.finditer(text)}
    single = PATTERNS["keras loss"].last(text, lowered) or PATTERNS["loss"].last(text, lowered)
    return next((losses[part] for part in _TEST_LOSSES if part in losses), single["loss"] if single else None)


def _time(text: str) -> datetime | None:
    found = PATTERNS["time"].find(text, text)
    try:
        return datetime.fromisoformat(found["time"]) if found else None
    except ValueError:
        return None
