"""Applies dropout in eval mode."""

from torch import Tensor
from torch.nn import functional

from tests.controls.tiny import Tiny


class Net(Tiny):
    """Its dropout ignores the mode."""

    def features(self, images: Tensor) -> Tensor:
        """Apply dropout to the features."""
        return functional.dropout(super().features(images), 0.2)
