"""Keeps a count in a plain attribute, which no checkpoint holds."""

from torch import Tensor

from tests.controls.tiny import Tiny


class Net(Tiny):
    """Its features are scaled by the number of training passes so far."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def features(self, images: Tensor) -> Tensor:
        """As in `Tiny`."""
        self.calls += self.training
        return super().features(images) * (1 + self.calls / 10)
