"""Base class of requirements: contract keys, decision, description and confirming experiment."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NamedTuple

from harness.errors import ContractError
from harness.findings import Finding, Status
from harness.graph import CapturedModel
from harness.structure import Experiments, Structure
from harness.tables import Range, require_ranges

# A bound on a count; None for no bound.
Bound = Annotated[int | None, Range(least=0)]
# A finding lists at most this many places: a model may have hundreds of dropouts.
LISTED = 6


class ExaminedModel(NamedTuple):
    """Input of a requirement: the captured model, the structure of its graph, and experiments to run on it."""

    captured: CapturedModel
    structure: Structure
    experiments: Experiments


class Confirmation(NamedTuple):
    """Result of an experiment: whether it agrees with the decision, and the observation."""

    agrees: bool
    observed: str


@dataclass(frozen=True, kw_only=True)
class Requirement(abc.ABC):
    """One thing that a contract may ask of a model.

    The fields of a subclass are its keys in the contract; absent keys have the field's default. Keys belong to the
    section ``[section]``, or to the top level if ``section`` is empty, except for fields defined with `in_section`.
    A value outside the `Range` in its annotation raises `ContractError`.
    """

    name: ClassVar[str]
    """The requirement's name in findings."""

    section: ClassVar[str]
    """The section of the contract that holds its keys; empty for keys at the top."""

    bounds: ClassVar[tuple[str, ...]] = ()
    """Keys of which at least one must be given; empty where none needs to be."""

    def __post_init__(self) -> None:
        if self.bounds and all(getattr(self, bound) is None for bound in self.bounds):
            raise ContractError(f"expected a value for at least one of {', '.join(self.bounds)}, got none.")
        require_ranges(self, ContractError)

    @property
    def asked(self) -> bool:
        """Whether any field differs from its default, which requires nothing; true if there are no fields."""
        keys = dataclasses.fields(self)
        return not keys or any(getattr(self, key.name) != key.default for key in keys)

    @property
    @abc.abstractmethod
    def expected(self) -> str:
        """The requirement as a phrase, for findings."""

    def explain(self) -> str:
        """The requirement as a sentence, for contract readers."""
        return f"{self.expected[0].upper()}{self.expected[1:]}."

    @abc.abstractmethod
    def decide(self, model: ExaminedModel) -> Finding:
        """Decide from the graph, or by experiments if the graph is not enough."""

    def confirm(self, model: ExaminedModel) -> Confirmation | None:  # noqa: ARG002 - subclasses use it
        """The result of an experiment that confirms or contradicts `decide`; None without one."""
        return None

    def finding(self, *, holds: bool | None, observed: str, evidence: Sequence[str] = (), hint: str = "") -> Finding:
        """Build a finding: pass, fail, or unknown if ``holds`` is None; a passing finding has no hint."""
        status = Status.UNKNOWN if holds is None else Status.PASS if holds else Status.FAIL
        return Finding(
            requirement=self.name,
            status=status,
            expected=self.expected,
            observed=observed,
            evidence=tuple(evidence),
            hint="" if holds else hint,
        )


def in_section(name: str, default: Any) -> Any:  # noqa: ANN401 - a default may be of any type
    """A field whose key is in another section than the requirement's other keys."""
    return dataclasses.field(default=default, metadata={"section": name})


def section_of(requirement: type[Requirement], field: dataclasses.Field[Any]) -> str:
    """The section of the contract that holds the key of a field."""
    section: str = field.metadata.get("section", requirement.section)
    return section


def bounds_in_words(*, below: int | None = None, least: int | None = None, most: int | None = None) -> str:
    """Text such as ``at most 8,000 and at least 100``."""
    bounds = (("fewer than", below), ("at most", most), ("at least", least))
    return " and ".join(f"{words} {bound:,}" for words, bound in bounds if bound is not None)
