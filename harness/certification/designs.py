"""Statistical tests of a pass rate over seeds: with a fixed number of runs, or sequential.

A run passes or fails a contract's accuracy rule; the pass rate p is the probability that it passes. Both designs test p against
two rates: the verdict is ``pass`` with a probability of at most alpha if p <= p0, and ``fail`` with a probability of at most beta
if p >= p1. Error rates, expected numbers of runs and intervals are computed exactly, by recursion over the possible counts.
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


@dataclass(frozen=True)
class Endpoint:
    """Where a test can end: after ``runs`` runs, ``failures`` of which failed, with the verdict for that."""

    runs: int
    failures: int
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class OperatingCharacteristics:
    """Properties of a design at one true pass rate: probability of each verdict and expected number of runs."""

    passed: float
    failed: float
    inconclusive: float
    runs: float

    @property
    def shares(self) -> tuple[float, float, float]:
        """The probabilities of pass, fail and inconclusive."""
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
        """The verdict after so many runs and failures; None while the test goes on."""

    def decide(self, outcomes: Sequence[bool]) -> Endpoint | None:
        """Where the test ends, given which runs passed, in declared order; None if it needs more runs."""
        failures = 0
        for runs, passed in enumerate(outcomes, start=1):
            failures += not passed
            if verdict := self.verdict(runs, failures):
                return Endpoint(runs, failures, verdict)
        return None

    def endpoints(self, rate: float) -> dict[Endpoint, float]:
        """The probability of each endpoint at a pass rate, the strongest evidence for a high rate first.

        The order is that of C. Jennison and B. W. Turnbull (Technometrics 25, 1983, 49-58): a pass after fewer runs comes before
        one after more, then the endpoints without a verdict by their failures, then the failed ones, later before earlier.
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
        """Probabilities of the verdicts and expected number of runs at a pass rate."""
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
        """The exact two-sided confidence interval for the pass rate after the test ended.

        With endpoints ordered by evidence for a high rate, the lower limit is the rate at which evidence at least as
        strong as ``end`` has probability (1 - confidence) / 2, the upper limit that for evidence at most as strong.
        Coverage is at least ``confidence`` for every stopping rule; for a fixed number of runs this is the interval of
        C. J. Clopper and E. S. Pearson (Biometrika 26, 1934, 404-413).
        """
        tail = (1 - confidence) / 2
        return self._limit(end, tail, lower=True), self._limit(end, tail, lower=False)

    def lower_bound(self, end: Endpoint, confidence: float = 0.95) -> float:
        """The exact one-sided lower confidence bound for the pass rate after the test ended."""
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

    ``pass`` as soon as the likelihood ratio of p1 to p0 reaches 1 / alpha, ``fail`` as soon as it falls to beta, ``inconclusive``
    if neither happens. By Ville's inequality the error rates are at most alpha and beta for every choice of
    the rates; Wald's own bounds, (1 - beta) / alpha and beta / (1 - alpha), only approximate them.
    """

    name: ClassVar[str] = "sequential"

    def verdict(self, runs: int, failures: int) -> Verdict | None:
        """The verdict after so many runs and failures; None while the test goes on."""
        most_to_pass, least_to_fail = self._bounds[runs - 1]
        if failures <= most_to_pass:
            return "pass"
        if failures >= least_to_fail:
            return "fail"
        return "inconclusive" if runs == self.runs else None

    @functools.cached_property
    def _bounds(self) -> tuple[tuple[int, int], ...]:
        """For each number of runs, the most failures with which the test passes and the fewest with which it fails."""
        gain, loss = math.log(self.p1 / self.p0), math.log((1 - self.p0) / (1 - self.p1))
        bounds = []
        for runs in range(1, self.runs + 1):
            # The ratio's logarithm is runs * gain - failures * (gain + loss).
            to_pass = (runs * gain + math.log(self.alpha)) / (gain + loss)
            to_fail = (runs * gain - math.log(self.beta)) / (gain + loss)
            bounds.append((math.floor(to_pass), math.ceil(to_fail)))
        return tuple(bounds)


@dataclass(frozen=True, kw_only=True)
class FixedDesign(_Design):
    """Two exact binomial tests after exactly ``runs`` runs.

    ``pass`` if at most the observed number of failures has a probability <= alpha at p0; else ``fail`` if at least that
    number has a probability <= beta at p1; else ``inconclusive``.
    """

    name: ClassVar[str] = "fixed"

    def verdict(self, runs: int, failures: int) -> Verdict | None:
        """The verdict after so many runs and failures; None while the test goes on."""
        if runs < self.runs:
            return None
        return self._verdicts[failures]

    @functools.cached_property
    def _verdicts(self) -> tuple[Verdict, ...]:
        def verdict(failures: int) -> Verdict:
            if scipy.stats.binom.cdf(failures, self.runs, 1 - self.p0) <= self.alpha:
                return "pass"
            return "fail" if scipy.stats.binom.sf(failures - 1, self.runs, 1 - self.p1) <= self.beta else "inconclusive"

        return tuple(map(verdict, range(self.runs + 1)))


Design = SequentialDesign | FixedDesign


def _evidence_order(end: Endpoint) -> tuple[int, int, int]:
    if end.verdict == "pass":
        return 0, end.runs, end.failures
    if end.verdict == "inconclusive":
        return 1, end.runs, end.failures
    return 2, -end.runs, end.failures
