"""The forms of lines that carry claims or evidence, which ``grammar.toml`` defines, and the words that a reader knows."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from decimal import Decimal
from importlib import resources
from typing import Any

from harness.claims.documents import Line
from harness.claims.evidence import Bound, Figure, Quote


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """A form of line: ``words`` are lower-case texts, one of which each such line has; ``example`` is one such line."""

    words: tuple[str, ...]
    regex: re.Pattern[str]
    example: str

    def find(self, text: str, lowered: str) -> re.Match[str] | None:
        """Return the first match in a line; ``lowered`` is the line in lower case."""
        return self.regex.search(text) if any(word in lowered for word in self.words) else None

    def last(self, text: str, lowered: str) -> re.Match[str] | None:
        """Return the last match in a line, such as the last of several progress bars printed without a line break."""
        found = [*self.regex.finditer(text)] if any(word in lowered for word in self.words) else []
        return found[-1] if found else None


def _read(document: dict[str, Any]) -> dict[str, Pattern]:
    patterns = {}
    for name, table in document["patterns"].items():
        regex = table["regex"]
        for fragment, text in document["fragments"].items():
            regex = regex.replace(f"{{{fragment}}}", text)
        compiled = re.compile(regex, re.IGNORECASE)
        patterns[name] = Pattern(words=tuple(table["words"]), regex=compiled, example=table["example"])
    return patterns


_DOCUMENT = tomllib.loads(resources.files("harness.claims").joinpath("grammar.toml").read_text("utf-8"))
FRAGMENTS: dict[str, str] = _DOCUMENT["fragments"]
PATTERNS = _read(_DOCUMENT)
COLUMNS = {title: column for column, titles in _DOCUMENT["columns"].items() for title in titles}

# Sentences with such words say what is wanted, not what was found; or that something was not reached.
TARGET = re.compile(
    r"\b(?:targets?|goals?|aim(?:ed|s)?|objective|should|must|needs?|needed|wants?|requirements?|required?|expected|constraints?|"
    r"try|trying|next|not able|unable|could ?n[o']t|can ?n[o']t|did ?n[o']t|still not|falls? short|fail(?:s|ed)?|asked|hope|"
    r"would|if|without|stuck)\b",
    re.IGNORECASE,
)
TARGET_HEADING = re.compile(
    r"\b(?:targets?|aims?|goals?|objectives?|constraints?|requirements?|problem|task)\b", re.IGNORECASE
)
# "Aim:" or "Aim of the assignment" above a list
TARGET_LINE = re.compile(
    r"^\W{0,6}(?:\d\.\s)?(?:targets?|aims?|goals?|objectives?|constraints?|requirements?)\b[^\d]{0,50}$", re.IGNORECASE
)
MET = re.compile(
    r"\|\s{0,3}(?:yes|met|done|achieved)\b|[✓✔✅]|\btarget (?:is |was )?(?:achieved|met|reached)\b", re.IGNORECASE
)
STOPS_EARLY = re.compile(r"early[ _-]?stop", re.IGNORECASE)
# A heading that names a model, and headings that end its section.
MODEL = re.compile(
    r"\b(?:(?:model|step|code|experiment|version|iteration|attempt)[ _-]{0,2}(?:no\.?|#|v)?[ _-]?(?P<number>\d{1,2})\b"
    r"|(?P<ordinal>first|second|third|fourth|fifth|sixth)[ _-](?:model|step|version|attempt)\b)",
    # Letters such as the long s are not those of the words below.
    re.IGNORECASE | re.ASCII,
)
# Words before a model that is named only for comparison, and words that name the model of the section
COMPARED = re.compile(
    r"\b(?:unlike|like|contrast (?:to|with)|compar(?:ed|ison|ing) (?:to|with)|than|similar to|same as|opposed to|versus|vs\.?|"
    r"relative to|instead of|based on|building on|built on|improv\w{1,5} (?:on|upon|over)|over|from|after|following)\s{1,3}"
    r"(?:the |our |that of |in |previous ){0,2}$",
    re.IGNORECASE,
)
OWN = re.compile(
    r"\b(?:this|the (?:current|new|present)) (?:model|network|net|version|architecture|one|step)\b", re.IGNORECASE
)
# Headings within the section of a model that do not name a variant of it
PART_OF_SECTION = re.compile(
    r"\b(?:results?|resuts|analysis|summary|conclusions?|targets?|logs?|metrics|performance)\b", re.IGNORECASE
)
CLOSING = re.compile(r"\b(?:compar|conclu|overall|license|contribut|takeaway|final)", re.IGNORECASE)
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")
_NUMBER_WORDS = {"two": 2, "three": 3, "few": None, "four": 4, "five": 5}
_BOUNDS: dict[str, Bound] = {
    **dict.fromkeys(("<", "less than", "lower than", "fewer than", "under", "below", "within"), "<"),
    **dict.fromkeys(("<=", "at most", "upto", "up to", "no more than", "not more than"), "<="),
    **dict.fromkeys((">", "over", "above", "more than", "beyond"), ">"),
    **dict.fromkeys((">=", "at least"), ">="),
}
_SCALES = {"k": 1000, "thousand": 1000, "m": 1_000_000, "million": 1_000_000}
_SEPARATORS = re.compile(r"[^\d.]")
_REACH = 40
_MAX_QUOTE = 160
_BAR = re.compile(r"%\|[^|\w]{4,400}\|")
_EMPHASIS = re.compile(r"\*{1,3}|`|<[/a-zA-Z][^<>]{0,200}>")


def plain(text: str) -> str:
    """Return a line without emphasis, code marks and HTML tags, and with ASCII signs of comparison."""
    if "*" in text or "`" in text or "<" in text:
        text = _EMPHASIS.sub("", text)
    return text.replace("≥", ">=").replace("≤", "<=") if "≥" in text or "≤" in text else text


def quote_of(line: Line) -> Quote:
    """Return a line as a quotation of readable length, without the bar of its progress."""
    text = _BAR.sub("%|...|", line.text.strip())
    return Quote(place=line.place, text=text if len(text) <= _MAX_QUOTE else f"{text[:_MAX_QUOTE]}...")


def figure(text: str, scale: str | None = None) -> Figure:
    """Return the number that a text prints, such as ``13,808`` or ``13 808``, or ``13.8`` with the scale ``k``."""
    return Figure(printed=Decimal(_SEPARATORS.sub("", text)), scale=_SCALES.get((scale or "").lower(), 1))


def percentage(text: str) -> Figure:
    """Return an accuracy in percent; a number up to 1 with at least two decimals is a fraction of one.

    A comma is that of decimals, as in ``99,02``.
    """
    printed = Decimal(text.replace(",", "."))
    if printed <= 1 and int(printed.as_tuple().exponent) <= -2:  # noqa: PLR2004 - 1.0 may be one percent
        printed = printed.scaleb(2)
    return Figure(printed=printed)


def count(text: str) -> int:
    """Return the number of images that a text prints, such as ``9,902`` or ``9902.0``."""
    return int(Decimal(text.replace(",", "")))


def share(correct: int, total: int) -> Figure:
    """Return a count of correct predictions in percent, with enough decimals to tell one image more or less."""
    decimals = max(len(str(total - 1)) - 2, 0)
    return Figure(printed=(Decimal(100 * correct) / max(total, 1)).quantize(Decimal(1).scaleb(-decimals)))


def bound_of(text: str | None) -> Bound:
    """Return the sign of comparison for words such as ``less than``; empty for None."""
    return _BOUNDS.get(text.lower(), "") if text else ""


def last_epochs(text: str | None) -> int | None:
    """Return the number of last epochs of a text such as ``three`` or ``5``; None for ``few``."""
    return int(text) if text and text.isdigit() else _NUMBER_WORDS.get((text or "").lower())


def model_key(text: str) -> str | None:
    """Return the number of the model that a heading or a sentence names, or None."""
    return next(iter(model_keys(text)), None)


def subjects(text: str) -> tuple[str, ...]:
    """Return the numbers of the models that a sentence may speak of; none if it names others only for comparison."""
    named = [*MODEL.finditer(text)]
    compared = all(COMPARED.search(text, max(0, one.start() - _REACH), one.start()) for one in named)
    return () if compared or OWN.search(text, named[-1].end()) else model_keys(text)


def model_keys(text: str) -> tuple[str, ...]:
    """Return the numbers of all models that a sentence names."""
    found = MODEL.finditer(text)
    return tuple(dict.fromkeys(str(int(one["number"] or 1 + _ORDINALS.index(one["ordinal"].lower()))) for one in found))
