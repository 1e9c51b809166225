"""How long a training step and an evaluation take, on each device.

Each figure is taken after a warm-up, with the device's work waited for, over the embedded digits: the time depends on
shapes only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from harness.data import Dataset, load_dataset
from harness.training import Recipe, initialise
from mnist_models import create_model, model_card

pytestmark = pytest.mark.bench

# Ours, the smallest of the published ones, and the one whose blocks are the most varied.
NAMES = ("reference", "rf_study_3", "cloud_3")
INFERENCE_BATCH = 1000
ROUNDS, WARM_UP_ROUNDS, STEPS = 10, 3, 5


@pytest.fixture(scope="session")
def digits() -> Dataset:
    """The embedded digits, which are always there."""
    return load_dataset("digits")


def waiting(device: torch.device) -> Callable[[], None]:
    """What waits until a device has done its work."""
    return {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(device.type, lambda: None)


def built(name: str, device: torch.device) -> nn.Module:
    """A model with its initial weights, on the device."""
    return initialise(lambda: create_model(name), seed=1).to(device)


@pytest.mark.parametrize("name", NAMES)
def test_training_steps(name: str, chosen_device: torch.device, digits: Dataset, benchmark: Any) -> None:  # noqa: ANN401 - its class is not typed
    """Five training steps at the batch size of the model's recipe, augmentation left out."""
    size = Recipe.from_mapping(model_card(name).recipe, name=name).batch_size
    model, data, wait = built(name, chosen_device), digits.to(chosen_device), waiting(chosen_device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    images, labels = data.normalise(data.train_images[:size]), data.train_labels[:size]

    def steps() -> None:
        for _ in range(STEPS):
            optimizer.zero_grad()
            functional.nll_loss(model(images), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        wait()

    benchmark.extra_info.update(device=str(chosen_device), model=name, batch_size=size, steps=STEPS)
    benchmark.pedantic(steps, rounds=ROUNDS, warmup_rounds=WARM_UP_ROUNDS)

    assert all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_inference(name: str, chosen_device: torch.device, digits: Dataset, benchmark: Any) -> None:  # noqa: ANN401 - as above
    """Answers to a thousand images at once, as an evaluation asks for them."""
    model, data, wait = built(name, chosen_device).eval(), digits.to(chosen_device), waiting(chosen_device)
    images = data.normalise(data.train_images[:INFERENCE_BATCH])

    def answer() -> torch.Tensor:
        with torch.no_grad():
            output: torch.Tensor = model(images)
        wait()
        return output

    benchmark.extra_info.update(device=str(chosen_device), model=name, batch_size=INFERENCE_BATCH)
    output = benchmark.pedantic(answer, rounds=ROUNDS, warmup_rounds=WARM_UP_ROUNDS)
    benchmark.extra_info["images_per_second"] = round(INFERENCE_BATCH / benchmark.stats.stats.median)

    assert output.shape == (INFERENCE_BATCH, 10)
