"""Statistical tests of a pass rate over seeds: with a fixed number of runs, or sequential.

A run passes or fails a contract's accuracy rule; the pass rate p is the probability that a run passes. Both designs
test p against two rates: the verdict is ``pass`` with a probability of at most alpha if p <= p0, and ``fail`` with a
probability of at most beta if p >= p1. Error rates, expected numbers of runs and intervals are computed exactly, by
recursion over the possible counts.
"""

from __future__ import annotations

import abc
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import scipy  # imports its submodules, which take a second, on first access

from harness.errors import InputError
from harness.tables import Range, require_ranges

Verdict = Literal["pass", "fail", "inconclusive"]
_TIE = 1e-12  # larger than the rounding errors by which equal numbers differ


@dataclass(frozen=True)
class Endpoint:
    """A stopping point of a pass-rate test: the number of runs so far, how many of them failed, and the verdict given there."""

    runs: int
    failures: int
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class OperatingCharacteristics:
    """The probability of each verdict and the expected number of runs of a design, at one true pass rate."""

    passed: float
    failed: float
    inconclusive: float
    runs: float

    @property
    def shares(self) -> tuple[float, float, float]:
        """The probabilities of the verdicts pass, fail and inconclusive, in this order."""
        return self.passed, self.failed, self.inconclusive


@dataclass(frozen=True, kw_only=True)
class _Design(abc.ABC):
    p0: Annotated[float, Range(above=0, below=1)] = 0.80
    p1: Annotated[float, Range(above=0, below=1)] = 0.95
    alpha: Annotated[float, Range(above=0, below=0.5)] = 0.05
    beta: Annotated[float, Range(above=0, below=0.5)] = 0.05
    runs: Annotated[int, Range(least=1, most=1000)] = 50

    def __post_init__(self) -> None:
        require_ranges(self, InputError)
        if self.p0 >= self.p1:
            raise InputError(f"expected p0 < p1, got p0={self.p0}, p1={self.p1}.")

    @abc.abstractmethod
    def verdict(self, runs: int, failures: int) -> Verdict | None:
        """Return the verdict after ``runs`` runs, ``failures`` of which failed; None if the test continues."""

    def decide(self, outcomes: Sequence[bool]) -> Endpoint | None:
        """Return the endpoint of the test; None if the test needs more runs.

        ``outcomes`` says for each run, in declared order, whether the run passed.
        """
        failures = 0
        for runs, passed in enumerate(outcomes, start=1):
            failures += not passed
            if verdict := self.verdict(runs, failures):
                return Endpoint(runs, failures, verdict)
        return None

    def endpoints(self, rate: float) -> dict[Endpoint, float]:
        """Return the probability of each endpoint if a run passes with probability ``rate``.

        The endpoints are ordered from the strongest to the weakest evidence for a high pass rate, as by C. Jennison and
        B. W. Turnbull (Technometrics 25, 1983, 49-58): first passes, earlier before later; then inconclusive endpoints,
        with few failures before many; then failures, later before earlier.
        """
        found: dict[Endpoint, float] = {}
        reached = {0: 1.0}
        for runs in range(1, self.runs + 1):
            continued: dict[int, float] = {}
            for failures, probability in reached.items():
                for after, factor in ((failures, rate), (failures + 1, 1 - rate)):
                    verdict = self.verdict(runs, after)
                    if verdict is None:
                        continued[after] = continued.get(after, 0.0) + probability * factor
                    else:
                        end = Endpoint(runs, after, verdict)
                        found[end] = found.get(end, 0.0) + probability * factor
            reached = continued
        return {end: found[end] for end in sorted(found, key=_evidence_order)}

    def characteristics(self, rate: float) -> OperatingCharacteristics:
        """Compute the probability of each verdict and the expected number of runs if a run passes with probability ``rate``."""
        ends = self.endpoints(rate)
        by_verdict = {
            verdict: math.fsum(probability for end, probability in ends.items() if end.verdict == verdict)
            for verdict in ("pass", "fail", "inconclusive")
        }
        expected = math.fsum(end.runs * probability for end, probability in ends.items())
        return OperatingCharacteristics(
            passed=by_verdict["pass"],
            failed=by_verdict["fail"],
            inconclusive=by_verdict["inconclusive"],
            runs=expected,
        )

    def interval(self, end: Endpoint, confidence: float = 0.95) -> tuple[float, float]:
        """Compute the exact two-sided confidence interval for the pass rate after the test ended at ``end``.

        The endpoints are ordered as by `endpoints`. The lower limit is the pass rate at which evidence at least as
        strong as ``end`` has probability (1 - confidence) / 2, the upper limit the pass rate at which evidence at most
        as strong has this probability. The coverage is at least ``confidence`` for every stopping rule. With a fixed
        number of runs the interval is that of C. J. Clopper and E. S. Pearson (Biometrika 26, 1934, 404-413).
        """
        tail = (1 - confidence) / 2
        return self._limit(end, tail, lower=True), self._limit(end, tail, lower=False)

    def lower_bound(self, end: Endpoint, confidence: float = 0.95) -> float:
        """Compute the exact one-sided lower confidence bound for the pass rate after the test ended at ``end``."""
        return self._limit(end, 1 - confidence, lower=True)

    def _limit(self, end: Endpoint, tail: float, *, lower: bool) -> float:
        def excess(rate: float) -> float:
            ends = list(self.endpoints(rate).items())
            place = next(index for index, (one, _) in enumerate(ends) if one == end)
            side = ends[: place + 1] if lower else ends[place:]
            return math.fsum(probability for _, probability in side) - tail

        edge = 0.0 if lower else 1.0
        if excess(edge) > 0:
            return edge
        return float(scipy.optimize.brentq(excess, 0.0, 1.0, xtol=1e-10))


@dataclass(frozen=True, kw_only=True)
class SequentialDesign(_Design):
    """A. Wald's sequential probability ratio test (Ann. Math. Statist. 16, 1945, 117-186), truncated after ``runs`` runs.

    The verdict is ``pass`` as soon as the likelihood ratio of p1 to p0 is at least 1 / alpha, ``fail`` as soon as the
    ratio is at most beta, and ``inconclusive`` if neither occurs within ``runs`` runs. By Ville's inequality the error
    rates are at most alpha and beta for every choice of p0 and p1; with Wald's own bounds, (1 - beta) / alpha and beta
    / (1 - alpha), this holds only approximately.
    """

    name: ClassVar[str] = "sequential"

    def verdict(self, runs: int, failures: int) -> Verdict | None:
        """Return the verdict after ``runs`` runs, ``failures`` of which failed; None if the test continues."""
        most_to_pass, least_to_fail = self._bounds[runs - 1]
        if failures <= most_to_pass:
            return "pass"
        if failures >= least_to_fail:
            return "fail"
        return "inconclusive" if runs == self.runs else None

    @functools.cached_property
    def _bounds(self) -> tuple[tuple[int, int], ...]:
        """For each number of runs, the largest number of failures for a pass and the smallest number of failures for a fail."""
        gain, loss = math.log(self.p1 / self.p0), math.log((1 - self.p0) / (1 - self.p1))
        bounds = []
        for runs in range(1, self.runs + 1):
            # The ratio's logarithm is runs * gain - failures * (gain + loss).
            to_pass = (runs * gain + math.log(self.alpha)) / (gain + loss)
            to_fail = (runs * gain - math.log(self.beta)) / (gain + loss)
            bounds.append((math.floor(to_pass + _TIE), math.ceil(to_fail - _TIE)))
        return tuple(bounds)


@dataclass(frozen=True, kw_only=True)
class FixedDesign(_Design):
    """Two exact binomial tests after exactly ``runs`` runs.

    The verdict is ``pass`` if, at the pass rate p0, the observed number of failures or a smaller one has a probability
    of at most alpha; otherwise ``fail`` if, at the pass rate p1, the observed number of failures or a larger one has a
    probability of at most beta; otherwise ``inconclusive``.
    """

    name: ClassVar[str] = "fixed"

    def verdict(self, runs: int, failures: int) -> Verdict | None:
        """Return the verdict after ``runs`` runs, ``failures`` of which failed; None if the test continues."""
        if runs < self.runs:
            return None
        return self._verdicts[failures]

    def endpoints(self, rate: float) -> dict[Endpoint, float]:
        """Return the probability of each endpoint, in the order of a sequential design, by the binomial distribution."""
        probabilities = scipy.stats.binom.pmf(range(self.runs + 1), self.runs, 1 - rate)
        ends = [Endpoint(self.runs, failures, verdict) for failures, verdict in enumerate(self._verdicts)]
        found = dict(zip(ends, map(float, probabilities), strict=True))
        return {end: found[end] for end in sorted(found, key=_evidence_order)}

    @functools.cached_property
    def _verdicts(self) -> tuple[Verdict, ...]:
        def verdict(failures: int) -> Verdict:
            if scipy.stats.binom.cdf(failures, self.runs, 1 - self.p0) <= self.alpha + _TIE:
                return "pass"
            return (
                "fail"
                if scipy.stats.binom.sf(failures - 1, self.runs, 1 - self.p1) <= self.beta + _TIE
                else "inconclusive"
            )

        return tuple(map(verdict, range(self.runs + 1)))


Design = SequentialDesign | FixedDesign


def _evidence_order(end: Endpoint) -> tuple[int, int, int]:
    if end.verdict == "pass":
        return 0, end.runs, end.failures
    if end.verdict == "inconclusive":
        return 1, end.runs, end.failures
    return 2, -end.runs, end.failures
