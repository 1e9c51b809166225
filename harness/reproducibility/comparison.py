"""Where two trainings part: the first step, the first thing in it that differs, how far, and what that points to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from harness.reproducibility.trace import StepTrace, Trace
from harness.training import INPUTS, STATES, StepDigests


class Cause(Enum):
    """Why two trainings part, as far as the first thing that differs tells."""

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
# What each kind is called in a sentence.
WORDS = {
    "order": "the order of the images",
    "augmentation": "the augmentation",
    "dropout": "the random state that the network draws from",
    "rate": "the learning rate",
    "parameters": "the parameters",
    "buffers": "the buffers",
    "optimizer": "the optimizer's state",
}


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The first difference between two trainings.

    Args:
        step: the first step that it shows in; 0 is before the first.
        kind: what differs first: an input of the step or a part of the state, as in `StepDigests`.
        cause: what that points to.
        tensor: the first tensor that differs there, in the network's order; None where an input differs or the tensors
            are not at hand.
        size: the largest absolute difference in it; infinite or NaN where one of the two is.
        between_steps: whether the state changed after the step before and ahead of the step itself.
        detail: the two values in words, where they can be said.
    """

    step: int
    kind: str
    cause: Cause
    tensor: str | None = None
    size: float | None = None
    between_steps: bool = False
    detail: str = ""

    def words(self) -> str:
        """The difference as half a sentence: ``differs at step 12 in tensor conv.weight by 1.2e-07``."""
        if self.step == 0:
            place = "before the first step"
        else:
            place = f"before step {self.step}" if self.between_steps else f"at step {self.step}"
        if self.tensor is None:
            return f"differs {place} in {WORDS[self.kind]}"
        by = "" if self.size is None else f" by {self.size:.2g}"
        return f"differs {place} in tensor {self.tensor}{by}"


def first_difference(one: Trace, other: Trace, *, unexplained: Cause = Cause.ARITHMETIC) -> Difference | None:
    """The first difference of two traces that begin at the same step; None if there is none.

    Args:
        one: a trace.
        other: another.
        unexplained: the cause of a state that differs where everything that goes into the step is the same.
    """
    for left, right, previous in zip(one, other, [None, *zip(one, other, strict=False)], strict=False):
        found = _in_step(left, right, previous, unexplained)
        if found is not None:
            return found
    if len(one) != len(other):
        # One of them ended early: nothing of its next step can be compared.
        return Difference(
            step=min(len(one), len(other)) + 1, kind="parameters", cause=unexplained, detail="one run ended"
        )
    return None


def _in_step(
    one: StepTrace, other: StepTrace, previous: tuple[StepTrace, StepTrace] | None, unexplained: Cause
) -> Difference | None:
    first = previous is None
    before = _tensors_before(one, previous and previous[0]), _tensors_before(other, previous and previous[1])
    if (kind := _first_kind(one.start, other.start, STATES)) is not None:
        tensor, size = first_tensor(*before)
        at_start = first and one.number == 1
        return Difference(
            step=0 if at_start else one.number,
            kind=kind,
            cause=Cause.INITIALISATION if at_start else unexplained,
            tensor=tensor,
            size=size,
            between_steps=not at_start,
        )
    if (kind := _first_kind(one.start, other.start, INPUTS)) is not None:
        detail = f"{_listed(one.rates)} against {_listed(other.rates)}" if kind == "rate" else ""
        return Difference(step=one.number, kind=kind, cause=_CAUSE_OF_INPUT[kind], detail=detail)
    if (kind := _first_kind(one.end, other.end, STATES)) is not None:
        tensor, size = first_tensor(one.after, other.after)
        return Difference(step=one.number, kind=kind, cause=unexplained, tensor=tensor, size=size)
    return None


def first_differing_digests(
    one: Sequence[StepDigests], other: Sequence[StepDigests], *, unexplained: Cause
) -> tuple[int, Difference] | None:
    """The first difference that two runs' digests show, and the last step before it at which they agree.

    Only steps that both have digests of are compared. Where more than one input differs by then, the digests do not
    say which came first, and the first of the list is named.
    """
    others = {digests.step: digests for digests in other}
    agreed = 0
    for left in one:
        right = others.get(left.step)
        if right is None:
            continue
        kind = _first_kind(left, right, (*INPUTS, *STATES))
        if kind is None:
            agreed = left.step
            continue
        cause = Cause.INITIALISATION if left.step == 0 else _CAUSE_OF_INPUT.get(kind, unexplained)
        return agreed, Difference(step=left.step, kind=kind, cause=cause)
    return None


def first_tensor(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> tuple[str | None, float | None]:
    """The first tensor that is not bit-equal in both, with the largest absolute difference in it.

    The size is None where a shape or a type differs or one of them lacks the tensor, and both are None where nothing
    differs or nothing was kept.
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


def _first_kind(one: StepDigests, other: StepDigests, kinds: Sequence[str]) -> str | None:
    return next((kind for kind in kinds if getattr(one, kind) != getattr(other, kind)), None)


def _tensors_before(step: StepTrace, previous: StepTrace | None) -> Mapping[str, Tensor]:
    return step.before or (previous.after if previous else {})


def _listed(rates: Sequence[float]) -> str:
    return ", ".join(f"{rate:g}" for rate in rates)
