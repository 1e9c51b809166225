"""Draws a number once, when it is imported."""

import random

from torch import Tensor

from tests.controls.tiny import Tiny

SCALE = 1 + random.random()  # noqa: S311 - what this is about


class Net(Tiny):
    """Its features are scaled by it: alike within a process, otherwise in the next."""

    def features(self, images: Tensor) -> Tensor:
        """As in `Tiny`."""
        return super().features(images) * SCALE
