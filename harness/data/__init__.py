"""Loading and verifying MNIST, data sets of its shape and the embedded digits; augmentation on the device."""

from harness.data.augmentation import AffineDraws, Augmentation
from harness.data.dataset import Dataset
from harness.data.folders import DataStatus, FileStatus, PlaceStatus, find_mnist
from harness.data.loading import load_dataset

__all__ = [
    "AffineDraws",
    "Augmentation",
    "DataStatus",
    "Dataset",
    "FileStatus",
    "PlaceStatus",
    "find_mnist",
    "load_dataset",
]
