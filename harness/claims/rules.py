"""The rules of the audit: each is one object with an identifier, a kind, an example, and a function of what was read."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction
from importlib import resources
from itertools import pairwise

from harness.claims.dossier import AuditFinding, Confidence, Dossier, Kind
from harness.claims.evidence import Claim, DataPart, Epoch, FieldRow, FieldTable, Figure, Quote, Run

# The accuracy rule where a document states none: each of the last three epochs, as the contract era-s7 asks.
DEFAULT_LAST = 3
DEFAULT_TARGET = Decimal("99.4")
# Images of the training set of MNIST; half of them is less than any usual split leaves for training.
_TRAIN_IMAGES = 60_000
_FEWEST_TRAIN_IMAGES = 40_000
_FINGERPRINT = 5
_GAP = timedelta(seconds=60)
_GAP_FACTOR = 10


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A rule: ``check`` yields its findings, and its docstring says when; ``fix`` says what to do."""

    name: str
    kind: Kind
    fix: str
    check: Callable[[Rule, Dossier], Iterator[AuditFinding]]

    @property
    def what(self) -> str:
        """When the rule yields a finding, in words."""
        return " ".join((self.check.__doc__ or "").split())

    @property
    def example(self) -> str:
        """A document that triggers this rule and no other."""
        return resources.files("harness.claims").joinpath("examples", f"{self.name}.md").read_text("utf-8")

    def finding(
        self,
        said: Quote,
        claim: str,
        shown: str,
        *evidence: Quote,
        confidence: Confidence = "same section",
    ) -> AuditFinding:
        """Return a finding of this rule."""
        return AuditFinding(
            rule=self.name,
            kind=self.kind,
            said=said,
            claim=claim,
            shown=shown,
            evidence=evidence,
            fix=self.fix,
            confidence=confidence,
        )


def two_digits(value: Fraction) -> str:
    """Format a percentage with two decimals; more if two would hide that it is not a multiple of 0.01."""
    exact = Decimal(value.numerator) / Decimal(value.denominator)
    return f"{exact.quantize(Decimal('0.01'), ROUND_HALF_EVEN)}"


def points(value: Fraction) -> str:
    """Format a difference of percentages."""
    return f"{two_digits(abs(value))} points"


def describe(epoch: Epoch, part: DataPart) -> str:
    """The accuracy of an epoch in words: the count and its percentage, or the percentage."""
    accuracy = epoch.of(part)
    if accuracy is None:
        return "no figure"
    counted = accuracy.correct is not None and accuracy.total
    return f"{accuracy} ({two_digits(accuracy.exact)} %)" if counted else str(accuracy)


def shows(epoch: Epoch, part: DataPart, value: Figure) -> bool:
    """Whether a claimed figure is the accuracy of an epoch, rounded."""
    accuracy = epoch.of(part)
    if accuracy is None:
        return False
    found = accuracy.value
    return value.may_be(found) if isinstance(found, Figure) else value.rounds(found)


def parts_of(claim: Claim) -> tuple[DataPart, ...]:
    """The parts of the data that a claim may speak of."""
    return (claim.part,) if claim.part else ("test", "train")


# Percentages and counts


def count_and_percentage(rule: Rule, dossier: Dossier) -> Iterator[AuditFinding]:
    """A printed percentage is not that of the count beside it, rounded to the printed digits."""
    for reading in dossier.readings:
        for count in reading.counts:
            percent, exact = count.accuracy.percent, count.accuracy.exact
            if percent is not None and count.accuracy.total and not percent.rounds(exact):
                yield rule.finding(
                    count.quote,
                    f"{percent} %",
                    f"{count.accuracy} is {two_digits(exact)} %; the printed percentage is {points(percent.exact - exact)} "
                    + ("higher" if percent.exact > exact else "lower"),
                )


def printed_only(rule: Rule, dossier: Dossier) -> Iterator[AuditFinding]:
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
            yield rule.finding(
                below[0].test_quote,
                f"the last {DEFAULT_LAST} epochs reach {DEFAULT_TARGET} % by their printed percentages: {figures}",
                f"by their counts they do not: {counts} of {last[0].test.total:,}; {len(below)} of {DEFAULT_LAST} are below",
                *(one.test_quote for one in last),
            )


# Claimed accuracies


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

        if right(claim) or any(right(one) for one in _variants(claim, dossier)):
            continue
        part = next((part for part, epochs in bests.items() if epochs), None)
        if part:
            yield claim, part, bests[part], paired.confidence


def _variants(claim: Claim, dossier: Dossier) -> list[Claim]:
    """The same figure of other variants of a section's model, if the claim is of one; a single log shows only one of them."""
    claims = dossier.reading(claim.section.file).claims if claim.variant else ()
    return [
        one
        for one in claims
        if (one.kind, one.part, one.section) == (claim.kind, claim.part, claim.section) and one.variant != claim.variant
    ]


def best_above_log(rule: Rule, dossier: Dossier) -> Iterator[AuditFinding]:
    """A claimed best accuracy is higher than the best in the log."""
    for claim, part, bests, confidence in _best_claims(dossier):
        top = max(bests, key=lambda epoch: epoch.exact(part))
        difference = claim.value.exact - top.exact(part)
        if difference > 0 and not claim.bound:
            shown = f"the best {part} accuracy of the log is {describe(top, part)}, {points(difference)} lower"
            yield rule.finding(
                claim.quote, f"best {part} accuracy {claim.value} %", shown, top.quote(part), confidence=confidence
            )


def best_below_log(rule: Rule, dossier: Dossier) -> Iterator[AuditFinding]:
    """A claimed best accuracy is lower than the best in the log, such as that of the last epoch."""
    for claim, part, bests, confidence in _best_claims(dossier):
        top = max(bests, key=lambda epoch: epoch.exact(part))
        difference = top.exact(part) - claim.value.exact
        # Among several runs of a document without sections, the claim may speak of any.
        if difference > 0 and (len(bests) == 1 or confidence in {"same section", "same name"}):
            other = _elsewhere(claim, part, dossier)
            shown = f"the best {part} accuracy of the log is {describe(top, part)}, {points(difference)} higher"
            yield rule.finding(
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


def best_epoch(rule: Rule, dossier: Dossier) -> Iterator[AuditFinding]:
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
            yield rule.finding(
                claim.quote,
                f"{claim.value} % in epoch {claim.epoch}",
                f"the log has it in epoch {number}{label}",
                epoch.quote(part),
                confidence=paired.confidence,
            )


def target_not_met(rule: Rule, dossier: Dossier) -> Iterator[AuditFinding]:
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
                yield rule.finding(
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
            yield rule.finding(
                claim.quote,
                f"{part} accuracy {claim.bound or '>='} {claim.value} %",
                f"the document itself gives {stated.value} % as its best, {points(claim.value.exact - stated.value.exact)} lower",
                stated.quote,
            )


def _reaches(claim: Claim, value: Fraction) -> bool:
    return value > claim.value.exact if claim.bound == ">" else value >= claim.value.exact


def not_consistent(rule: Rule, dossier: Dossier) -> Iterator[AuditFinding]:
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
            yield rule.finding(
                claim.quote,
                f"at least {claim.value} % in each of the last {last} epochs",
                f"{len(below)} of the last {last} epochs are below, the lowest with "
                + describe(min(below, key=lambda epoch: epoch.exact("test")), "test"),
                *(epoch.test_quote for epoch in below),
                confidence=paired.confidence,
            )


def figure_of_no_run(rule: Rule, dossier: Dossier) -> Iterator[AuditFinding]:
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
            yield rule.finding(
                claim.quote,
                f"{claim.part or ''} accuracy {claim.value} %".strip(),
                f"no epoch of {where} has {claim.value} %" + (f"; the best has {describe(top, part)}" if top else ""),
                *([top.quote(part)] if top else []),
                confidence=paired.confidence,
            )


def _all_near(claim: Claim, dossier: Dossier) -> tuple[Run, ...]:
    here = tuple(run for run in dossier.runs if run.section.file == claim.section.file)
    return here or dossier.runs_for(claim).items


def log_missing(rule: Rule, dossier: Dossier) -> Iterator[AuditFinding]:
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
                yield rule.finding(
                    own[0].quote,
                    f"accuracy {own[0].value} % for model {section.key}",
                    "the document has no log of this model, though it has logs of others",
                    reading.runs[0].epochs[0].test_quote,
                )


# Runs


def epochs_run(rule: Rule, dossier: Dossier) -> Iterator[AuditFinding]:
    """The log has another number of epochs than the document says, such as 14 of range(1, 15)."""
    for claim in dossier.claims:
        if claim.kind != "epochs" or claim.target or dossier.reading(claim.section.file).stops_early:
            continue
        paired = dossier.runs_for(claim)
        if not paired.sure or any(run.damaged for run in paired.items):
            continue
        if all(len(run.epochs) != claim.value.exact for run in paired.items):
            run = paired.items[-1]
            labels = [epoch.label for epoch in (run.epochs[0], run.epochs[-1]) if epoch.label is not None]
            numbered = f", numbered {labels[0]} to {labels[-1]}" if labels else ""
            yield rule.finding(
                claim.quote,
                f"{claim.value} epochs",
                f"the log has {len(run.epochs)}{numbered}",
                run.epochs[0].test_quote,
                run.epochs[-1].test_quote,
                confidence=paired.confidence,
            )


def steps_and_batches(rule: Rule, dossier: Dossier) -> Iterator[AuditFinding]:
    """The steps of an epoch times the batch size are far from the number of training images."""
    for claim in dossier.claims:
        if claim.kind != "batch size" or claim.target or claim.value.exact == 0:
            continue
        paired = dossier.runs_for(claim)
        steps = {epoch.steps: epoch for run in paired.items for epoch in run.epochs if epoch.steps}
        sizes = [int(size.exact) for size in (claim.value, *claim.others)]
        if not steps or not paired.sure or any(_fits(size, count) for size in sizes for count in steps):
            continue
        count, epoch = next(iter(steps.items()))
        images = sizes[0] * count
        yield rule.finding(
            claim.quote,
            f"batch size {claim.value}",
            f"{count:,} steps of {sizes[0]} images are about {images:,} images; the training set of MNIST has "
            f"{_TRAIN_IMAGES:,}, so that the batch size was about {-(-_TRAIN_IMAGES // count)}",
            epoch.train_quote or epoch.test_quote,
            confidence=paired.confidence,
        )


def _fits(size: int, steps: int) -> bool:
    return size * (steps - 1) < _TRAIN_IMAGES and size * (steps + 1) > _FEWEST_TRAIN_IMAGES


def joined_log(rule: Rule, dossier: Dossier) -> Iterator[AuditFinding]:
    """A log is joined from two runs, or cut: much more time passes between two epochs than usual, or numbers are missing."""
    for run in dossier.runs:
        for before, after in pairwise(run.epochs):
            if (
                before.label is not None
                and after.label is not None
                and after.label > before.label + 1
                and not run.damaged
            ):
                yield rule.finding(
                    after.heading or after.test_quote,
                    f"epoch {after.label} follows epoch {before.label}",
                    f"{after.label - before.label - 1} epochs between them are missing: lines were cut out, or two runs joined",
                    before.test_quote,
                )
        gaps = [
            (after.begun - before.ended, before, after)
            for before, after in pairwise(run.epochs)
            if before.ended and after.begun
        ]
        if len(gaps) < DEFAULT_LAST:
            continue
        usual = statistics.median(gap.total_seconds() for gap, _, _ in gaps)
        lengths = [(one.ended - one.begun).total_seconds() for one in run.epochs if one.ended and one.begun]
        epoch_length = statistics.median(lengths)
        for gap, before, after in gaps:
            if gap > _GAP and gap.total_seconds() > _GAP_FACTOR * max(usual, epoch_length):
                yield rule.finding(
                    after.heading or after.test_quote,
                    "one run",
                    f"{gap} pass between the end of one epoch ({before.ended:%H:%M:%S}) and the next ({after.begun:%H:%M:%S}), "
                    f"where an epoch takes about {epoch_length:.0f} s: two runs were joined",
                    before.test_quote,
                )


def same_log(rule: Rule, dossier: Dossier) -> Iterator[AuditFinding]:
    """Two models, or two submissions, have logs with the same losses and counts in five epochs in a row."""
    seen: dict[object, Run] = {}
    for run in dossier.runs:
        mine = tuple(fingerprints(run))
        first = next((seen[one] for one in mine if one in seen), None)
        seen |= dict.fromkeys((one for one in mine if one not in seen), run)
        if first is None or None in {first.section.key, run.section.key} or first.section.key == run.section.key:
            continue
        yield copied(rule, run, f"model {run.section.key}", first, f"model {first.section.key}")


def copied(rule: Rule, run: Run, of: str, first: Run, of_first: str) -> AuditFinding:
    """Return the finding that a run repeats another one."""
    return rule.finding(
        run.epochs[0].test_quote,
        f"a log of {of}",
        f"a log of {of_first} has the same losses and counts in at least {_FINGERPRINT} epochs in a row",
        first.epochs[0].test_quote,
    )


def fingerprints(run: Run) -> Iterator[tuple[tuple[str, int], ...]]:
    """The losses and counts of every five consecutive epochs of a run, as printed; different runs never share one."""
    pairs = [(one.test_loss, one.test.correct) for one in run.epochs]
    for start in range(len(pairs) - _FINGERPRINT + 1):
        window = pairs[start : start + _FINGERPRINT]
        if all(loss is not None and correct is not None for loss, correct in window) and len(set(window)) > 1:
            yield tuple(window)  # type: ignore[arg-type]


# Layer tables and parameters


def summary_total(rule: Rule, dossier: Dossier) -> Iterator[AuditFinding]:
    """The rows of a layer summary do not add up to the total that it prints."""
    for table in dossier.tables:
        if table.complete and table.total is not None and table.form in ("torchsummary", "torchinfo", "keras"):
            found = sum(row.parameters for row in table.rows)
            if found != table.total:
                yield rule.finding(
                    table.quote,
                    f"{table.total:,} parameters in total",
                    f"the {len(table.rows)} rows add up to {found:,}, {abs(found - table.total):,} "
                    + ("more" if found > table.total else "fewer"),
                    table.rows[0].quote,
                    table.rows[-1].quote,
                )


def parameters_claimed(rule: Rule, dossier: Dossier) -> Iterator[AuditFinding]:
    """A stated number of parameters is not that of the layer summary; one in a comparison is not that of any model."""
    for claim in dossier.claims:
        if claim.kind != "parameters" or claim.bound or claim.target or not claim.labelled:
            continue
        paired = dossier.tables_for(claim)
        known = {table.total: table.quote for table in paired.items if table.total is not None}
        if paired.confidence != "same section":
            stated = (one for one in dossier.reading(claim.section.file).claims if one.section.key and one.labelled)
            known |= {int(one.value.exact): one.quote for one in stated if one.kind == "parameters" and not one.bound}
        if not known or not (paired.sure or claim.section.key is None):
            continue
        if any(_is_rounded(one.value, total) for one in _variants(claim, dossier) for total in known):
            continue
        if not any(_is_rounded(claim.value, total) for total in known):
            total, quote = min(known.items(), key=lambda item: abs(item[0] - claim.value.exact))
            several = (
                f"none of the {len(known)} models has them; the nearest" if len(known) > 1 else "the layer summary"
            )
            yield rule.finding(
                claim.quote,
                f"{claim.value} parameters",
                f"{several} has {total:,}",
                quote,
                confidence=paired.confidence,
            )


def _is_rounded(value: Figure, total: int) -> bool:
    """Whether a number such as 13.8k is a total, rounded up or down."""
    return value.exact == total if value.scale == 1 and value.unit == 1 else abs(value.exact - total) < value.unit


def over_budget(rule: Rule, dossier: Dossier) -> Iterator[AuditFinding]:
    """A model is said to have fewer parameters than a number, and has as many or more."""
    for claim in dossier.claims:
        if claim.kind != "parameters" or not claim.bound or (claim.target and not claim.met):
            continue
        paired = dossier.tables_for(claim)
        if not paired.sure:
            continue
        limit = claim.value.exact
        if all(_breaks(claim.bound, table.total or 0, limit) for table in paired.items):
            table = paired.items[-1]
            yield rule.finding(
                claim.quote,
                f"{claim.bound} {claim.value} parameters",
                f"the layer summary has {table.total:,}" + (", exactly as many" if table.total == limit else ""),
                table.quote,
                confidence=paired.confidence,
            )


def _breaks(bound: str, total: int, limit: Fraction) -> bool:
    beyond = total > limit if bound[0] == "<" else total < limit
    return beyond or (len(bound) == 1 and total == limit)


# Code


def total_against_code(rule: Rule, dossier: Dossier) -> Iterator[AuditFinding]:
    """The total of a layer summary, or a stated number of parameters, is not that of the code."""
    stated = [(table.section, table.quote, Figure(printed=Decimal(table.total or 0))) for table in dossier.tables]
    claims = (claim for claim in dossier.claims if claim.kind == "parameters" and claim.labelled and not claim.target)
    stated += [
        (claim.section, claim.quote, claim.value)
        for claim in claims
        if not claim.bound and not claim.mentions and not dossier.tables_for(claim).sure
    ]
    for section, quote, value in stated:
        paired = dossier.models_for(section)
        known = [total for model in paired.items for total in (model.total, model.total - model.unreached)]
        if paired.sure and not any(_is_rounded(value, total) for total in known):
            model = paired.items[-1]
            unreached = f", {model.unreached:,} of them in modules that are never called" if model.unreached else ""
            yield rule.finding(
                quote,
                f"{value} parameters",
                f"the code in {model.section.file} has {model.total:,}{unreached}",
                confidence=paired.confidence,
            )


def never_called(rule: Rule, dossier: Dossier) -> Iterator[AuditFinding]:
    """The total of a layer summary leaves out the parameters of modules that forward never calls."""
    for table in dossier.tables:
        paired = dossier.models_for(table.section)
        model = next((one for one in paired.items if one.unreached and one.total - one.unreached == table.total), None)
        if model is not None:
            yield rule.finding(
                table.quote,
                f"{table.total:,} parameters",
                f"the code in {model.section.file} has {model.total:,}; {model.unreached:,} of them are of modules that "
                f"are never called and not in the summary: {', '.join(model.never_called)}",
                confidence=paired.confidence,
            )


def shapes_against_code(rule: Rule, dossier: Dossier) -> Iterator[AuditFinding]:
    """An output shape in a layer summary is not that of the code, whose layers are the same."""
    for table in dossier.tables:
        rows = [row for row in table.rows if row.shape is not None and row.operation in _WITH_SHAPE]
        paired = dossier.models_for(table.section)
        if not paired.sure or len(paired.items) > 1 or not rows or table.form == "keras":
            continue
        layers = [layer for layer in paired.items[0].layers if layer[0] in _WITH_SHAPE]
        if [row.operation for row in rows] != [name for name, _ in layers]:
            continue
        for row, (_, shape) in zip(rows, layers, strict=True):
            if row.shape != shape:
                yield rule.finding(
                    row.quote,
                    f"output shape {list(row.shape or ())}",
                    f"the code in {paired.items[0].section.file} gives {list(shape)}",
                    confidence=paired.confidence,
                )
                break


_WITH_SHAPE = ("Conv2d", "MaxPool2d", "AvgPool2d", "Linear")


def field_against_code(rule: Rule, dossier: Dossier) -> Iterator[AuditFinding]:
    """The receptive field that is stated for the network is not that of the code, with or without the head's pooling."""
    for claim in dossier.claims:
        paired = dossier.models_for(claim.section, claim.mentions)
        known = {field for model in paired.items for field in model.fields}
        if claim.kind == "receptive field" and not claim.target and paired.sure and claim.value.exact not in known:
            fields = ", ".join(map(str, sorted(known)))
            shown = f"by the code it is one of {fields}: before or behind the head, within the image or beyond"
            yield rule.finding(claim.quote, f"receptive field {claim.value}", shown, confidence=paired.confidence)


# Receptive fields


@dataclass(frozen=True)
class _Computed:
    row: FieldRow
    field: int
    is_head: bool


def computed_fields(table: FieldTable) -> list[_Computed]:
    """The receptive field of each row, by the rows' own kernels and strides, up to a row where these are not known.

    size' = size + (kernel - 1) * jump; jump' = jump * stride (Araujo, Norris and Sim, Distill, 2019).
    """
    size, jump = 1, 1
    computed = []
    for row in table.rows:
        name = row.name.lower()
        if name.startswith(("input", "image")):
            computed.append(_Computed(row, 1, is_head=False))
            continue
        pools = "pool" in name
        kernel = row.kernel or (2 if pools and "max" in name else None)
        is_head = any(word in name for word in ("gap", "global", "avg", "average", "adaptive")) or (
            kernel is not None and kernel > 1 and kernel == row.size_in
        )
        stride = row.stride or _stride(row, pools=pools)
        if kernel is None or stride is None:
            break
        size, jump = size + (kernel - 1) * jump, jump * stride
        computed.append(_Computed(row, size, is_head=is_head))
    return computed


def _stride(row: FieldRow, *, pools: bool) -> int | None:
    if row.size_in is None or row.size_out is None or row.size_out == 0:
        return 2 if pools else None
    ratio = row.size_in // row.size_out
    # A convolution without padding loses the width of its kernel; only a stride halves the map.
    return ratio if pools or (ratio > 1 and row.size_out > 1) else 1


def field_table(rule: Rule, dossier: Dossier) -> Iterator[AuditFinding]:
    """Rows of a receptive-field table before the head are not what their kernels and strides give."""
    for reading in dossier.readings:
        for table in reading.fields:
            rows = computed_fields(table)
            head = next((index for index, one in enumerate(rows) if one.is_head), len(rows))
            wrong = [one for one in rows[:head] if one.field != one.row.field]
            if wrong:
                said = ", ".join(str(one.row.field) for one in wrong)
                right = ", ".join(str(one.field) for one in wrong)
                yield rule.finding(
                    wrong[0].row.quote,
                    f"receptive field {said} from {wrong[0].row.name!r} on",
                    f"by the rows' kernels and strides it is {right}; {len(wrong)} of {head} rows before the head are wrong",
                    *(one.row.quote for one in wrong),
                )


RULES: tuple[Rule, ...] = (
    Rule(
        name="count-and-percentage",
        kind="contradiction",
        check=count_and_percentage,
        fix="Print the percentage from the count: 100 * correct / total.",
    ),
    Rule(
        name="target-by-printed-figures",
        kind="overstatement",
        check=printed_only,
        fix="Judge the epochs by their counts, of which 9,940 of 10,000 are 99.4 %.",
    ),
    Rule(
        name="best-above-log",
        kind="overstatement",
        check=best_above_log,
        fix="State the best accuracy that the log shows, or add the log of the run that reached more.",
    ),
    Rule(
        name="best-below-log",
        kind="understatement",
        check=best_below_log,
        fix="State the best accuracy that the log shows, or call the figure by its name, such as that of the last epoch.",
    ),
    Rule(
        name="best-epoch",
        kind="contradiction",
        check=best_epoch,
        fix="Name the epoch that the log shows.",
    ),
    Rule(
        name="target-not-met",
        kind="overstatement",
        check=target_not_met,
        fix="Say what was reached, by counts.",
    ),
    Rule(
        name="not-consistent",
        kind="overstatement",
        check=not_consistent,
        fix="Say in how many of the last epochs the accuracy is reached, by counts.",
    ),
    Rule(
        name="figure-of-no-run",
        kind="drift",
        check=figure_of_no_run,
        fix="Add the log of that run, or correct the figure.",
    ),
    Rule(
        name="log-missing",
        kind="note",
        check=log_missing,
        fix="Add the log of this model.",
    ),
    Rule(
        name="epochs-run",
        kind="contradiction",
        check=epochs_run,
        fix="State the number of epochs in the log, or show the whole log.",
    ),
    Rule(
        name="steps-and-batch-size",
        kind="suspicious",
        check=steps_and_batches,
        fix="State the batch size of the run in the log.",
    ),
    Rule(
        name="joined-log",
        kind="suspicious",
        check=joined_log,
        fix="Show each run as a log of its own, or say that training was interrupted and resumed.",
    ),
    Rule(
        name="same-log",
        kind="suspicious",
        check=same_log,
        fix="Show the log of each model's own training.",
    ),
    Rule(
        name="summary-total",
        kind="contradiction",
        check=summary_total,
        fix="Show the summary as it was printed.",
    ),
    Rule(
        name="parameters-claimed",
        kind="contradiction",
        check=parameters_claimed,
        fix="State the total of the layer summary.",
    ),
    Rule(
        name="over-budget",
        kind="overstatement",
        check=over_budget,
        fix="State the number of parameters, or at most that many if the bound is included.",
    ),
    Rule(
        name="receptive-field-table",
        kind="contradiction",
        check=field_table,
        fix="Compute each row: size + (kernel - 1) * jump; the jump is multiplied by the stride after the row, not before.",
    ),
    Rule(
        name="total-against-code",
        kind="contradiction",
        check=total_against_code,
        fix="State the total of the code that is submitted, or submit the code of the summary.",
    ),
    Rule(
        name="never-called",
        kind="note",
        check=never_called,
        fix="Remove the modules that forward does not call; a budget may count them.",
    ),
    Rule(
        name="shapes-against-code",
        kind="contradiction",
        check=shapes_against_code,
        fix="Show the summary of the code that is submitted.",
    ),
    Rule(
        name="field-against-code",
        kind="contradiction",
        check=field_against_code,
        fix="State the receptive field that `harness show` computes.",
    ),
)
