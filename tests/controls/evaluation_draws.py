"""An evaluation that draws from the random stream of the training."""

import torch
from torch import Tensor, nn


def evaluate(module: nn.Module, images: Tensor, labels: Tensor) -> int:
    """Count the correct predictions in a random order, without restoring torch's random state."""
    module.eval()
    order = torch.randperm(len(images))
    with torch.no_grad():
        return int((module(images[order]).argmax(1) == labels[order]).sum())
