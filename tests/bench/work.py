"""The work that is measured: a training step or evaluations of a shipped model."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch

from harness.benchmarking import EVALUATIONS, IMAGES, Kind
from harness.data import load_dataset
from harness.graph import CapturedModel
from harness.training import train_step

MAX_BLOCKS = 30

digits = functools.cache(functools.partial(load_dataset, "digits"))


def work_of(captured: CapturedModel, kind: Kind, device: torch.device) -> Callable[[], object]:
    """A training step without augmentation, or four evaluations, always with the same images."""
    module, data = captured.to_module().to(device), digits().to(device)
    images, labels = data.normalise(data.train_images[:IMAGES]), data.train_labels[:IMAGES]
    if kind == "inference":
        module.eval()

        def evaluate() -> None:
            with torch.no_grad():
                for _ in range(EVALUATIONS):
                    module(images)

        return evaluate
    optimizer = torch.optim.SGD(module.train().parameters(), lr=0.01, momentum=0.9)
    return lambda: train_step(module, optimizer, images, labels)
