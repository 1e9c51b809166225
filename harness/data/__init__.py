"""Loading and verification of MNIST, of data sets with MNIST's shape and of the embedded digits; image augmentation."""

from harness.data.augmentation import AffineDraws, Augmentation
from harness.data.dataset import Dataset
from harness.data.folders import find_mnist, is_offline
from harness.data.loading import load_dataset

__all__ = ["AffineDraws", "Augmentation", "Dataset", "find_mnist", "is_offline", "load_dataset"]
