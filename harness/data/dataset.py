"""A data set in memory."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Verified images and labels, each as one tensor on one device.

    Args:
        name: the value of ``--data`` that selects it.
        title: name for display; part of every output.
        train_images: (N, 1, 28, 28) uint8.
        train_labels: (N,) int64, 0 to 9.
        test_images: (M, 1, 28, 28) uint8.
        test_labels: (M,) int64, 0 to 9.
        digest: SHA-256 (hex) over the decoded contents.
        mean: mean of the training images on the scale 0 to 1, for normalisation.
        std: standard deviation of the training images on the scale 0 to 1.
        source: where the files were read from: a folder, the cache, the package.
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

    def to(self, device: torch.device | str) -> Dataset:
        """A copy with all four tensors on ``device``."""
        return replace(
            self,
            train_images=self.train_images.to(device),
            train_labels=self.train_labels.to(device),
            test_images=self.test_images.to(device),
            test_labels=self.test_labels.to(device),
        )

    def normalise(self, images: Tensor) -> Tensor:
        """A uint8 batch as float32 of the same shape, scaled to 0..1, minus the mean, divided by the standard deviation."""
        return images.to(torch.float32, copy=True).div_(255).sub_(self.mean).div_(self.std)

    def to_json(self) -> dict[str, str]:
        """Name, title and digest, as result documents give them."""
        return {"name": self.name, "title": self.title, "digest": self.digest}
