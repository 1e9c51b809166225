"""Adds up with atomic additions where torch has several threads."""

import torch
from torch import Tensor

from tests.controls.tiny import Tiny

SUMMANDS = 2**18


class Net(Tiny):
    """Each of its 64 features is scaled by a sum of many numbers, of all sizes, that come in no fixed order."""

    def features(self, images: Tensor) -> Tensor:
        """As in `Tiny`."""
        features = super().features(images)
        numbers = torch.arange(SUMMANDS, device=images.device)
        summands = torch.sin(numbers.float()) * features.mean()
        sums = torch.zeros(64, device=images.device).index_put((numbers % 64,), summands, accumulate=True)
        return features * (1 + sums)
