"""The engines on the shipped models."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from harness.data import load_dataset
from harness.graph import CapturedModel
from harness.training import Recipe, RunSpec, choose_engine, train
from mnist_models import list_models

pytestmark = [pytest.mark.smoke, pytest.mark.usefixtures("one_thread")]

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", list_models())
def test_every_shipped_model_is_trained_by_the_fast_engines(name: str, shipped: Callable[[str], CapturedModel]) -> None:
    """Tried on each, both compute what the model says."""
    module = shipped(name).to_module()

    assert [choose_engine(choice, module, CPU)[0].name for choice in ("auto", "bf16")] == ["fast", "bf16"]


@pytest.mark.parametrize("engine", ["eager", "fast", "bf16"])
def test_the_engines_learn_the_digits_equally_well(engine: str, shipped: Callable[[str], CapturedModel]) -> None:
    """Six epochs of `reference`: more than nine in ten of the digits with each engine."""
    captured = shipped("reference")
    recipe = Recipe.from_mapping(
        {"batch_size": 64, "epochs": 6, "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9}}, name="short"
    )
    record = train(captured.to_module(), RunSpec.of(captured, recipe, seed=1, engine=engine), load_dataset("digits"))

    assert record.epochs[-1].test_correct > 0.9 * record.epochs[-1].test_total
