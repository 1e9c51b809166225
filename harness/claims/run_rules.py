"""Rules on training logs: their epochs, steps and times, and logs that occur twice."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from datetime import timedelta
from itertools import pairwise

from harness.claims.dossier import Dossier
from harness.claims.evidence import Run
from harness.claims.rule import Found, report, rule

# Images of the training set of MNIST; half of them is less than any usual split leaves for training.
_TRAIN_IMAGES = 60_000
_FEWEST_TRAIN_IMAGES = 40_000
_FINGERPRINT = 5
_FEWEST_TIMES = 3
_GAP = timedelta(seconds=60)
_GAP_FACTOR = 10


@rule("contradiction", "State the number of epochs in the log, or show the whole log.")
def epochs_run(dossier: Dossier) -> Iterator[Found]:
    """The log has another number of epochs than the document says, such as 14 of range(1, 15)."""
    for claim, paired in dossier.judged("epochs"):
        lengths = {len(run.epochs) for run in paired.items}
        if claim.value.exact not in lengths and not dossier.reading[claim.section.file].stops_early:
            first, *_, last = (paired.items[-1].epochs[0], *paired.items[-1].epochs)
            numbered = "" if last.label is None else f", numbered {first.label} to {last.label}"
            said, shown = f"{claim.value} epochs", f"the log has {len(paired.items[-1].epochs)}{numbered}"
            yield report(claim.quote, said, shown, first.test_quote, last.test_quote, confidence=paired.confidence)


@rule("suspicious", "State the batch size of the run in the log.")
def steps_and_batch_size(dossier: Dossier) -> Iterator[Found]:
    """The steps of an epoch times the batch size are far from the number of training images."""
    for claim, paired in dossier.judged("batch size"):
        steps = {epoch.steps: epoch for run in paired.items for epoch in run.epochs if epoch.steps}
        sizes = [int(size.exact) for size in (claim.value, *claim.others)]
        if steps and not any(_fits(size, count) for size in sizes for count in steps):
            count, epoch = next(iter(steps.items()))
            shown = (
                f"{count:,} steps of {sizes[0]} images are about {sizes[0] * count:,} images; the training set of MNIST has "
                f"{_TRAIN_IMAGES:,}, so that the batch size was about {-(-_TRAIN_IMAGES // count)}"
            )
            quote = epoch.quote("train")
            yield report(claim.quote, f"batch size {claim.value}", shown, quote, confidence=paired.confidence)


def _fits(size: int, steps: int) -> bool:
    return size * (steps - 1) < _TRAIN_IMAGES and size * (steps + 1) > _FEWEST_TRAIN_IMAGES


@rule("suspicious", "Show each run as a log of its own, or say that training was interrupted and resumed.")
def joined_log(dossier: Dossier) -> Iterator[Found]:
    """A log is joined from two runs, or cut: much more time passes between two epochs than usual, or numbers are missing."""
    for run in dossier.runs:
        for before, after in pairwise(run.epochs):
            missing = after.label - before.label - 1 if after.label is not None and before.label is not None else 0
            if missing > 0 and not run.damaged:
                said = f"epoch {after.label} follows epoch {before.label}"
                shown = f"{missing} epochs between them are missing: lines were cut out, or two runs joined"
                yield report(after.heading or after.test_quote, said, shown, before.test_quote)
        lengths = [(one.ended - one.begun).total_seconds() for one in run.epochs if one.ended and one.begun]
        usual = statistics.median(lengths) if len(lengths) >= _FEWEST_TIMES else 0
        for before, after in pairwise(run.epochs):
            if not usual or not before.ended or not after.begun:
                continue
            gap = after.begun - before.ended
            if gap > _GAP and gap.total_seconds() > _GAP_FACTOR * usual:
                shown = (
                    f"{gap} pass between the end of one epoch ({before.ended:%H:%M:%S}) and the next ({after.begun:%H:%M:%S}), "
                    f"where an epoch takes about {usual:.0f} s: two runs were joined"
                )
                yield report(after.heading or after.test_quote, "one run", shown, before.test_quote)


@rule("suspicious", "Show the log of each model's own training.")
def same_log(dossier: Dossier) -> Iterator[Found]:
    """Two models, or two submissions, have logs with the same losses and counts in five epochs in a row."""
    seen: dict[object, Run] = {}
    for run in dossier.runs:
        mine = tuple(fingerprints(run))
        first = next((seen[one] for one in mine if one in seen), None)
        seen |= dict.fromkeys((one for one in mine if one not in seen), run)
        if first is None or None in {first.section.key, run.section.key} or first.section.key == run.section.key:
            continue
        yield copied(run, f"model {run.section.key}", first, f"model {first.section.key}")


def copied(run: Run, of: str, first: Run, of_first: str) -> Found:
    """Return the finding that a run repeats another one."""
    shown = f"a log of {of_first} has the same losses and counts in at least {_FINGERPRINT} epochs in a row"
    return report(run.epochs[0].test_quote, f"a log of {of}", shown, first.epochs[0].test_quote)


def fingerprints(run: Run) -> Iterator[tuple[tuple[str, int], ...]]:
    """The losses and counts of every five consecutive epochs of a run, as printed; different runs never share one."""
    pairs = [(one.test_loss, one.test.correct) for one in run.epochs]
    for start in range(len(pairs) - _FINGERPRINT + 1):
        window = pairs[start : start + _FINGERPRINT]
        if all(loss is not None and correct is not None for loss, correct in window) and len(set(window)) > 1:
            yield tuple(window)  # type: ignore[arg-type]
