"""MNIST and the embedded digits, verified; augmentation on the device."""

from harness.data.augmentation import AffineDraws, Augmentation
from harness.data.dataset import Dataset

__all__ = ["AffineDraws", "Augmentation", "Dataset"]
