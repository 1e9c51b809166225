"""Differences between the declarations of two records."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from harness.reproducibility import Cause, declared_differences, environment_differences, setting_differences
from tests.made_up import ENVIRONMENT, RECIPE, record


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
