"""Where MNIST may be, and reading it from there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import platformdirs

from harness.data.dataset import Dataset
from harness.data.idx import IdxFile, content_digest, read_verified
from harness.errors import DataError, DataMissingError

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

FOLDER_REMEDY = (
    "Nothing was changed. Put MNIST's own four files there, gzipped or not, flat or under MNIST/raw, or choose other "
    "data with --data (auto, mnist, digits or a folder) or another folder with HARNESS_DATA."
)


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


def cached_copy() -> Path:
    """The folder in the cache that is moved in as a whole once it is verified."""
    return cache_folder() / "MNIST"


def find_mnist() -> DataStatus:
    """Look at every place on this machine where MNIST may be, and verify what is there; no network."""
    named = data_folder()
    places = [_look_at("cache", cached_copy(), remedy=cache_remedy())]
    if named is not None:
        places.insert(0, _look_at("HARNESS_DATA", named, remedy=FOLDER_REMEDY))
    remedy = ""
    if not places[0].verified:
        if named is not None:
            remedy = FOLDER_REMEDY
        elif cached_copy().exists():
            remedy = cache_remedy()
        else:
            remedy = missing_remedy()
    return DataStatus(places=tuple(places), offline=is_offline(), remedy=remedy)


def cache_remedy() -> str:
    """What to do about a cache that is damaged."""
    return f"Nothing was changed. Delete the folder {cached_copy()} and try again; it will be downloaded anew."


def missing_remedy() -> str:
    """What to do where MNIST is nowhere."""
    lift = "unset HARNESS_OFFLINE" if is_offline() else "connect to the network"
    return (
        "Name a folder that holds MNIST's four files with HARNESS_DATA or --data, "
        f"or {lift} and try again, or use the embedded digits with --data digits."
    )


def read_folder(folder: Path, *, source: str, remedy: str) -> Dataset:
    """MNIST from a folder that holds the four files, gzipped or not, flat or in torchvision's layout.

    Raises:
        DataMissingError: the folder or a file is not there.
        DataError: a file is not what it should be.
    """
    paths = _locate(folder)
    missing = [file.name for file in MNIST_FILES if file.name not in paths]
    if missing:
        state = "does not hold all of them" if os.path.isdir(folder) else "is not a folder"  # noqa: PTH112 - likewise
        raise DataMissingError(
            f"Expected MNIST's four files in {folder}, but it {state}: missing={', '.join(missing)}. {remedy}"
        )
    train_images, train_labels, test_images, test_labels = (
        read_verified(paths[file.name], file, remedy=remedy) for file in MNIST_FILES
    )
    return Dataset(
        name="mnist",
        title="MNIST",
        train_images=train_images[:, None],
        train_labels=train_labels.long(),
        test_images=test_images[:, None],
        test_labels=test_labels.long(),
        digest=content_digest((train_images, train_labels, test_images, test_labels)),
        mean=0.1307,
        std=0.3081,
        source=source,
    )


def _locate(folder: Path) -> dict[str, Path]:
    """The files of MNIST that a folder holds, by name: flat before torchvision's layout, plain before gzipped."""
    paths: dict[str, Path] = {}
    for place in (folder, folder / "MNIST" / "raw", folder / "raw"):
        for file in MNIST_FILES:
            for path in (place / file.name, place / f"{file.name}.gz"):
                if os.path.isfile(path):  # noqa: PTH113 - Path.is_file raises where a folder may not be looked into
                    paths.setdefault(file.name, path)
    return paths


def _look_at(origin: Literal["HARNESS_DATA", "cache"], folder: Path, *, remedy: str) -> PlaceStatus:
    paths = _locate(folder)
    return PlaceStatus(
        origin=origin,
        folder=folder,
        files=tuple(_look_into(paths.get(file.name), file, remedy=remedy) for file in MNIST_FILES),
    )


def _look_into(path: Path | None, file: IdxFile, *, remedy: str) -> FileStatus:
    if path is None:
        return FileStatus(name=file.name, path=None, state="missing", detail=f"neither {file.name} nor {file.name}.gz")
    try:
        read_verified(path, file, remedy=remedy)
    except DataError as error:
        return FileStatus(name=file.name, path=path, state="damaged", detail=str(error))
    return FileStatus(name=file.name, path=path, state="verified", detail="")
