"""A data set in memory."""

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
    """Verified images and labels, each as one tensor on one device.

    Images are (N, 1, 28, 28) uint8, labels (N,) int64, 0 to 9. ``--data`` selects the data set by ``name``; ``title``
    is for display in every output. ``digest`` is SHA-256 (hex) over the decoded contents. ``mean`` and ``std`` of the
    training images, for normalisation, are on the scale 0 to 1. ``source`` is where the files were read from: a folder,
    the cache or the package. ``validation`` is the number of training images replacing the test images, or 0.
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
        """A data set of four uint8 arrays: training images (N, 28, 28) and labels (N,), test images and labels.

        ``scale`` is the mean and the standard deviation to use; by default those of the training images.
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

        The original test images are dropped, so that model selection does not use them. Which images are held out
        depends only on the number of images: the last ``count`` of a permutation by NumPy's ``RandomState(0)``, whose
        stream NumPy keeps unchanged between versions.

        Raises:
            InputError: no image would be left on one side.
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
        """A copy with all four tensors on ``device``."""
        tensors = ((key, value) for key, value in vars(self).items() if isinstance(value, Tensor))
        moved: dict[str, Any] = {key: tensor.to(device) for key, tensor in tensors}
        return replace(self, **moved)

    def shortened(self, *, train: int, test: int) -> Self:
        """A copy with only the first ``train`` training and ``test`` test images."""
        images, labels = self.train_images[:train], self.train_labels[:train]
        test_images, test_labels = self.test_images[:test], self.test_labels[:test]
        return replace(self, train_images=images, train_labels=labels, test_images=test_images, test_labels=test_labels)

    def normalise(self, images: Tensor) -> Tensor:
        """A uint8 batch as float32 of the same shape, scaled to 0..1, minus the mean, divided by the standard deviation."""
        return images.to(torch.float32, copy=True).div_(255).sub_(self.mean).div_(self.std)

    def to_json(self) -> dict[str, str]:
        """Name, title and digest, as stored in result documents."""
        return {"name": self.name, "title": self.title, "digest": self.digest}


def _mean_and_std(images: Tensor) -> tuple[float, float]:
    """Mean and standard deviation on the scale 0 to 1, rounded to four decimals, as is usual for MNIST.

    The sums are exact integers, so every machine computes the same values.
    """
    counts = images.flatten().bincount(minlength=256).tolist()
    mean = sum(value * count for value, count in enumerate(counts)) / images.numel()
    square = sum(value * value * count for value, count in enumerate(counts)) / images.numel()
    return round(mean / 255, 4), round(math.sqrt(square - mean * mean) / 255, 4)
