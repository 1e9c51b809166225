"""MNIST and the data sets published in its shape: their files, where they may be, and reading them from there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import platformdirs
import torch
from torch import Tensor

from harness.data.dataset import DataName
from harness.data.idx import IdxFile, read_verified
from harness.errors import DataError, DataMissingError


@dataclass(frozen=True, kw_only=True)
class Published:
    """A data set as it was published and as torchvision fetches it.

    Args:
        name: what ``--data`` calls it.
        title: the same for a reader.
        torchvision: torchvision's class for it, whose name is also that of its folder.
        files: training images and labels, test images and labels; or the last two, to be tested on after training on
            MNIST.
        address: the first address that torchvision's downloader asks for a small one of them.
        size: what it downloads, in bytes.
        flat: whether the files may lie in a folder without one of their own; MNIST's may, as they always could.
        scale: mean and standard deviation of the training images, where custom has fixed them.
    """

    name: DataName
    title: str
    torchvision: str
    files: tuple[IdxFile, ...]
    address: str
    size: int
    flat: bool = False
    scale: tuple[float, float] | None = None

    @property
    def own_files(self) -> str:
        """Its files in words."""
        return f"{self.torchvision}'s {'four' if len(self.files) == 4 else 'two'} files"  # noqa: PLR2004


def _as_mnist(*, train_images: str, train_labels: str, test_images: str, test_labels: str) -> tuple[IdxFile, ...]:
    """Files of MNIST's names and shapes, by the MD5 of each, gzipped."""
    return (
        IdxFile(name="train-images-idx3-ubyte", shape=(60_000, 28, 28), gzip_md5=train_images),
        IdxFile(name="train-labels-idx1-ubyte", shape=(60_000,), gzip_md5=train_labels),
        IdxFile(name="t10k-images-idx3-ubyte", shape=(10_000, 28, 28), gzip_md5=test_images),
        IdxFile(name="t10k-labels-idx1-ubyte", shape=(10_000,), gzip_md5=test_labels),
    )


# Training images and labels, test images and labels; digests of the decompressed files.
MNIST_FILES = (
    IdxFile(
        name="train-images-idx3-ubyte",
        shape=(60_000, 28, 28),
        sha256="ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    ),
    IdxFile(
        name="train-labels-idx1-ubyte",
        shape=(60_000,),
        sha256="65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ),
    IdxFile(
        name="t10k-images-idx3-ubyte",
        shape=(10_000, 28, 28),
        sha256="0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    ),
    IdxFile(
        name="t10k-labels-idx1-ubyte",
        shape=(10_000,),
        sha256="ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
)

# The MD5 sums are torchvision's.
PUBLISHED = {
    "mnist": Published(
        name="mnist",
        title="MNIST",
        torchvision="MNIST",
        files=MNIST_FILES,
        address="https://ossci-datasets.s3.amazonaws.com/mnist/train-labels-idx1-ubyte.gz",
        size=11_594_722,
        flat=True,
        scale=(0.1307, 0.3081),
    ),
    "fashion-mnist": Published(
        name="fashion-mnist",
        title="Fashion-MNIST",
        torchvision="FashionMNIST",
        files=_as_mnist(
            train_images="8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            train_labels="25c81989df183df01b3e8a0aad5dffbe",
            test_images="bef4ecab320f06d8554ea6380940ec79",
            test_labels="bb300cfdad3c16e7a12a480ee83cd310",
        ),
        address="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/train-labels-idx1-ubyte.gz",
        size=30_878_645,
    ),
    "kmnist": Published(
        name="kmnist",
        title="KMNIST",
        torchvision="KMNIST",
        files=_as_mnist(
            train_images="bdb82020997e1d708af4cf47b453dcf7",
            train_labels="e144d726b3acfaa3e44228e80efcd344",
            test_images="5c965bf0a639b31b8f53240b1b52f4d7",
            test_labels="7320c461ea6c1c855c0b718fb2a4b134",
        ),
        address="http://codh.rois.ac.jp/kmnist/dataset/kmnist/train-labels-idx1-ubyte.gz",
        size=21_240_888,
    ),
    "qmnist-holdout": Published(
        name="qmnist-holdout",
        title="QMNIST holdout (50,000 unused test digits)",
        torchvision="QMNIST",
        files=(
            IdxFile(
                name="qmnist-test-images-idx3-ubyte",
                shape=(60_000, 28, 28),
                gzip_md5="1394631089c404de565df7b7aeaf9412",
            ),
            # Eight numbers a digit, the class first, the writer and the like after it.
            IdxFile(
                name="qmnist-test-labels-idx2-int",
                shape=(60_000, 8),
                dtype=torch.int32,
                gzip_md5="5b5b05890a5e13444e108efe57b788aa",
            ),
        ),
        address="https://raw.githubusercontent.com/facebookresearch/qmnist/master/qmnist-test-labels-idx2-int.gz",
        size=10_269_079,
    ),
}


@dataclass(frozen=True, kw_only=True)
class FileStatus:
    """What is known of one of the four files.

    Args:
        name: file name without ``.gz``.
        path: the file found; ``None`` if it is missing.
        state: whether it is there and its content is right.
        detail: what is wrong with it; empty if nothing is.
    """

    name: str
    path: Path | None
    state: Literal["verified", "damaged", "missing"]
    detail: str


@dataclass(frozen=True, kw_only=True)
class PlaceStatus:
    """What is known of one place where MNIST may be.

    Args:
        origin: why it was looked at: ``HARNESS_DATA`` or ``cache``.
        folder: the place.
        files: the four files.
    """

    origin: Literal["HARNESS_DATA", "cache"]
    folder: Path
    files: tuple[FileStatus, ...]

    @property
    def verified(self) -> bool:
        """Whether all four files are there and right."""
        return all(file.state == "verified" for file in self.files)


@dataclass(frozen=True, kw_only=True)
class DataStatus:
    """Where MNIST was looked for and what was found.

    Args:
        places: the places, the one that loading would use first.
        offline: whether ``HARNESS_OFFLINE`` forbids to download.
        remedy: what to do to get MNIST; empty if nothing needs doing.
    """

    places: tuple[PlaceStatus, ...]
    offline: bool
    remedy: str

    @property
    def verified(self) -> bool:
        """Whether loading MNIST would succeed without the network."""
        return self.places[0].verified


def data_folder() -> Path | None:
    """The folder that ``HARNESS_DATA`` names; ``None`` if it is unset or empty."""
    named = os.environ.get("HARNESS_DATA")
    return Path(named).expanduser() if named else None


def cache_folder() -> Path:
    """The folder that downloads are kept in: ``HARNESS_CACHE``, or the user's cache folder of this system."""
    named = os.environ.get("HARNESS_CACHE")
    return Path(named).expanduser() if named else platformdirs.user_cache_path("mnist-harness")


def is_offline() -> bool:
    """Whether ``HARNESS_OFFLINE`` forbids the network: set, and neither empty nor ``0``."""
    return os.environ.get("HARNESS_OFFLINE", "0") not in ("", "0")


def cached_copy(published: Published) -> Path:
    """The folder in the cache that is moved in as a whole once it is verified."""
    return cache_folder() / published.torchvision


def find_mnist() -> DataStatus:
    """Look at every place on this machine where MNIST may be, and verify what is there; no network."""
    mnist = PUBLISHED["mnist"]
    named = data_folder()
    places = [_look_at("cache", cached_copy(mnist), mnist, remedy=cache_remedy(mnist))]
    if named is not None:
        places.insert(0, _look_at("HARNESS_DATA", named, mnist, remedy=folder_remedy(mnist)))
    remedy = ""
    if not places[0].verified:
        if named is not None:
            remedy = folder_remedy(mnist)
        elif cached_copy(mnist).exists():
            remedy = cache_remedy(mnist)
        else:
            remedy = missing_remedy(mnist)
    return DataStatus(places=tuple(places), offline=is_offline(), remedy=remedy)


def folder_remedy(published: Published) -> str:
    """What to do about a folder that the user named."""
    if published.flat:
        return (
            f"Nothing was changed. Put {published.torchvision}'s own four files there, gzipped or not, flat or under "
            f"{published.torchvision}/raw, or choose other data with --data (auto, {', '.join(PUBLISHED)}, digits or a "
            "folder) or another folder with HARNESS_DATA."
        )
    return (
        f"Nothing was changed. Put {published.own_files} as published, gzipped, under {published.torchvision}/raw in the "
        "folder that HARNESS_DATA names, or name another one, or unset HARNESS_DATA to have them downloaded."
    )


def cache_remedy(published: Published) -> str:
    """What to do about a cache that is damaged."""
    return f"Nothing was changed. Delete the folder {cached_copy(published)} and try again; it will be downloaded anew."


def missing_remedy(published: Published) -> str:
    """What to do where a data set is nowhere."""
    lift = "unset HARNESS_OFFLINE" if is_offline() else "connect to the network"
    if published.flat:
        return (
            f"Name a folder that holds {published.own_files} with HARNESS_DATA or --data, "
            f"or {lift} and try again, or use the embedded digits with --data digits."
        )
    return (
        f"Name a folder that holds {published.own_files}, gzipped, under {published.torchvision}/raw with HARNESS_DATA, "
        f"or {lift} and try again."
    )


def read_folder(folder: Path, published: Published, *, remedy: str) -> tuple[Tensor, ...]:
    """The arrays of a data set from a folder that holds its files, as `Published.files` lists them.

    Raises:
        DataMissingError: the folder or a file is not there.
        DataError: a file is not what it should be.
    """
    paths = _locate(folder, published)
    missing = [file.spellings[0] for file in published.files if file.name not in paths]
    if missing:
        state = "does not hold all of them" if os.path.isdir(folder) else "is not a folder"  # noqa: PTH112 - likewise
        raise DataMissingError(
            f"Expected {published.own_files} in {folder}, but it {state}: missing={', '.join(missing)}. {remedy}"
        )
    return tuple(read_verified(paths[file.name], file, remedy=remedy) for file in published.files)


def _locate(folder: Path, published: Published) -> dict[str, Path]:
    """The files that a folder holds, by name: flat before torchvision's layout, plain before gzipped."""
    paths: dict[str, Path] = {}
    flat = (folder,) if published.flat else ()
    for place in (*flat, folder / published.torchvision / "raw", folder / "raw"):
        for file in published.files:
            for path in (place / spelling for spelling in file.spellings):
                if os.path.isfile(path):  # noqa: PTH113 - Path.is_file raises where a folder may not be looked into
                    paths.setdefault(file.name, path)
    return paths


def _look_at(
    origin: Literal["HARNESS_DATA", "cache"], folder: Path, published: Published, *, remedy: str
) -> PlaceStatus:
    paths = _locate(folder, published)
    return PlaceStatus(
        origin=origin,
        folder=folder,
        files=tuple(_look_into(paths.get(file.name), file, remedy=remedy) for file in published.files),
    )


def _look_into(path: Path | None, file: IdxFile, *, remedy: str) -> FileStatus:
    if path is None:
        return FileStatus(name=file.name, path=None, state="missing", detail=f"neither {file.name} nor {file.name}.gz")
    try:
        read_verified(path, file, remedy=remedy)
    except DataError as error:
        return FileStatus(name=file.name, path=path, state="damaged", detail=str(error))
    return FileStatus(name=file.name, path=path, state="verified", detail="")
