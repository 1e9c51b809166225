"""A rule of the audit: an identifier, a kind, an example, and a function of what was read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction
from importlib import resources

from harness.claims.dossier import AuditFinding, Confidence, Dossier, Kind
from harness.claims.evidence import Claim, DataPart, Epoch, Figure, Quote


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a rule finds: see the fields of the same names of `AuditFinding`."""

    said: Quote
    claim: str
    shown: str
    evidence: tuple[Quote, ...]
    confidence: Confidence


def report(said: Quote, claim: str, shown: str, *evidence: Quote, confidence: Confidence = "same section") -> Found:
    """Return what a rule finds."""
    return Found(said=said, claim=claim, shown=shown, evidence=evidence, confidence=confidence)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A rule: ``what`` says when it yields a finding, ``fix`` what to do then."""

    name: str
    kind: Kind
    what: str
    fix: str
    check: Callable[[Dossier], Iterator[Found]]

    @property
    def example(self) -> str:
        """A document that triggers this rule and no other."""
        return resources.files("harness.claims").joinpath("examples", f"{self.name}.md").read_text("utf-8")

    def findings(self, dossier: Dossier) -> Iterator[AuditFinding]:
        """Apply the rule to what was read of one submission."""
        return map(self.finding, self.check(dossier))

    def finding(self, one: Found) -> AuditFinding:
        """Return a finding of this rule."""
        return AuditFinding(rule=self.name, kind=self.kind, fix=self.fix, **vars(one))


def rule(kind: Kind, fix: str) -> Callable[[Callable[[Dossier], Iterator[Found]]], Rule]:
    """Make a rule of a function whose name is that of the rule, and whose docstring says when there is a finding."""

    def declare(check: Callable[[Dossier], Iterator[Found]]) -> Rule:
        what = " ".join((check.__doc__ or "").split())
        return Rule(name=check.__name__.replace("_", "-"), kind=kind, what=what, fix=fix, check=check)

    return declare


def two_digits(value: Fraction) -> str:
    """Format a percentage with two decimals."""
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
    return accuracy is not None and accuracy.is_shown_by(value)


def parts_of(claim: Claim) -> tuple[DataPart, ...]:
    """The parts of the data that a claim may speak of."""
    return (claim.part,) if claim.part else ("test", "train")
