"""Draws from numpy.random."""

import numpy as np
from torch import Tensor

from tests.controls.tiny import Tiny


class Net(Tiny):
    """Its features are scaled by a random number."""

    def features(self, images: Tensor) -> Tensor:
        """As in `Tiny`."""
        return super().features(images) * (1 + float(np.random.rand()))  # noqa: NPY002 - what this is about
