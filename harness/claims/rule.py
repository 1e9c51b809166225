"""A rule of the audit: an identifier, a kind, an example, and a function of what was read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from importlib import resources

from harness.claims.dossier import AuditFinding, Confidence, Dossier, Found, Kind
from harness.claims.evidence import Claim, DataPart, Epoch, Figure, Quote, two_digits


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

    def finding(self, one: Found) -> AuditFinding:
        """Return a finding of this rule."""
        return AuditFinding(rule=self.name, kind=self.kind, fix=self.fix, **vars(one))


def rule(kind: Kind, fix: str) -> Callable[[Callable[[Dossier], Iterator[Found]]], Rule]:
    """Make a rule of a function whose name is that of the rule, and whose docstring says when there is a finding."""

    def declare(check: Callable[[Dossier], Iterator[Found]]) -> Rule:
        what = " ".join((check.__doc__ or "").split())
        return Rule(name=check.__name__.replace("_", "-"), kind=kind, what=what, fix=fix, check=check)

    return declare


def points(value: Fraction) -> str:
    """Format a difference of percentages."""
    return f"{two_digits(abs(value))} points"


def best(epochs: Iterable[Epoch], part: DataPart) -> Epoch | None:
    """The first epoch with the highest accuracy on a part of the data; None if the log does not show it."""
    shown = (epoch for epoch in epochs if epoch.of(part) is not None)
    return max(shown, key=lambda epoch: epoch.exact(part), default=None)


def shows(epoch: Epoch, part: DataPart, value: Figure) -> bool:
    """Whether a claimed figure is the accuracy of an epoch, rounded."""
    accuracies = (epoch.train,) if part == "train" else (epoch.test, epoch.validation)
    return any(accuracy is not None and accuracy.is_shown_by(value) for accuracy in accuracies)


def parts_of(claim: Claim) -> tuple[DataPart, ...]:
    """The parts of the data that a claim may speak of."""
    return (claim.part,) if claim.part else ("test", "train")
