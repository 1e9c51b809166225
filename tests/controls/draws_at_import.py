"""Draws a random number at import."""

import random

from torch import Tensor

from tests.controls.tiny import Tiny

SCALE = 1 + random.random()  # noqa: S311 - what is tested


class Net(Tiny):
    """Uses a number that is constant in a process and different in the next."""

    def features(self, images: Tensor) -> Tensor:
        """Scale the features by the number."""
        return super().features(images) * SCALE
