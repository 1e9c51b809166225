"""Evaluation: exact counts, whatever the batch size, and no credit for NaN."""

from __future__ import annotations

import math

import pytest

from harness.training import (
    initialise,
    predict,
)
from tests.made_up import network
from tests.training_runs import DATA, ConstantOutput


def test_evaluation_counts_exactly() -> None:
    """Every batch size gives the same counts, and the module's mode is restored."""
    module = initialise(network, seed=1)
    results = [predict(module, DATA, batch_size=size).evaluation() for size in (1, 7, 1000)]
    assert [results[0].correct] * 3 == [result.correct for result in results]
    assert [40] * 3 == [result.total for result in results]
    assert pytest.approx([results[0].loss] * 3) == [result.loss for result in results]
    assert module.training


def test_a_nan_is_never_correct() -> None:
    """max() treats NaN as the largest value, so class 3 would count as correct for a tenth of the images."""
    with_nan = [0.0] * 10
    with_nan[3] = math.nan
    valid = [0.0] * 10
    valid[3] = 1.0
    assert [4, 0] == [predict(ConstantOutput(row), DATA).evaluation().correct for row in (valid, with_nan)]
