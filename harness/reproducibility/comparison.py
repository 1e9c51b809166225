"""Comparing two training runs: the first difference, its likely cause, and settings that differ in the records."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from harness.reproducibility.trace import StepTrace, Trace
from harness.training import BIT_RELEVANT, INPUTS, STATES, Environment, RunRecord, StepDigests


class Cause(Enum):
    """The likely cause of a difference between two trainings, derived from the kind of digest that differs first."""

    INITIALISATION = "initialisation"
    ORDER = "data order"
    AUGMENTATION = "augmentation"
    DROPOUT = "dropout stream"
    RATE = "learning rate"
    MODEL = "model"
    RECIPE = "recipe"
    DATA = "data"
    ENVIRONMENT = "environment"
    ARITHMETIC = "arithmetic"


_CAUSE_OF_INPUT = {
    "order": Cause.ORDER,
    "augmentation": Cause.AUGMENTATION,
    "dropout": Cause.DROPOUT,
    "rate": Cause.RATE,
}
_KIND_IN_TEXT = {
    "order": "the order of the images",
    "augmentation": "the augmentation",
    "dropout": "the state of the random generator that dropout draws from",
    "rate": "the learning rate",
    "parameters": "the parameters",
    "buffers": "the buffers",
    "optimizer": "the optimizer state",
}


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The first difference between two training runs; ``step`` is 0 if they differ before the first step.

    ``kind``: the differing input or part of the state, a field of `StepDigests`. ``between_steps``: the state differs
    at the start of the step, but not at the end of the previous step. ``tensor``: name of the first differing tensor in
    module order; None if an input differs or no tensors were kept. ``size``: the largest absolute difference between
    values of the tensor, which can be infinite or NaN; None if unknown. ``detail``: both values as text, if short.
    """

    step: int
    kind: str
    between_steps: bool = False
    tensor: str | None = None
    size: float | None = None
    cause: Cause
    detail: str = ""

    def describe(self) -> str:
        """Describe the difference as a phrase, such as ``differs at step 12 in tensor conv.weight by 1.2e-07``."""
        if self.step == 0:
            place = "before the first step"
        else:
            place = f"before step {self.step}" if self.between_steps else f"at step {self.step}"
        if self.tensor is None:
            return f"differs {place} in {_KIND_IN_TEXT[self.kind]}"
        size = "" if self.size is None else f" by {self.size:.2g}"
        return f"differs {place} in tensor {self.tensor}{size}"


def first_difference(one: Trace, other: Trace, *, unexplained: Cause = Cause.ARITHMETIC) -> Difference | None:
    """Return the first difference between two traces that begin at the same step; None if they are equal.

    ``unexplained`` is the cause reported if the state after a step differs although the inputs of the step are equal.
    """
    previous: tuple[StepTrace, StepTrace] | None = None
    for pair in zip(one, other, strict=False):
        found = _difference_in_step(*pair, previous, unexplained)
        if found is not None:
            return found
        previous = pair
    if len(one) != len(other):
        # The first step that only one trace has: there are no tensors to compare.
        longer = one if len(one) > len(other) else other
        step = longer[min(len(one), len(other))].number
        return Difference(step=step, kind="parameters", cause=unexplained, detail="one run ended")
    return None


def describe_difference(one: Trace, other: Trace) -> str | None:
    """Describe the first difference between two traces as a phrase; None if they are equal."""
    difference = first_difference(one, other)
    return None if difference is None else difference.describe()


def _difference_in_step(
    one: StepTrace, other: StepTrace, previous: tuple[StepTrace, StepTrace] | None, unexplained: Cause
) -> Difference | None:
    if (kind := first_differing_kind(one.start, other.start, STATES)) is not None:
        before, other_before = one.before, other.before
        if previous:
            before, other_before = before or previous[0].after, other_before or previous[1].after
        tensor, size = _first_differing_tensor(before, other_before)
        if previous is None and one.number == 1:
            return Difference(step=0, kind=kind, cause=Cause.INITIALISATION, tensor=tensor, size=size)
        step = one.number
        return Difference(step=step, kind=kind, cause=unexplained, tensor=tensor, size=size, between_steps=True)
    if (kind := first_differing_kind(one.start, other.start, INPUTS)) is not None:
        rates = (", ".join(f"{rate:g}" for rate in step.rates) for step in (one, other))
        detail = " -> ".join(rates) if kind == "rate" else ""
        return Difference(step=one.number, kind=kind, cause=_CAUSE_OF_INPUT[kind], detail=detail)
    if (kind := first_differing_kind(one.end, other.end, STATES)) is not None:
        tensor, size = _first_differing_tensor(one.after, other.after)
        return Difference(step=one.number, kind=kind, cause=unexplained, tensor=tensor, size=size)
    return None


def first_differing_digests(
    one: Sequence[StepDigests], other: Sequence[StepDigests], *, unexplained: Cause
) -> tuple[int, Difference] | None:
    """Return the first difference between the digests of two runs; None if there is none.

    The difference follows the last earlier step at which all digests agree. Only steps with digests in both runs are
    compared. If several inputs differ at the first such step, the digests do not show which input differed first; the
    first in the order of `StepDigests` is returned. ``unexplained`` is the cause reported if only the state differs.
    """
    others = {digests.step: digests for digests in other}
    agreed = 0
    for left in one:
        right = others.get(left.step)
        if right is None:
            continue
        kind = first_differing_kind(left, right, (*INPUTS, *STATES))
        if kind is None:
            agreed = left.step
            continue
        cause = Cause.INITIALISATION if left.step == 0 else _CAUSE_OF_INPUT.get(kind, unexplained)
        return agreed, Difference(step=left.step, kind=kind, cause=cause)
    return None


def first_differing_kind(one: StepDigests, other: StepDigests, kinds: Sequence[str]) -> str | None:
    """Return the first of ``kinds`` (members of `INPUTS` and `STATES`) whose digests differ; None if all agree."""
    return next((kind for kind in kinds if getattr(one, kind) != getattr(other, kind)), None)


def _first_differing_tensor(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> tuple[str | None, float | None]:
    """Return the name of the first tensor that is not bit-equal, and the largest absolute difference in it.

    The difference is None if shape or dtype differ or only one side has the tensor. Both results are None if all
    tensors are equal or one side has no tensors.
    """
    if not one or not other:
        return None, None
    for name in dict.fromkeys((*one, *other)):
        if name not in one or name not in other:
            return name, None
        left, right = one[name], other[name]
        if left.dtype != right.dtype or left.shape != right.shape:
            return name, None
        if not torch.equal(_bits(left), _bits(right)):
            return name, float((left.double() - right.double()).abs().max())
    return None, None


def _bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def declared_differences(one: RunRecord, other: RunRecord) -> tuple[tuple[str, ...], Cause]:
    """Return the settings that differ between two records, such as ``seed: 1 -> 2``, and the likely cause of differing states.

    The cause is the first of model, recipe, data and environment that differs, or arithmetic if none does.
    """
    recipes = {"recipe": one.recipe.to_mapping()}, {"recipe": other.recipe.to_mapping()}
    relevant, irrelevant = environment_differences(one.environment, other.environment)
    by_cause = {
        Cause.MODEL: _field_differences(one, other, "graph_digest", "arguments"),
        Cause.RECIPE: setting_differences(*recipes),
        Cause.DATA: _field_differences(one, other, "data_name", "data_digest"),
        Cause.ENVIRONMENT: [*_field_differences(one, other, "device", "engine"), *relevant, *irrelevant],
    }
    lines = [*_field_differences(one, other, "seed"), *(line for lines in by_cause.values() for line in lines)]
    return tuple(lines), next((cause for cause, found in by_cause.items() if found), Cause.ARITHMETIC)


def environment_differences(one: Environment, other: Environment) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the fields that differ between two environments: those in `BIT_RELEVANT`, and all others."""
    names = [field.name for field in dataclasses.fields(Environment)]
    irrelevant = [name for name in names if name not in BIT_RELEVANT]
    relevant = [name for name in names if name in BIT_RELEVANT]
    return tuple(_field_differences(one, other, *relevant)), tuple(_field_differences(one, other, *irrelevant))


def setting_differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return a line for each value that differs between two nested mappings: ``optimizer.lr: 0.1 -> 0.05``.

    A missing value is shown as None.
    """
    left, right = _flattened(one), _flattened(other)
    return [
        f"{name}: {left.get(name)} -> {right.get(name)}"
        for name in dict.fromkeys((*left, *right))
        if left.get(name) != right.get(name)
    ]


def _flattened(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flattened(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def _field_differences(one: object, other: object, *names: str) -> list[str]:
    left, right = ({name: getattr(record, name) for name in names} for record in (one, other))
    return setting_differences(left, right)
