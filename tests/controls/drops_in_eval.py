"""Leaves dropout on in eval mode."""

from torch import Tensor
from torch.nn import functional

from tests.controls.tiny import Tiny


class Net(Tiny):
    """Its dropout is always training."""

    def features(self, images: Tensor) -> Tensor:
        """As in `Tiny`."""
        return functional.dropout(super().features(images), 0.2)
