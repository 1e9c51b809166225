"""What is measured: the work of a shipped model."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch

from harness.benchmarking import IMAGES, Kind
from harness.data import load_dataset
from harness.graph import CapturedModel
from harness.training import train_step

SITTINGS = 20

digits = functools.cache(functools.partial(load_dataset, "digits"))


def work_of(captured: CapturedModel, kind: Kind, device: torch.device) -> Callable[[], torch.Tensor]:
    """A training step without augmentation, or an evaluation, of images that stay the same: time depends on shapes."""
    module, data = captured.to_module().to(device), digits().to(device)
    images, labels = data.normalise(data.train_images[: IMAGES[kind]]), data.train_labels[: IMAGES[kind]]
    if kind == "inference":
        module.eval()

        def answer() -> torch.Tensor:
            with torch.no_grad():
                output: torch.Tensor = module(images)
            return output

        return answer
    optimizer = torch.optim.SGD(module.train().parameters(), lr=0.01, momentum=0.9)
    return lambda: train_step(module, optimizer, images, labels)[0]
