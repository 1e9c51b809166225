"""What a requirement is: its keys in a contract, its decision, its words and its experiment, in one class."""

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
    """What a requirement looks at: the captured model, the structure read off its graph, and experiments to run on it."""

    captured: CapturedModel
    structure: Structure
    experiments: Experiments


class Confirmation(NamedTuple):
    """What an experiment showed about a decision: whether it agrees, and what was observed."""

    agrees: bool
    observed: str


@dataclass(frozen=True, kw_only=True)
class Requirement(abc.ABC):
    """One thing that a contract may ask of a model.

    The fields of a subclass are its keys in the contract, with the values that stand for an absent key. All but a
    field of metadata ``in_section(...)`` belong to the section ``[section]``, or to the top of the document where
    ``section`` is empty. A value out of the `Range` in its annotation raises `ContractError`.
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
        """Whether any value is other than the default, which asks nothing; true of a requirement without keys."""
        keys = dataclasses.fields(self)
        return not keys or any(getattr(self, key.name) != key.default for key in keys)

    @property
    @abc.abstractmethod
    def expected(self) -> str:
        """What is asked, in words that a finding repeats."""

    def explain(self) -> str:
        """What is asked, as a sentence for readers of the contract."""
        return f"{self.expected[0].upper()}{self.expected[1:]}."

    @abc.abstractmethod
    def decide(self, model: ExaminedModel) -> Finding:
        """Decide from the graph, or from experiments where the graph cannot tell."""

    def confirm(self, model: ExaminedModel) -> Confirmation | None:  # noqa: ARG002 - subclasses use it
        """The result of an experiment that confirms or contradicts `decide`; None without one."""
        return None

    def finding(self, *, holds: bool | None, observed: str, evidence: Sequence[str] = (), hint: str = "") -> Finding:
        """The finding of this requirement: met if it ``holds``, undecided if None; the hint is for what is not met."""
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
    """A field whose key stands in another section than the other keys of its requirement."""
    return dataclasses.field(default=default, metadata={"section": name})


def section_of(requirement: type[Requirement], field: dataclasses.Field[Any]) -> str:
    """The section of the contract that holds the key of a field."""
    section: str = field.metadata.get("section", requirement.section)
    return section


def bounds_in_words(*, below: int | None = None, least: int | None = None, most: int | None = None) -> str:
    """Such as ``fewer than 8,000 and at least 100``."""
    bounds = (("fewer than", below), ("at most", most), ("at least", least))
    return " and ".join(f"{words} {bound:,}" for words, bound in bounds if bound is not None)
