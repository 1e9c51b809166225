"""Uses a memory address as a number."""

from torch import Tensor

from tests.controls.tiny import Tiny

INSTANCES: list["Net"] = []


class Net(Tiny):
    """Is kept alive, so that the next instance has another address."""

    def __init__(self) -> None:
        super().__init__()
        INSTANCES.append(self)

    def features(self, images: Tensor) -> Tensor:
        """Scale the features by the address."""
        return super().features(images) * (1 + id(self) % 9973 / 9973)
