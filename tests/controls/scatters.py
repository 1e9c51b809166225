"""Sums with atomic additions if torch uses several threads."""

import torch
from torch import Tensor

from tests.controls.tiny import Tiny

SUMMANDS = 2**18


class Net(Tiny):
    """Sums numbers of different sizes in no fixed order."""

    def features(self, images: Tensor) -> Tensor:
        """Scale each of the 64 features by such a sum."""
        features = super().features(images)
        numbers = torch.arange(SUMMANDS, device=images.device)
        summands = torch.sin(numbers.float()) * features.mean()
        sums = torch.zeros(64, device=images.device).index_put((numbers % 64,), summands, accumulate=True)
        return features * (1 + sums)
