"""Draws from numpy.random."""

import numpy as np
from torch import Tensor

from tests.controls.tiny import Tiny


class Net(Tiny):
    """Draws in every forward pass."""

    def features(self, images: Tensor) -> Tensor:
        """Scale the features by a random number."""
        return super().features(images) * (1 + float(np.random.rand()))  # noqa: NPY002 - what is tested
