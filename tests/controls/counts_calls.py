"""Keeps a count in a plain attribute, which no checkpoint contains."""

from torch import Tensor

from tests.controls.tiny import Tiny


class Net(Tiny):
    """Counts its training passes."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def features(self, images: Tensor) -> Tensor:
        """Scale the features by the count."""
        self.calls += self.training
        return super().features(images) * (1 + self.calls / 10)
