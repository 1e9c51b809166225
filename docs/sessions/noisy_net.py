"""A network with a fault: it adds noise from the operating system, which no seed sets, to the training images."""

from __future__ import annotations

import os

import torch
from net import Net as Sound


class Net(Sound):
    """Logits (B, 10) for images (B, 1, 28, 28), with noise that does not repeat."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits for images."""
        if self.training:
            images = images + os.urandom(1)[0] * 1e-4
        return super().forward(images)
