"""Replaying a record: the same bits where the environment is the same, the same accuracy within chance where it is not."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from harness.findings import Finding, Status
from harness.reproducibility.bisection import bisect
from harness.reproducibility.noise import FEWEST_SEEDS, SeedNoise
from harness.reproducibility.rerun import environment_differences
from harness.training import EpochResult, RunRecord


@dataclass(frozen=True, kw_only=True)
class Replay:
    """A record and the run that repeated it.

    Args:
        record: what was to be repeated.
        again: the run that repeated it, over as many epochs.
        noise: how much the seed alone moves this training's accuracy, where that is on record.
    """

    record: RunRecord
    again: RunRecord
    noise: SeedNoise | None

    def finding(self) -> Finding:
        """The comparison as a verdict: bit for bit, or else by the right answers after the last epoch, never more."""
        decisive, rest = environment_differences(self.record.environment, self.again.environment)
        if self.record.device != self.again.device:
            decisive = (f"device: {self.record.device} against {self.again.device}", *decisive)
        parted = self._parted()
        if decisive or (parted and rest):
            return self._by_counts((*decisive, *rest), parted)
        return self._by_bits(parted, rest)

    def _parted(self) -> str:
        """Where the two runs part, in words; empty if every digest and every figure on record came again."""
        found = bisect(self.record, self.again)
        if found.difference is not None:
            return found.words()
        for one, other in zip(self.record.epochs, self.again.epochs, strict=False):
            for name, value in _figures(one).items():
                if value != _figures(other)[name]:
                    return f"the same state, but {name} of epoch {one.epoch} is {value} on record and {_figures(other)[name]} now"
        if len(self.record.epochs) != len(self.again.epochs):
            return f"{len(self.record.epochs)} whole epochs on record, {len(self.again.epochs)} now"
        return ""

    def _by_bits(self, parted: str, unlike: tuple[str, ...]) -> Finding:
        epochs, steps = len(self.record.epochs), self.record.digests[-1].step
        return Finding(
            requirement="replay",
            status=Status.FAIL if parted else Status.PASS,
            expected="the digests and figures on record, bit for bit",
            observed=parted or f"bit-equal over {epochs} epoch{'' if epochs == 1 else 's'}, {steps} steps",
            evidence=(
                *self._counts(),
                f"state digest {self.again.state_digest}",
                *(f"other than on record, but no bit depends on it: {line}" for line in unlike),
            ),
            hint="The environment is the one on record. `harness repro MODEL` shows on which axis the training does not repeat."
            if parted
            else "",
        )

    def _by_counts(self, differing: tuple[str, ...], parted: str) -> Finding:
        """Only whether the accuracy is that of the same training under another seed: elsewhere no more can be asked."""
        evidence = (
            *(f"the environment differs: {line}" for line in differing),
            *self._counts(),
            f"bits: {parted}" if parted else "bits: the same, as it happens",
        )
        expected = "in another environment: right answers within the seed noise on record"
        if len(self.again.epochs) < len(self.record.epochs):
            return Finding(
                requirement="replay",
                status=Status.FAIL,
                expected=expected,
                observed=f"the loss stopped being a number in epoch {len(self.again.epochs) + 1}, which is whole on record",
                evidence=evidence,
            )
        if self.noise is None:
            return Finding(
                requirement="replay",
                status=Status.UNKNOWN,
                expected=expected,
                observed="another environment, and no seed noise of this training on record: nothing can be said",
                evidence=evidence,
                hint=f"Train it under {FEWEST_SEEDS} other seeds or more and name the folder of their records with --seeds.",
            )
        bound = self.noise.bound(len(self.record.epochs))
        apart = abs(self.record.epochs[-1].test_correct - self.again.epochs[-1].test_correct)
        within = apart <= bound
        return Finding(
            requirement="replay",
            status=Status.UNKNOWN if within else Status.FAIL,
            expected=expected,
            observed=f"another environment; {apart} right answers apart, {'within' if within else 'outside'} the seed noise of "
            f"{bound:.1f}",
            evidence=(
                *evidence,
                f"by {len(self.noise.counts)} other seeds, two runs are at most {bound:.1f} apart in 99 of 100 cases",
            ),
            hint="A statistical comparison does not show that the training repeats bit for bit."
            if within
            else "The training gives another accuracy here than chance explains.",
        )

    def _counts(self) -> tuple[str, ...]:
        if not self.record.epochs or not self.again.epochs:
            return ()
        one, other = self.record.epochs[-1], self.again.epochs[-1]
        now = f"{other.test_correct:,} after epoch {other.epoch} now"
        return (f"right answers: {one.test_correct:,} of {one.test_total:,} after epoch {one.epoch} on record, {now}",)


def _figures(result: EpochResult) -> dict[str, float]:
    """Everything of an epoch that must come again."""
    return {name: value for name, value in dataclasses.asdict(result).items() if name != "seconds"}
