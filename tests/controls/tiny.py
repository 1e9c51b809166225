"""The deterministic network that all negative controls derive from."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Tiny(nn.Module):
    """(B, 1, 28, 28) to (B, 10) logits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 7, stride=7)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(64, 10)

    def features(self, images: Tensor) -> Tensor:
        """Compute the features, (B, 64)."""
        return torch.relu(self.norm(self.conv(images))).flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits."""
        logits: Tensor = self.head(self.features(images))
        return logits
