"""Claims: the figures that sentences and labelled lines state."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal

from harness.claims import grammar
from harness.claims.documents import Line
from harness.claims.evidence import Claim, DataPart, Figure, Section
from harness.claims.grammar import PATTERNS, count, figure, percentage, quote_of, share

_WORDS = ("acc", "param", "epoch", "batch", "recept", "efficien")
_SENTENCE = re.compile(r"(?<=[.;!?])\s{1,9}(?=\S)")
_BEHIND = re.compile(r"[\d.,]{1,12}\s?%?\s{0,2}")
_PRINTED = re.compile(r"^\W{0,12}(?:best|highest|max|total|param|no\b|number)")
_CLAUSE = re.compile(r"[,;:|(]|\b(?:and|but|while|which|so)\b", re.IGNORECASE)
_LAYER = re.compile(r"(?:layer|conv|block|fc|bn|batch ?norm|linear|dense|dropout)\w{0,20}\s?\d{0,2}", re.IGNORECASE)
_INTEGER = re.compile(r"\d{1,9}")
_LONGEST_PRINTED = 80
_MOST_SENTENCES = 50
# How far before a figure its part of the data is looked for.
_REACH = 40
_RESULT_DIGITS = 2


def claims_of(line: Line, text: str, section: Section, *, printed: bool, wanted: bool, variant: str) -> Iterator[Claim]:
    """Yield the claims of a line.

    In what a program ``printed``, only whole lines such as ``Parameters: 13.8k`` are claims. ``wanted`` is whether the
    line stands below a heading such as "Targets", ``variant`` the heading of a variant of the section's model.
    """
    lowered = text.lower()
    if not any(word in lowered for word in _WORDS):
        return
    if printed and (len(text) > _LONGEST_PRINTED or "so far" in lowered or not _PRINTED.match(lowered)):
        return
    met = bool(grammar.MET.search(text))
    for sentence in [text] if printed else _SENTENCE.split(text, _MOST_SENTENCES):
        words = sentence.lower()
        if not any(word in words for word in _WORDS):
            continue
        made = Claim(
            kind="accuracy",
            section=section,
            quote=quote_of(line),
            value=Figure(printed=Decimal(0)),
            variant=variant,
            printed=printed,
            target=wanted or bool(grammar.TARGET.search(sentence)),
            met=met,
        )
        if "acc" in words or "efficien" in words:
            yield from _accuracies(sentence, words, made)
        if "param" in words:
            yield from _parameters(sentence, made)
        for kind in ("epochs", "batch size", "receptive field"):
            if found := PATTERNS[kind].find(sentence, words):
                tail = found["tail"] if kind == "batch size" else ""
                others = tuple(figure(number) for number in _INTEGER.findall(tail))
                yield replace(made, kind=kind, value=figure(found["value"]), others=others)


def _accuracies(text: str, lowered: str, made: Claim) -> Iterator[Claim]:
    taken = set()
    for found in PATTERNS["best"].regex.finditer(text):
        value, at = _best(found)
        taken.add(at)
        if not 1 < value.printed <= 100:  # noqa: PLR2004 - no percentage
            continue
        epoch = PATTERNS["named epoch"].find(found["tail"], found["tail"].lower())
        bound = grammar.bound_of(found["bound"])
        yield replace(
            made,
            kind="at least" if bound[:1] == ">" else "best",
            value=value,
            bound=bound,
            part=_part_at(text, at),
            epoch=int(epoch["ordinal"] or epoch["number"]) if epoch else None,
        )
    consistent = None if PATTERNS["unsteady"].find(text, lowered) else PATTERNS["consistent"].find(text, lowered)
    # Of a range, each epoch reaches the lower end only.
    taken |= {found.start("high") for found in PATTERNS["range"].regex.finditer(text)} if consistent else set()
    for found in PATTERNS["accuracy"].regex.finditer(text):
        value, at = percentage(found["value"]), found.start("value")
        if at in taken or not 50 <= value.printed <= 100:  # noqa: PLR2004 - lower figures are rates and differences
            continue
        bound = ">=" if found["plus"] else grammar.bound_of(found["bound"])
        mentions = grammar.subjects(text[:at])
        claim = replace(made, value=value, bound=bound, part=_part_at(text, at), mentions=mentions)
        digits = -int(value.printed.as_tuple().exponent)
        if consistent and bound[:1] != "<" and not found["most"]:
            yield replace(claim, kind="consistent", last=grammar.last_epochs(consistent["last"]))
        elif bound == "<=" and not consistent:
            yield replace(claim, kind="best")
        elif bound[:1] == ">" or (made.met and digits < _RESULT_DIGITS):
            yield replace(claim, kind="at least")
        elif not bound and digits >= _RESULT_DIGITS:
            yield claim
        elif not bound and PATTERNS["result"].regex.search(f"{text[:at]}\n{text[found.end('value') :]}"):
            # Too coarse to be found in a log; elsewhere it is an aim.
            yield replace(claim, kind="at least")


def _best(found: re.Match[str]) -> tuple[Figure, int]:
    """The best accuracy that a text states, and its position; beside a count the percentage, if it is printed."""
    if found["correct"] and not found["percent"]:
        return share(count(found["correct"]), count(found["total"])), found.start("correct")
    name = "percent" if found["correct"] else "value"
    return percentage(found[name]), found.start(name)


def _parameters(text: str, made: Claim) -> Iterator[Claim]:
    for form in ("parameters", "so many parameters"):
        for found in PATTERNS[form].regex.finditer(text):
            before, labelled = text[: found.start()], form == "parameters" and bool(found["label"])
            if not _is_of_model(before, text[found.end() :], labelled=labelled) or _is_small(found):
                continue
            value = figure(found["value"], found["scale"])
            yield replace(
                made,
                kind="parameters",
                value=replace(value, printed=value.printed.normalize()) if found["about"] else value,
                bound=grammar.bound_of(found["bound"]) or ("<=" if found["most"] else ""),
                labelled=labelled,
                mentions=grammar.subjects(text[: found.start("value")]),
                variant=_variant(before) or made.variant,
            )
            return


def _is_of_model(before: str, behind: str, *, labelled: bool) -> bool:
    """Whether a number of parameters is that of a model, not of a part of it or a difference, by the words around it."""
    clause = _CLAUSE.split(before)[-1]
    if PATTERNS["of a part"].regex.search(
        _CLAUSE.split(behind[:_REACH])[0] if labelled else f"{clause} {behind[:_REACH]}"
    ):
        return False
    name = _variant(before)
    return not labelled or bool(PATTERNS["of a model"].regex.search(before) and not _LAYER.fullmatch(name))


def _is_small(found: re.Match[str]) -> bool:
    """Whether a number is none of parameters, such as ``0.05``; ``7.752`` may be a thousand times as much."""
    return "." in found["value"] and not found["scale"]


def _variant(before: str) -> str:
    """The name before a label, such as ``Slim model`` before ``Parameters:``; empty if there is none."""
    name, separator, _ = before.rpartition(":")
    return name.strip(" -*|#:") if separator else ""


def _part_at(text: str, position: int) -> DataPart | None:
    """Return the part of the data of an accuracy at a position of a sentence; None if the sentence leaves it open."""
    parts: tuple[tuple[str, DataPart], ...] = (("train part", "train"), ("test part", "test"))
    words = sorted((found.start(), part) for form, part in parts for found in PATTERNS[form].regex.finditer(text))
    if len({part for _, part in words}) == 1:
        return words[0][1]
    # As in "98.05% (train), 99.02% (test)".
    behind = [part for at, part in words if text[at] == "(" and _BEHIND.fullmatch(text, position, at)]
    if behind:
        return behind[0]
    before = [part for start, part in words if position - _REACH <= start < position]
    return before[-1] if before else None
