"""Goes through a set of texts."""

from torch import Tensor

from tests.controls.tiny import Tiny

SCALES = {"first": 1.0, "second": 2.0, "third": 3.0, "fourth": 4.0, "fifth": 5.0, "sixth": 6.0, "seventh": 7.0}


class Net(Tiny):
    """Its features are scaled by whichever of seven names comes first in a set."""

    def features(self, images: Tensor) -> Tensor:
        """As in `Tiny`."""
        return super().features(images) * SCALES[next(iter(set(SCALES)))]
