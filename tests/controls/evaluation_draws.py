"""An evaluation that draws from the training's stream."""

import torch
from torch import Tensor, nn


def evaluate(module: nn.Module, images: Tensor, labels: Tensor) -> int:
    """Count the right answers, in a random order, and leave torch's random state where that put it."""
    module.eval()
    order = torch.randperm(len(images))
    with torch.no_grad():
        return int((module(images[order]).argmax(1) == labels[order]).sum())
