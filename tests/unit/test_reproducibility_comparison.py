"""The first difference between two trainings, from traces or from digests."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from harness.reproducibility import Cause, Difference, first_difference
from harness.reproducibility.comparison import first_differing_digests
from harness.reproducibility.trace import StepTrace
from tests.made_up import digests


def step(number: int, after: dict[str, Tensor] | None = None, **changed: str) -> StepTrace:
    """The trace of a step; the digests of the state after it can be changed."""
    end = dataclasses.replace(digests(number), **changed)  # type: ignore[arg-type]  # fields by name
    return StepTrace(start=digests(number - 1), end=end, rates=(0.1,), before={}, after=after or {})


@pytest.mark.parametrize(
    ("difference", "expected"),
    [
        (Difference(step=0, kind="buffers", cause=Cause.MODEL), "differs before the first step in the buffers"),
        (Difference(step=3, kind="order", cause=Cause.ORDER), "differs at step 3 in the order of the images"),
        (
            Difference(step=3, kind="parameters", cause=Cause.MODEL, tensor="a.bias", size=1.25e-7, between_steps=True),
            "differs before step 3 in tensor a.bias by 1.2e-07",
        ),
        (
            Difference(step=3, kind="parameters", cause=Cause.MODEL, tensor="a.bias"),
            "differs at step 3 in tensor a.bias",
        ),
    ],
)
def test_a_difference_is_described_by_place_and_size(difference: Difference, expected: str) -> None:
    """With the tensor if it is known, else with the kind of input or state."""
    assert expected == difference.describe()


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ({"a": torch.zeros(2), "b": torch.tensor([0.0, -0.5])}, ("b", 0.5)),
        ({"a": torch.tensor([0.0, -0.0]), "b": torch.zeros(2)}, ("a", 0.0)),
        ({"a": torch.zeros(2), "b": torch.zeros(3)}, ("b", None)),
        ({"a": torch.zeros(2, dtype=torch.float64), "b": torch.zeros(2)}, ("a", None)),
        ({"a": torch.zeros(2)}, ("b", None)),
        ({}, (None, None)),
    ],
    ids=["value", "sign of zero", "shape", "dtype", "missing", "not kept"],
)
def test_the_first_tensor_that_is_not_bit_equal_is_named(
    other: dict[str, Tensor], expected: tuple[str | None, float | None]
) -> None:
    """The size is unknown if shape or dtype differ, and so is the tensor if one run's tensors were not kept."""
    tensors = {"a": torch.zeros(2), "b": torch.zeros(2)}
    found = first_difference((step(1, tensors),), (step(1, other, parameters="f" * 16),))
    assert found is not None
    assert (expected, Cause.ARITHMETIC) == ((found.tensor, found.size), found.cause)


def test_a_training_that_ends_early_differs_in_its_next_step() -> None:
    """Equal traces have no difference."""
    trace = (step(1), step(2))
    assert first_difference(trace, trace) is None
    found = first_difference(trace, trace[:1], unexplained=Cause.MODEL)
    assert Difference(step=2, kind="parameters", cause=Cause.MODEL, detail="one run ended") == found


@pytest.mark.parametrize("first", [1, 7])
def test_a_trace_from_the_middle_of_a_run_keeps_its_numbers(first: int) -> None:
    """The step at which one of two traces ends is numbered as in the run, wherever the traces begin."""
    trace = (step(first), step(first + 1), step(first + 2))
    for one, other in ((trace, trace[:2]), (trace[:2], trace)):
        found = first_difference(one, other)
        assert found is not None
        assert (first + 2, "one run ended") == (found.step, found.detail)


def test_digests_give_the_last_equal_step_and_the_first_difference() -> None:
    """Only steps with digests on both sides count; inputs come before the state that they cause to differ."""
    one = (digests(0), digests(10), digests(20), digests(30))
    other = (digests(0), digests(15), digests(20), digests(30, parameters="f" * 16, rate="f" * 16))
    assert first_differing_digests(one, one, unexplained=Cause.ARITHMETIC) is None
    found = first_differing_digests(one, other, unexplained=Cause.ARITHMETIC)
    assert (20, Difference(step=30, kind="rate", cause=Cause.RATE)) == found
