"""Uses an address in memory as a number."""

from torch import Tensor

from tests.controls.tiny import Tiny

EVERYONE: list["Net"] = []


class Net(Tiny):
    """Its features are scaled by where it lies, and it is kept, so that the next one lies elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        EVERYONE.append(self)

    def features(self, images: Tensor) -> Tensor:
        """As in `Tiny`."""
        return super().features(images) * (1 + id(self) % 9973 / 9973)
