"""Rules on training logs: their epochs, steps and times, and logs that occur twice."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator
from datetime import timedelta
from itertools import pairwise

from harness.claims.dossier import Dossier, Found
from harness.claims.evidence import Claim, Run
from harness.claims.rule import report, rule

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
        if (
            not any(_may_have(run, claim) for run in paired.items)
            and not dossier.reading[claim.section.file].stops_early
        ):
            first, *_, last = (paired.items[-1].epochs[0], *paired.items[-1].epochs)
            numbered = "" if last.label is None else f", numbered {first.label} to {last.label}"
            said, shown = f"{claim.value} epochs", f"the log has {len(paired.items[-1].epochs)}{numbered}"
            yield report(claim.quote, said, shown, first.test_quote, last.test_quote, confidence=paired.confidence)


def _may_have(run: Run, claim: Claim) -> bool:
    """Whether a run may have as many epochs as claimed; an excerpt may have any number from that of its last epoch on."""
    if run.is_excerpt:
        return claim.value.exact >= max(run.labels, default=0)
    return claim.value.exact == len(run.epochs)


@rule("suspicious", "State the batch size of the run in the log.")
def steps_and_batch_size(dossier: Dossier) -> Iterator[Found]:
    """The steps of an epoch times the batch size are far from the number of training images."""
    for claim, paired in dossier.judged("batch size"):
        steps = {epoch.steps: epoch for run in paired.items for epoch in run.epochs if epoch.steps}
        sizes = [int(size.exact) for size in (claim.value, *claim.others)]
        # The number of images, as the last batch may be smaller or left out
        ranges = [(size * (count - 1), size * (count + 1)) for size in sizes for count in steps]
        if ranges and not any(low < _TRAIN_IMAGES and high > _FEWEST_TRAIN_IMAGES for low, high in ranges):
            count, epoch = next(iter(steps.items()))
            shown = (
                f"{count:,} steps of {sizes[0]} images are about {sizes[0] * count:,} images; the training set of MNIST has "
                f"{_TRAIN_IMAGES:,}, so that the batch size was about {-(-_TRAIN_IMAGES // count)}"
            )
            quote = epoch.quote("train")
            yield report(claim.quote, f"batch size {claim.value}", shown, quote, confidence=paired.confidence)


@rule("suspicious", "Show each run as a log of its own, or say that training was interrupted and resumed.")
def joined_log(dossier: Dossier) -> Iterator[Found]:
    """A log is joined from two runs, or cut: much more time passes between two epochs than usual, or numbers are missing."""
    for run in dossier.runs:
        lengths = [(one.ended - one.begun).total_seconds() for one in run.epochs if one.ended and one.begun]
        usual = statistics.median(lengths) if len(lengths) >= _FEWEST_TIMES else math.inf
        for before, after in pairwise(run.epochs):
            quotes = (after.heading or after.test_quote, before.test_quote)
            missing = after.label - before.label - 1 if after.label is not None and before.label is not None else 0
            if missing > 0 and not run.damaged and not run.elided:
                shown = f"{missing} epochs between them are missing: lines were cut out, or two runs joined"
                yield report(quotes[0], f"epoch {after.label} follows epoch {before.label}", shown, quotes[1])
            gap = after.begun - before.ended if after.begun and before.ended else timedelta()
            if gap > _GAP and gap.total_seconds() > _GAP_FACTOR * usual:
                shown = (
                    f"{gap} pass between the end of one epoch ({before.ended:%H:%M:%S}) and the next ({after.begun:%H:%M:%S}), "
                    f"where an epoch takes about {usual:.0f} s: two runs were joined"
                )
                yield report(quotes[0], "one run", shown, quotes[1])


@rule("suspicious", "Show the log of each model's own training.")
def same_log(dossier: Dossier) -> Iterator[Found]:
    """Two models, or two submissions, have logs with the same losses and counts in five epochs in a row."""
    yield from copies((f"model {run.section.key}", run) for run in dossier.runs if run.section.key is not None)


def copies(runs: Iterable[tuple[str, Run]]) -> Iterator[Found]:
    """Yield a finding for each run that repeats an earlier one of another name; a name is that of a model or a submission."""
    seen: dict[object, tuple[str, Run]] = {}
    for name, run in runs:
        marks = tuple(_fingerprints(run))
        earlier = next((seen[mark] for mark in marks if mark in seen and seen[mark][0] != name), None)
        seen |= dict.fromkeys((mark for mark in marks if mark not in seen), (name, run))
        if earlier:
            first, log = earlier
            shown = f"a log of {first} has the same losses and counts in at least {_FINGERPRINT} epochs in a row"
            yield report(run.epochs[0].test_quote, f"a log of {name}", shown, log.epochs[0].test_quote)


def _fingerprints(run: Run) -> Iterator[tuple[tuple[str, int], ...]]:
    """The losses and counts of every five consecutive epochs of a run, as printed; different runs never share one."""
    pairs = [(one.test_loss, one.test.correct) for one in run.epochs]
    for start in range(len(pairs) - _FINGERPRINT + 1):
        window = pairs[start : start + _FINGERPRINT]
        if all(loss is not None and correct is not None for loss, correct in window) and len(set(window)) > 1:
            yield tuple(window)  # type: ignore[arg-type]
