"""A data set in memory: images and labels for training and testing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from harness.data.idx import content_digest
from harness.errors import InputError


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """The images and labels of a verified data set, as four tensors on one device.

    Images are (N, 1, 28, 28) uint8, labels (N,) int64 from 0 to 9. ``name`` is the value of ``--data`` that selects the
    data set, ``title`` the name for display. ``digest`` is the SHA-256 (hex) of the decoded images and labels. ``mean``
    and ``std`` are the mean and the standard deviation for normalisation, on the scale 0 to 1. ``source`` says where
    the files were read from: a folder, the cache or the package. ``validation`` is the number of training images that
    replace the test images, or 0.
    """

    name: str
    title: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    digest: str
    mean: float
    std: float
    source: str
    validation: int = 0

    @classmethod
    def from_arrays(
        cls, arrays: Sequence[Tensor], *, name: str, title: str, source: str, scale: tuple[float, float] | None = None
    ) -> Self:
        """Create a data set from four uint8 arrays: training images (N, 28, 28) and labels (N,), test images and test labels.

        ``scale`` is the mean and the standard deviation for normalisation; by default both are computed from the
        training images.
        """
        train_images, train_labels, test_images, test_labels = arrays
        mean, std = scale or _mean_and_std(train_images)
        return cls(
            name=name,
            title=title,
            train_images=train_images[:, None],
            train_labels=train_labels.long(),
            test_images=test_images[:, None],
            test_labels=test_labels.long(),
            digest=content_digest(arrays),
            mean=mean,
            std=std,
            source=source,
        )

    def with_validation(self, count: int) -> Self:
        """Split the training images: ``count`` of them become the test images, the others remain training images.

        The original test images are dropped, so that the choice of a model does not use them. Which images become test
        images depends only on the number of training images: the last ``count`` of a permutation by NumPy's
        ``RandomState(0)``, whose random numbers do not change between NumPy versions.

        Raises:
            InputError: no training image or no test image would be left.
        """
        images = len(self.train_labels)
        if not 0 < count < images:
            raise InputError(
                f"expected from 1 to {images - 1:,} validation images out of the {images:,} training images of {self.title}, "
                f"got {count:,}."
            )
        order = torch.from_numpy(np.random.RandomState(0).permutation(images))
        kept, held_out = order[:-count], order[-count:]
        arrays = [part[chosen] for chosen in (kept, held_out) for part in (self.train_images, self.train_labels)]
        return replace(
            self,
            title=f"{self.title}, validated on {count:,} of its training images",
            train_images=arrays[0],
            train_labels=arrays[1],
            test_images=arrays[2],
            test_labels=arrays[3],
            digest=content_digest([array.to(torch.uint8) for array in arrays]),
            validation=count,
        )

    def to(self, device: torch.device | str) -> Self:
        """Return a copy of the data set with all four tensors on ``device``."""
        tensors = ((key, value) for key, value in vars(self).items() if isinstance(value, Tensor))
        moved: dict[str, Any] = {key: tensor.to(device) for key, tensor in tensors}
        return replace(self, **moved)

    def shortened(self, *, train: int, test: int) -> Self:
        """Return a copy of the data set with only the first ``train`` training images and the first ``test`` test images."""
        images, labels = self.train_images[:train], self.train_labels[:train]
        test_images, test_labels = self.test_images[:test], self.test_labels[:test]
        return replace(self, train_images=images, train_labels=labels, test_images=test_images, test_labels=test_labels)

    def normalise(self, images: Tensor) -> Tensor:
        """Return a uint8 batch as float32, scaled to 0 to 1, minus ``mean``, divided by ``std``."""
        return images.to(torch.float32, copy=True).div_(255).sub_(self.mean).div_(self.std)

    def to_json(self) -> dict[str, str]:
        """Return name, title and digest of the data set, as stored in result documents."""
        return {"name": self.name, "title": self.title, "digest": self.digest}


def _mean_and_std(images: Tensor) -> tuple[float, float]:
    """Compute mean and standard deviation of the grey values on the scale 0 to 1, rounded to four decimals.

    The sums are exact integers, so that every machine computes the same values.
    """
    counts = images.flatten().bincount(minlength=256).tolist()
    mean = sum(value * count for value, count in enumerate(counts)) / images.numel()
    square = sum(value * value * count for value, count in enumerate(counts)) / images.numel()
    return round(mean / 255, 4), round(math.sqrt(square - mean * mean) / 255, 4)
