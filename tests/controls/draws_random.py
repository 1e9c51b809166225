"""Draws from Python's random."""

import random

from torch import Tensor

from tests.controls.tiny import Tiny


class Net(Tiny):
    """Its features are scaled by a random number."""

    def features(self, images: Tensor) -> Tensor:
        """As in `Tiny`."""
        return super().features(images) * (1 + random.random())  # noqa: S311 - what this is about
