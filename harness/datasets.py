"""Table of the downloadable data sets, used by ``--data``, by the loading of data sets, and by `harness doctor`.

To add a data set with MNIST's shape, add an entry to ``PUBLISHED``. This module does not import PyTorch, so that help
texts are printed quickly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

AUTO = "auto"
DIGITS = "digits"


@dataclass(frozen=True, kw_only=True)
class IdxFile:
    """A published file in the idx format: the name, shape, type and digest that the file must have.

    Args:
        name: file name without ``.gz``.
        shape: dimensions of the array.
        dtype: type of the elements.
        sha256: SHA-256 (hex) of the decompressed file; empty if ``gzip_md5`` is given.
        gzip_md5: MD5 (hex) of the gzipped file, for data sets that publish no other digest; such a file is read only
            gzipped.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Literal["uint8", "int32"] = "uint8"
    sha256: str = ""
    gzip_md5: str = ""

    @property
    def file_names(self) -> tuple[str, ...]:
        """The accepted file names, in order of preference."""
        return (f"{self.name}.gz",) if self.gzip_md5 else (self.name, f"{self.name}.gz")

    @property
    def size(self) -> int:
        """Size of the decompressed file in bytes."""
        return 4 + 4 * len(self.shape) + math.prod(self.shape) * (4 if self.dtype == "int32" else 1)


@dataclass(frozen=True, kw_only=True)
class PublishedDataset:
    """A data set as published, and how torchvision downloads the data set.

    Args:
        name: the value of ``--data`` that selects the data set.
        title: name for display.
        torchvision: name of torchvision's class, and of the folder that torchvision creates.
        files: training images, training labels, test images and test labels; only the last two if ``train_on`` is
            given.
        address: the first URL from which torchvision downloads one of the small files.
        size: download size in bytes.
        flat: whether the files may also be directly in the folder that the user names.
        scale: usual mean and standard deviation of the training images; if None, both are computed from the images.
        train_on: for a data set of test images only, the name of the data set to train on.
        first_test_image: index of the first test image to use.
    """

    name: str
    title: str
    torchvision: str
    files: tuple[IdxFile, ...]
    address: str
    size: int
    flat: bool = False
    scale: tuple[float, float] | None = None
    train_on: str | None = None
    first_test_image: int = 0


def _mnist_files(*digests: str, gzipped: bool = True) -> tuple[IdxFile, ...]:
    """Describe four files with MNIST's names and shapes by the MD5 of the gzipped or the SHA-256 of the decompressed files."""
    shapes = {
        "train-images-idx3-ubyte": (60_000, 28, 28),
        "train-labels-idx1-ubyte": (60_000,),
        "t10k-images-idx3-ubyte": (10_000, 28, 28),
        "t10k-labels-idx1-ubyte": (10_000,),
    }
    return tuple(
        IdxFile(name=name, shape=shape, gzip_md5=digest if gzipped else "", sha256="" if gzipped else digest)
        for (name, shape), digest in zip(shapes.items(), digests, strict=True)
    )


_QMNIST_TEST_FILES = (
    IdxFile(name="qmnist-test-images-idx3-ubyte", shape=(60_000, 28, 28), gzip_md5="1394631089c404de565df7b7aeaf9412"),
    # Eight numbers for each digit: the class, then the writer and other facts about the sample.
    IdxFile(
        name="qmnist-test-labels-idx2-int",
        shape=(60_000, 8),
        dtype="int32",
        gzip_md5="5b5b05890a5e13444e108efe57b788aa",
    ),
)
# The MD5 digests are torchvision's.
PUBLISHED = {
    dataset.name: dataset
    for dataset in (
        PublishedDataset(
            name="mnist",
            title="MNIST",
            torchvision="MNIST",
            files=_mnist_files(
                "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
                "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
                "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
                "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
                gzipped=False,
            ),
            address="https://ossci-datasets.s3.amazonaws.com/mnist/train-labels-idx1-ubyte.gz",
            size=11_594_722,
            flat=True,
            scale=(0.1307, 0.3081),
        ),
        PublishedDataset(
            name="fashion-mnist",
            title="Fashion-MNIST",
            torchvision="FashionMNIST",
            files=_mnist_files(
                "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
                "25c81989df183df01b3e8a0aad5dffbe",
                "bef4ecab320f06d8554ea6380940ec79",
                "bb300cfdad3c16e7a12a480ee83cd310",
            ),
            address="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/train-labels-idx1-ubyte.gz",
            size=30_878_645,
        ),
        PublishedDataset(
            name="kmnist",
            title="KMNIST",
            torchvision="KMNIST",
            files=_mnist_files(
                "bdb82020997e1d708af4cf47b453dcf7",
                "e144d726b3acfaa3e44228e80efcd344",
                "5c965bf0a639b31b8f53240b1b52f4d7",
                "7320c461ea6c1c855c0b718fb2a4b134",
            ),
            address="http://codh.rois.ac.jp/kmnist/dataset/kmnist/train-labels-idx1-ubyte.gz",
            size=21_240_888,
        ),
        PublishedDataset(
            name="qmnist-holdout",
            title="QMNIST holdout (50,000 unused test digits)",
            torchvision="QMNIST",
            files=_QMNIST_TEST_FILES,
            address="https://raw.githubusercontent.com/facebookresearch/qmnist/master/qmnist-test-labels-idx2-int.gz",
            size=10_269_079,
            train_on="mnist",
            first_test_image=10_000,  # the first 10,000 are MNIST's own test digits, reconstructed
        ),
    )
}


def data_choices() -> tuple[str, ...]:
    """Return the names that ``--data`` accepts; ``--data`` also accepts the path of a folder."""
    return AUTO, DIGITS, *PUBLISHED
