"""The base class of requirements, with their contract keys, description, decision and confirming experiment."""

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

# The type of a contract key that bounds a count; None if there is no bound.
Bound = Annotated[int | None, Range(least=0)]
# The maximal number of items, such as dropouts, that a finding lists.
LISTED = 6


class ExaminedModel(NamedTuple):
    """What a requirement decides on: a captured model, the structure of the graph, and experiments on the model."""

    captured: CapturedModel
    structure: Structure
    experiments: Experiments


class Confirmation(NamedTuple):
    """The result of an experiment: whether the result agrees with the decision, and the observation as a sentence."""

    agrees: bool
    observed: str


@dataclass(frozen=True, kw_only=True)
class Requirement(abc.ABC):
    """A property that a contract may require of a model.

    The fields of a subclass are the requirement's keys in a contract; a key that is not given has the field's default.
    Keys are in the section ``[section]`` of the contract, or at the top level if ``section`` is empty, except for fields
    defined with `in_section`. A value outside the `Range` in a field's annotation raises `ContractError`.
    """

    name: ClassVar[str]
    """The requirement's name in findings."""

    section: ClassVar[str]
    """The section of the contract that contains the requirement's keys; empty for keys at the top level."""

    bounds: ClassVar[tuple[str, ...]] = ()
    """Keys of which a contract must give at least one; empty if there is no such condition."""

    def __post_init__(self) -> None:
        if self.bounds and all(getattr(self, bound) is None for bound in self.bounds):
            raise ContractError(f"expected a value for at least one of {', '.join(self.bounds)}, got none.")
        require_ranges(self, ContractError)
        given = {bound: value for bound in self.bounds if (value := getattr(self, bound)) is not None}
        least = given.pop("min", 0)
        for bound, value in given.items():
            # No number is at least 8,000 and below 8,000.
            if value - (bound == "below") < least:
                raise ContractError(
                    f"expected bounds that a model can meet, got min={least}, {bound}={value}."
                    f"{f' Did you mean min={value}, {bound}={least}?' if value < least else ''}"
                )

    @property
    def asked(self) -> bool:
        """Whether a contract with these values requires anything: a field differs from the default, or there are no fields."""
        keys = dataclasses.fields(self)
        return not keys or any(getattr(self, key.name) != key.default for key in keys)

    @property
    @abc.abstractmethod
    def expected(self) -> str:
        """The requirement as a phrase for findings, such as ``dropout present``."""

    def explain(self) -> str:
        """The requirement as a sentence, for a description of the contract."""
        return f"{self.expected[0].upper()}{self.expected[1:]}."

    @abc.abstractmethod
    def decide(self, model: ExaminedModel) -> Finding:
        """Decide whether a model meets the requirement, by its graph or, if necessary, by experiments."""

    def confirm(self, model: ExaminedModel) -> Confirmation | None:  # noqa: ARG002 - subclasses use it
        """Confirm or contradict the finding of `decide` by an experiment; None if there is no experiment."""
        return None

    def finding(self, *, holds: bool | None, observed: str, evidence: Sequence[str] = (), hint: str = "") -> Finding:
        """Build the finding of this requirement: pass, fail, or unknown if ``holds`` is None; a pass gets no hint."""
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
    """Define a field of a requirement whose key is in the section ``name`` of a contract, not in the requirement's."""
    return dataclasses.field(default=default, metadata={"section": name})


def section_of(requirement: type[Requirement], field: dataclasses.Field[Any]) -> str:
    """The section of a contract that contains the key of a requirement's field."""
    section: str = field.metadata.get("section", requirement.section)
    return section


def bounds_in_words(*, below: int | None = None, least: int | None = None, most: int | None = None) -> str:
    """Describe strict and inclusive bounds, as in ``at most 8,000 and at least 100``; None means no bound."""
    bounds = (("fewer than", below), ("at most", most), ("at least", least))
    return " and ".join(f"{words} {bound:,}" for words, bound in bounds if bound is not None)
