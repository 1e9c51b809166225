"""Depends on the order of a set of strings."""

from torch import Tensor

from tests.controls.tiny import Tiny

SCALES = {"first": 1.0, "second": 2.0, "third": 3.0, "fourth": 4.0, "fifth": 5.0, "sixth": 6.0, "seventh": 7.0}


class Net(Tiny):
    """Uses the first of seven names in a set."""

    def features(self, images: Tensor) -> Tensor:
        """Scale the features by the value of that name."""
        return super().features(images) * SCALES[next(iter(set(SCALES)))]
