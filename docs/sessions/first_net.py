"""A first network: three convolutions and two fully connected layers."""

from __future__ import annotations

import torch
from torch import nn


class Net(nn.Module):
    """Logits (B, 10) for images (B, 1, 28, 28)."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3)
        self.conv2 = nn.Conv2d(width, width, 3)
        self.conv3 = nn.Conv2d(width, width, 3)
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(width * 5 * 5, 32)
        self.fc2 = nn.Linear(32, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits for images."""
        x = torch.relu(self.conv1(images))
        x = self.pool(torch.relu(self.conv2(x)))
        x = self.pool(torch.relu(self.conv3(x)))
        x = torch.relu(self.fc1(x.flatten(1)))
        return self.fc2(x)
