"""Rules on claimed accuracies, their percentages, counts and epochs."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction

from harness.claims.dossier import Confidence, Dossier
from harness.claims.evidence import Claim, DataPart, Epoch, Quote, Run
from harness.claims.rule import Found, describe, parts_of, points, report, rule, shows, two_digits

# The accuracy rule where a document states none: each of the last three epochs, as the contract era-s7 asks.
DEFAULT_LAST = 3
DEFAULT_TARGET = Decimal("99.4")


@rule("contradiction", "Print the percentage from the count: 100 * correct / total.")
def count_and_percentage(dossier: Dossier) -> Iterator[Found]:
    """A printed percentage is not that of the count beside it, rounded to the printed digits."""
    for reading in dossier.readings:
        for count in reading.counts:
            percent, exact = count.accuracy.percent, count.accuracy.exact
            if percent is not None and count.accuracy.total and not percent.rounds(exact):
                yield report(
                    count.quote,
                    f"{percent} %",
                    f"{count.accuracy} is {two_digits(exact)} %; the printed percentage is {points(percent.exact - exact)} "
                    + ("higher" if percent.exact > exact else "lower"),
                )


@rule("overstatement", "Judge the epochs by their counts, of which 9,940 of 10,000 are 99.4 %.")
def target_by_printed_figures(dossier: Dossier) -> Iterator[Found]:
    """Each of the last 3 epochs reaches 99.4 % by its printed percentage, but not by its count of correct predictions."""
    for run in dossier.runs:
        last = run.epochs[-DEFAULT_LAST:]
        if len(last) < DEFAULT_LAST or any(one.test.percent is None or one.test.correct is None for one in last):
            continue
        printed = all(one.test.percent and one.test.percent.printed >= DEFAULT_TARGET for one in last)
        below = [one for one in last if one.test.exact < Fraction(DEFAULT_TARGET)]
        if printed and below:
            figures = ", ".join(f"{one.test.percent} %" for one in last)
            counts = ", ".join(f"{one.test.correct:,}" for one in last)
            yield report(
                below[0].test_quote,
                f"the last {DEFAULT_LAST} epochs reach {DEFAULT_TARGET} % by their printed percentages: {figures}",
                f"by their counts they do not: {counts} of {last[0].test.total:,}; {len(below)} of {DEFAULT_LAST} are below",
                *(one.test_quote for one in last),
            )


def _best_claims(dossier: Dossier) -> Iterator[tuple[Claim, DataPart, list[Epoch], Confidence]]:
    """The claims of a best accuracy that is none of its runs' best, with the best epochs of these runs."""
    for claim in dossier.claims:
        if claim.kind != "best" or claim.target:
            continue
        paired = dossier.runs_for(claim)
        runs = paired.items
        if not paired.sure or any(run.damaged for run in runs):
            continue
        bests = {part: [best for run in runs if (best := run.best(part))] for part in parts_of(claim)}

        def right(one: Claim, bests: dict[DataPart, list[Epoch]] = bests) -> bool:
            return any(shows(epoch, part, one.value) for part, epochs in bests.items() for epoch in epochs)

        if right(claim) or any(right(one) for one in dossier.variants_of(claim)):
            continue
        part = next((part for part, epochs in bests.items() if epochs), None)
        if part:
            yield claim, part, bests[part], paired.confidence


@rule("overstatement", "State the best accuracy that the log shows, or add the log of the run that reached more.")
def best_above_log(dossier: Dossier) -> Iterator[Found]:
    """A claimed best accuracy is higher than the best in the log."""
    for claim, part, bests, confidence in _best_claims(dossier):
        top = max(bests, key=lambda epoch: epoch.exact(part))
        difference = claim.value.exact - top.exact(part)
        if difference > 0 and not claim.bound:
            shown = f"the best {part} accuracy of the log is {describe(top, part)}, {points(difference)} lower"
            yield report(
                claim.quote, f"best {part} accuracy {claim.value} %", shown, top.quote(part), confidence=confidence
            )


@rule(
    "understatement",
    "State the best accuracy that the log shows, or call the figure by its name, such as that of the last epoch.",
)
def best_below_log(dossier: Dossier) -> Iterator[Found]:
    """A claimed best accuracy is lower than the best in the log, such as that of the last epoch."""
    for claim, part, bests, confidence in _best_claims(dossier):
        top = max(bests, key=lambda epoch: epoch.exact(part))
        difference = top.exact(part) - claim.value.exact
        # Among several runs of a document without sections, the claim may speak of any.
        if difference > 0 and (len(bests) == 1 or confidence in {"same section", "same name"}):
            other = _elsewhere(claim, part, dossier)
            shown = f"the best {part} accuracy of the log is {describe(top, part)}, {points(difference)} higher"
            yield report(
                claim.quote,
                f"best {part} accuracy {claim.value} %",
                shown + (f"; {claim.value} % is {other[0]}" if other else ""),
                top.quote(part),
                *([other[1]] if other else []),
                confidence=confidence,
            )


def _elsewhere(claim: Claim, part: DataPart, dossier: Dossier) -> tuple[str, Quote] | None:
    """What a claimed best accuracy is instead: the last epoch's, or that of another epoch or part of the data."""
    parts: tuple[DataPart, ...] = ("test", "train") if part == "test" else ("train", "test")
    for run in dossier.runs_for(claim).items:
        for one in parts:
            for number, epoch in reversed(list(enumerate(run.epochs, start=1))):
                if shows(epoch, one, claim.value):
                    when = "the last epoch" if number == len(run.epochs) else f"epoch {number} of {len(run.epochs)}"
                    return f"the {one} accuracy of {when}", epoch.quote(one)
    return None


@rule("contradiction", "Name the epoch that the log shows.")
def best_epoch(dossier: Dossier) -> Iterator[Found]:
    """The best accuracy is that of another epoch than the one named, counted from 0 or from 1."""
    for claim in dossier.claims:
        if claim.kind != "best" or claim.epoch is None or claim.target:
            continue
        paired = dossier.runs_for(claim)
        part = claim.part or "test"
        having: list[tuple[int, Epoch]] = []
        for run in paired.items:
            having += [(n, one) for n, one in enumerate(run.epochs, start=1) if shows(one, part, claim.value)]
        right = any(claim.epoch in {number, epoch.label} for number, epoch in having)
        if having and not right and paired.sure:
            number, epoch = having[0]
            label = "" if epoch.label in {None, number} else f", which the log numbers {epoch.label}"
            yield report(
                claim.quote,
                f"{claim.value} % in epoch {claim.epoch}",
                f"the log has it in epoch {number}{label}",
                epoch.quote(part),
                confidence=paired.confidence,
            )


@rule("overstatement", "Say what was reached, by counts.")
def target_not_met(dossier: Dossier) -> Iterator[Found]:
    """A result is said to be at least or above an accuracy that no epoch of the log, or no result of the document, reaches."""
    for claim in dossier.claims:
        if claim.kind != "at least" or (claim.target and not claim.met):
            continue
        paired = dossier.runs_for(claim)
        part = claim.part or "test"
        if paired.items:
            if any(run.damaged for run in paired.items) or not paired.sure:
                continue
            bests = [best for run in paired.items if (best := run.best(part))]
            if bests and not any(_reaches(claim, best.exact(part)) for best in bests):
                top = max(bests, key=lambda epoch: epoch.exact(part))
                yield report(
                    claim.quote,
                    f"{part} accuracy {claim.bound or '>='} {claim.value} %",
                    f"the best of the log is {describe(top, part)}, {points(claim.value.exact - top.exact(part))} lower",
                    top.quote(part),
                    confidence=paired.confidence,
                )
            continue
        others = [
            one
            for one in dossier.reading(claim.section.file).claims
            if one.kind == "best" and not one.target and one.part in {part, None} and one.section == claim.section
        ]
        if others and not any(_reaches(claim, one.value.exact) for one in others):
            stated = max(others, key=lambda one: one.value.exact)
            yield report(
                claim.quote,
                f"{part} accuracy {claim.bound or '>='} {claim.value} %",
                f"the document itself gives {stated.value} % as its best, {points(claim.value.exact - stated.value.exact)} lower",
                stated.quote,
            )


def _reaches(claim: Claim, value: Fraction) -> bool:
    return value > claim.value.exact if claim.bound == ">" else value >= claim.value.exact


@rule("overstatement", "Say in how many of the last epochs the accuracy is reached, by counts.")
def not_consistent(dossier: Dossier) -> Iterator[Found]:
    """An accuracy is said to be consistent, or reached in each of the last epochs (3 if no number is given), and is not."""
    for claim in dossier.claims:
        if claim.kind != "consistent" or claim.target:
            continue
        paired, last = dossier.runs_for(claim), claim.last or DEFAULT_LAST
        if not paired.sure or any(run.damaged for run in paired.items):
            continue
        failing: list[list[Epoch]] = []
        for run in paired.items:
            below = [epoch for epoch in run.epochs[-last:] if epoch.exact("test") < claim.value.exact]
            failing.append(below if len(run.epochs) >= last else list(run.epochs))
        if all(failing):
            below = min(failing, key=len)
            yield report(
                claim.quote,
                f"at least {claim.value} % in each of the last {last} epochs",
                f"{len(below)} of the last {last} epochs are below, the lowest with "
                + describe(min(below, key=lambda epoch: epoch.exact("test")), "test"),
                *(epoch.test_quote for epoch in below),
                confidence=paired.confidence,
            )


@rule("drift", "Add the log of that run, or correct the figure.")
def figure_of_no_run(dossier: Dossier) -> Iterator[Found]:
    """An accuracy with two decimals in the text is that of no epoch of a run that the sentence may speak of."""
    for claim in dossier.claims:
        unsure = claim.kind == "best" and not dossier.runs_for(claim).sure
        if (claim.kind != "accuracy" and not unsure) or (claim.target and not claim.met):
            continue
        paired = dossier.runs_for(claim)
        named = len(claim.mentions) == 1
        pool = paired.items if named or not paired.items else _all_near(claim, dossier)
        if not pool or any(run.damaged for run in pool):
            continue
        found = any(shows(epoch, part, claim.value) for run in pool for epoch in run.epochs for part in parts_of(claim))
        if not found:
            part = claim.part or "test"
            bests = [best for run in pool if (best := run.best(part))]
            top = max(bests, key=lambda epoch: epoch.exact(part), default=None)
            where = f"the log of model {claim.mentions[0]}" if named else "any log"
            yield report(
                claim.quote,
                f"{claim.part or ''} accuracy {claim.value} %".strip(),
                f"no epoch of {where} has {claim.value} %" + (f"; the best has {describe(top, part)}" if top else ""),
                *([top.quote(part)] if top else []),
                confidence=paired.confidence,
            )


def _all_near(claim: Claim, dossier: Dossier) -> tuple[Run, ...]:
    here = tuple(run for run in dossier.runs if run.section.file == claim.section.file)
    return here or dossier.runs_for(claim).items


@rule("note", "Add the log of this model.")
def log_missing(dossier: Dossier) -> Iterator[Found]:
    """A section claims an accuracy and shows no log, where other sections of the document do."""
    for reading in dossier.readings:
        if not reading.runs:
            continue
        for section in reading.sections:
            claims = [
                claim
                for claim in reading.claims
                if claim.section == section and claim.kind in ("accuracy", "best") and not claim.target
            ]
            own = [claim for claim in claims if not claim.mentions or claim.mentions == (section.key,)]
            if own and not any(dossier.runs_for(claim).items for claim in own):
                yield report(
                    own[0].quote,
                    f"accuracy {own[0].value} % for model {section.key}",
                    "the document has no log of this model, though it has logs of others",
                    reading.runs[0].epochs[0].test_quote,
                )
