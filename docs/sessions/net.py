"""The network of the tutorial: convolutions with batch norm and dropout, then the average over the last map."""

from __future__ import annotations

import torch
from torch import nn


def block(inputs: int, outputs: int, dropout: float) -> nn.Sequential:
    """A 3x3 convolution with batch norm, ReLU and dropout."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        nn.Dropout(dropout),
    )


class Net(nn.Module):
    """Logits (B, 10) for images (B, 1, 28, 28)."""

    def __init__(self, width: int = 12, dropout: float = 0.05) -> None:
        super().__init__()
        self.features = nn.Sequential(
            block(1, width, dropout),
            block(width, width, dropout),
            nn.MaxPool2d(2),
            block(width, width, dropout),
            block(width, width, dropout),
            block(width, width, dropout),
        )
        self.head = nn.Conv2d(width, 10, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits for images."""
        maps = self.head(self.features(images))
        return maps.mean(dim=(2, 3))
