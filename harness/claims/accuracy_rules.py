"""Rules on claimed accuracies, their percentages, counts and epochs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from fractions import Fraction

from harness.claims.dossier import Dossier, Found, Paired
from harness.claims.evidence import Claim, DataPart, Epoch, Quote, Run, two_digits
from harness.claims.rule import best, parts_of, points, report, rule, shows

# The accuracy rule where a document states none: each of the last three epochs, as the contract era-s7 asks.
DEFAULT_LAST = 3
DEFAULT_TARGET = Decimal("99.4")


@rule("contradiction", "Print the percentage from the count: 100 * correct / total.")
def count_and_percentage(dossier: Dossier) -> Iterator[Found]:
    """A printed percentage is not that of the count beside it, rounded to the printed digits."""
    for count, quote in (count for reading in dossier.readings for count in reading.counts):
        percent, exact = count.percent, count.exact
        if percent is not None and count.total and not percent.rounds(exact):
            by = f"{points(percent.exact - exact)} {'higher' if percent.exact > exact else 'lower'}"
            shown = f"{count.correct:,} of {count.total:,} is {two_digits(exact)} %; what is printed is {by}"
            yield report(quote, f"{percent} %", shown, quote)


@rule("overstatement", "Judge the epochs by their counts, of which 9,940 of 10,000 are 99.4 %.")
def target_by_printed_figures(dossier: Dossier) -> Iterator[Found]:
    """Each of the last 3 epochs reaches 99.4 % by its printed percentage, but not by its count of correct predictions."""
    for run in dossier.runs:
        last = run.epochs[-DEFAULT_LAST:]
        counted = [one for one in last if one.test.correct is not None and one.test.percent]
        printed = all(one.test.percent and one.test.percent.printed >= DEFAULT_TARGET for one in last)
        below = [one for one in last if one.test.exact < Fraction(DEFAULT_TARGET)]
        if len(counted) == DEFAULT_LAST and printed and below:
            figures = ", ".join(f"{one.test.percent} %" for one in last)
            said = f"the last {DEFAULT_LAST} epochs reach {DEFAULT_TARGET} % by their printed percentages: {figures}"
            counts = ", ".join(f"{one.test.correct:,}" for one in last)
            shown = f"by their counts they do not: {counts} of {last[0].test.total:,}; {len(below)} of {DEFAULT_LAST} are below"
            yield report(below[0].test_quote, said, shown, *(one.test_quote for one in last))


def _may_be_left_out(claim: Claim, paired: Paired[Run]) -> bool:
    """Whether a claim may speak of an epoch that an excerpt of a log leaves out."""
    return any(run.is_excerpt and claim.epoch not in run.labels for run in paired.items)


def _best_claims(dossier: Dossier) -> Iterator[tuple[Claim, Paired[Run], DataPart, Epoch]]:
    """The claims of a best accuracy that is none of its runs' best, with these runs and the best epoch of all."""
    for claim, paired in dossier.judged("best"):
        bests = [(part, top) for part in parts_of(claim) for run in paired.items if (top := best(run.epochs, part))]
        stated = [claim, *dossier.variants_of(claim)]
        if bests and not any(shows(epoch, part, one.value) for part, epoch in bests for one in stated):
            part = bests[0][0]
            yield claim, paired, part, max((one for of, one in bests if of == part), key=lambda one: one.exact(part))


@rule("overstatement", "State the best accuracy that the log shows, or add the log of the run that reached more.")
def best_above_log(dossier: Dossier) -> Iterator[Found]:
    """A claimed best accuracy is higher than the best in the log."""
    for claim, paired, part, top in _best_claims(dossier):
        difference = claim.value.exact - top.exact(part)
        if difference > 0 and not claim.bound and not _may_be_left_out(claim, paired):
            said = f"best {part} accuracy {claim.value} %"
            shown = f"the best {part} accuracy of the log is {top.of(part)}, {points(difference)} lower"
            yield report(claim.quote, said, shown, top.quote(part), confidence=paired.confidence)


@rule("understatement", "State the best accuracy that the log shows, or name the figure for what it is.")
def best_below_log(dossier: Dossier) -> Iterator[Found]:
    """A claimed best accuracy is lower than the best in the log, such as that of the last epoch."""
    for claim, paired, part, top in _best_claims(dossier):
        difference = top.exact(part) - claim.value.exact
        # Among several runs of a document without sections, the claim may speak of any.
        if difference > 0 and (len(paired.items) == 1 or paired.confidence in {"same section", "same name"}):
            what, quotes = _elsewhere(claim, part, dossier)
            said = f"best {part} accuracy {claim.value} %"
            shown = f"the best {part} accuracy of the log is {top.of(part)}, {points(difference)} higher{what}"
            yield report(claim.quote, said, shown, top.quote(part), *quotes, confidence=paired.confidence)


def _elsewhere(claim: Claim, part: DataPart, dossier: Dossier) -> tuple[str, tuple[Quote, ...]]:
    """What a claimed best accuracy is instead: that of the last or another epoch, or of the other part of the data."""
    parts: tuple[DataPart, ...] = ("test", "train") if part == "test" else ("train", "test")
    for run in dossier.runs_for(claim).items:
        for one in parts:
            for number, epoch in reversed(list(enumerate(run.epochs, start=1))):
                if shows(epoch, one, claim.value):
                    when = "the last epoch" if number == len(run.epochs) else f"epoch {number} of {len(run.epochs)}"
                    return f"; {claim.value} % is the {one} accuracy of {when}", (epoch.quote(one),)
    return "", ()


@rule("contradiction", "Name the epoch that the log shows.")
def best_epoch(dossier: Dossier) -> Iterator[Found]:
    """The best accuracy is that of another epoch than the one named, counted from 0 or from 1."""
    for claim, paired in dossier.judged("best"):
        part = claim.part or "test"
        numbered = (pair for run in paired.items for pair in enumerate(run.epochs, start=1))
        having = [(number, epoch) for number, epoch in numbered if shows(epoch, part, claim.value)]
        if claim.epoch and having and not any(claim.epoch in {number, epoch.label} for number, epoch in having):
            number, epoch = having[0]
            label = "" if epoch.label in {None, number} else f", which the log numbers {epoch.label}"
            said, shown = f"{claim.value} % in epoch {claim.epoch}", f"the log has it in epoch {number}{label}"
            yield report(claim.quote, said, shown, epoch.quote(part), confidence=paired.confidence)


def _is_plain(claim: Claim) -> bool:
    """Whether a result is stated without a bound and without an aim that it meets."""
    return not claim.bound and not claim.met


@rule("overstatement", "Say what was reached, by counts.")
def target_not_met(dossier: Dossier) -> Iterator[Found]:
    """A result is said to be at least or above an accuracy that no epoch of the log, or no result of the document, reaches."""
    for claim, paired in dossier.judged("at least"):
        epochs = [epoch for run in paired.items for epoch in run.epochs]
        # A result without a bound may be that of either part of the data.
        parts = parts_of(claim) if _is_plain(claim) else (claim.part or "test",)
        tops = [(part, top) for part in parts if (top := best(epochs, part))]
        missed = not any(claim.allows(top.exact(part)) for part, top in tops)
        if tops and missed and not _may_be_left_out(claim, paired):
            part, top = tops[0]
            shown = f"the best of the log is {top.of(part)}, {points(claim.value.exact - top.exact(part))} lower"
            said = f"{part} accuracy {claim.bound or '>='} {claim.value} %"
            yield report(claim.quote, said, shown, top.quote(part), confidence=paired.confidence)
    for claim in dossier.claims:
        if claim.kind != "at least" or claim.target or _is_plain(claim) or dossier.runs_for(claim).items:
            continue
        beside = (one for one in dossier.reading[claim.section.file].claims if one.section == claim.section)
        stated = [one for one in beside if one.kind == "best" and not one.target and one.part in {claim.part, None}]
        most = max(stated, key=lambda one: one.value.exact, default=None)
        if most and not claim.allows(most.value.exact):
            lower = points(claim.value.exact - most.value.exact)
            shown = f"the document itself gives {most.value} % as its best, {lower} lower"
            yield report(claim.quote, f"accuracy {claim.bound or '>='} {claim.value} %", shown, most.quote)


@rule("overstatement", "Say in how many of the last epochs the accuracy is reached, by counts.")
def not_consistent(dossier: Dossier) -> Iterator[Found]:
    """An accuracy is said to be consistent, or reached in each of the last epochs (3 if no number is given), and is not."""
    for claim, paired in dossier.judged("consistent"):
        last, part = claim.last or DEFAULT_LAST, claim.part or "test"
        shown_by = [run.epochs[-last:] for run in paired.items if all(epoch.of(part) for epoch in run.epochs[-last:])]
        least = claim.value.exact if claim.bound else claim.value.exact - claim.value.unit / 2
        failing = [[epoch for epoch in epochs if epoch.exact(part) < least] for epochs in shown_by]
        if failing and all(failing):
            below = min(failing, key=len)
            lowest = min(below, key=lambda epoch: epoch.exact(part))
            said = f"at least {claim.value} % in each of the last {last} epochs"
            shown = f"{len(below)} of the last {last} epochs are below, the lowest with {lowest.of(part)}"
            quotes = (epoch.quote(part) for epoch in below)
            yield report(claim.quote, said, shown, *quotes, confidence=paired.confidence)


@rule("drift", "Add the log of that run, or correct the figure.")
def figure_of_no_run(dossier: Dossier) -> Iterator[Found]:
    """An accuracy with two decimals in the text is that of no epoch of a run that the sentence may speak of."""
    for claim in dossier.claims:
        paired = dossier.runs_for(claim)
        loose = claim.kind == "accuracy" or (claim.kind == "best" and not paired.sure)
        if not loose or (claim.target and not claim.met):
            continue
        here = [run for run in dossier.runs if run.section.file == claim.section.file]
        pool = paired.items if claim.mentions or not paired.items else here or paired.items
        epochs, part = [epoch for run in pool for epoch in run.epochs], claim.part or "test"
        top = best(epochs, part)
        unread = any(run.damaged or run.is_excerpt for run in pool) or _impossible_for(claim, pool) is not None
        if top and not unread and not any(shows(one, part, claim.value) for one in epochs for part in parts_of(claim)):
            where = f"the log of model {claim.mentions[0]}" if len(claim.mentions) == 1 else "any log"
            shown = f"no epoch of {where} has {claim.value} %; the best has {top.of(part)}"
            said = f"{claim.part or ''} accuracy {claim.value} %".strip()
            yield report(claim.quote, said, shown, top.quote(part), confidence=paired.confidence)


@rule("suspicious", "Print the accuracy from the count of correct predictions, not from a mean over batches.")
def impossible_accuracy(dossier: Dossier) -> Iterator[Found]:
    """An accuracy is that of no whole number of correct predictions among the test images of its log."""
    for claim in dossier.claims:
        total = _impossible_for(claim, dossier.runs_for(claim).items)
        if claim.kind in {"best", "accuracy"} and total is not None:
            nearest = round(claim.value.exact * total / 100)
            percent = Decimal(100 * nearest) / total
            shown = f"of {total:,} images, {nearest:,} are {percent:f} %; no other number is nearer"
            yield report(claim.quote, f"accuracy {claim.value} %", shown)


def _impossible_for(claim: Claim, runs: Sequence[Run]) -> int | None:
    """The number of test images of the runs, if no number of correct predictions among them gives a claimed accuracy."""
    totals = {epoch.test.total for run in runs for epoch in run.epochs}
    total = totals.pop() if len(totals) == 1 and claim.part != "train" else None
    nearest = Fraction(100 * round(claim.value.exact * total / 100), total) if total else claim.value.exact
    return None if claim.value.rounds(nearest) else total


@rule("note", "Add the log of this model.")
def log_missing(dossier: Dossier) -> Iterator[Found]:
    """A section claims an accuracy and shows no log, where other sections of the document do."""
    for reading in (reading for reading in dossier.readings if reading.runs):
        for section in reading.sections:
            results = [one for one in reading.claims if one.kind in {"accuracy", "best"} and not one.target]
            own = [one for one in results if one.section == section and set(one.mentions) <= {section.key}]
            if own and not any(dossier.runs_for(claim).items for claim in own):
                shown = "the document has no log of this model, though it has logs of others"
                said = f"accuracy {own[0].value} % for model {section.key}"
                yield report(own[0].quote, said, shown, reading.runs[0].epochs[0].test_quote)
