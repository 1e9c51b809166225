"""Draws from Python's random."""

import random

from torch import Tensor

from tests.controls.tiny import Tiny


class Net(Tiny):
    """Draws in every forward pass."""

    def features(self, images: Tensor) -> Tensor:
        """Scale the features by a random number."""
        return super().features(images) * (1 + random.random())  # noqa: S311 - what is tested
