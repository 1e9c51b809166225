"""The network that all negative controls share: small, sound, and repeatable."""

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
        """(B, 64), what is read off the images."""
        return torch.relu(self.norm(self.conv(images))).flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        """Classify."""
        answers: Tensor = self.head(self.features(images))
        return answers
