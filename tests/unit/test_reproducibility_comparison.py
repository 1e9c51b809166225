"""The first difference between two trainings, from traces or from digests, and between their declarations."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.reproducibility import (
    Cause,
    Difference,
    declared_differences,
    environment_differences,
    first_difference,
    setting_differences,
)
from harness.reproducibility.comparison import first_differing_digests
from harness.reproducibility.trace import StepTrace
from tests.made_up import ENVIRONMENT, RECIPE, digests, record


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


def test_digests_give_the_last_equal_step_and_the_first_difference() -> None:
    """Only steps with digests on both sides count; inputs come before the state that they cause to differ."""
    one = (digests(0), digests(10), digests(20), digests(30))
    other = (digests(0), digests(15), digests(20), digests(30, parameters="f" * 16, rate="f" * 16))
    assert first_differing_digests(one, one, unexplained=Cause.ARITHMETIC) is None
    found = first_differing_digests(one, other, unexplained=Cause.ARITHMETIC)
    assert (20, Difference(step=30, kind="rate", cause=Cause.RATE)) == found


@pytest.mark.parametrize(
    ("changed", "cause", "expected"),
    [
        ({"graph_digest": "h" * 64}, Cause.MODEL, f"graph_digest: {'g' * 64} -> {'h' * 64}"),
        ({"recipe": dataclasses.replace(RECIPE, batch_size=8, epochs=1)}, Cause.RECIPE, "recipe.batch_size: 16 -> 8"),
        ({"data_digest": "e" * 64}, Cause.DATA, f"data_digest: {'d' * 64} -> {'e' * 64}"),
        ({"device": "cuda:0"}, Cause.ENVIRONMENT, "device: cpu -> cuda:0"),
        ({"environment": dataclasses.replace(ENVIRONMENT, threads=4)}, Cause.ENVIRONMENT, "threads: 2 -> 4"),
        ({"seed": 2}, Cause.ARITHMETIC, "seed: 1 -> 2"),
    ],
)
def test_a_declaration_that_differs_is_listed_with_its_cause(
    changed: dict[str, Any], cause: Cause, expected: str
) -> None:
    """The seed causes no difference in a state whose inputs are equal; everything else can."""
    one = record([9_900])
    assert ((expected,), cause) == declared_differences(one, dataclasses.replace(one, **changed))


def test_equal_declarations_leave_arithmetic_as_the_cause() -> None:
    """There is nothing to list."""
    assert ((), Cause.ARITHMETIC) == declared_differences(record([9_900]), record([9_900]))


def test_the_first_cause_is_that_of_the_model() -> None:
    """All differences are listed, in the order of their causes."""
    one = record([9_900])
    other = dataclasses.replace(one, data_name="digits", arguments="width=2", seed=2)
    lines, cause = declared_differences(one, other)
    assert ("seed: 1 -> 2", "arguments:  -> width=2", "data_name: mnist -> digits") == lines
    assert Cause.MODEL is cause


def test_environments_differ_in_what_can_change_bits_and_in_the_rest() -> None:
    """The number of threads can change the last bits, the version of Python cannot."""
    other = dataclasses.replace(ENVIRONMENT, threads=4, python="3.12.0")
    expected = (("threads: 2 -> 4",), ("python: 3.11.7 -> 3.12.0",))
    assert expected == environment_differences(ENVIRONMENT, other)


def test_nested_settings_are_compared_by_their_path() -> None:
    """A setting that only one side has is None on the other."""
    one = {"lr": 0.1, "schedule": {"name": "step", "factor": 0.5}, "epochs": 3}
    other = {"lr": 0.1, "schedule": {"name": "step", "factor": 0.1}, "shift": 0.05}
    expected = ["schedule.factor: 0.5 -> 0.1", "epochs: 3 -> None", "shift: None -> 0.05"]
    assert expected == setting_differences(one, other)
