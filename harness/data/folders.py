"""Where the files of a data set may be on this machine, reading them from there, and the state of MNIST's."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import platformdirs
from torch import Tensor

from harness.data.idx import read_verified
from harness.datasets import PUBLISHED, IdxFile, PublishedDataset, data_choices
from harness.errors import DataError, DataMissingError


@dataclass(frozen=True, kw_only=True)
class FileStatus:
    """The state of one of MNIST's four files.

    Args:
        name: file name without ``.gz``.
        path: the file found; ``None`` if it is missing.
        state: whether the file exists and its content has the expected digest.
        detail: what is wrong; empty if nothing is.
    """

    name: str
    path: Path | None
    state: Literal["verified", "damaged", "missing"]
    detail: str


@dataclass(frozen=True, kw_only=True)
class PlaceStatus:
    """The state of MNIST in one folder.

    Args:
        origin: why this folder was searched: ``HARNESS_DATA`` names it, or it is the cache.
        folder: the folder.
        files: the state of the four files.
    """

    origin: Literal["HARNESS_DATA", "cache"]
    folder: Path
    files: tuple[FileStatus, ...]

    @property
    def verified(self) -> bool:
        """Whether all four files exist with the expected content."""
        return all(file.state == "verified" for file in self.files)


@dataclass(frozen=True, kw_only=True)
class DataStatus:
    """Where MNIST was searched for and what was found.

    Args:
        places: the folders searched; loading would use the first.
        offline: whether ``HARNESS_OFFLINE`` disables downloads.
        remedy: how to get MNIST; empty if it can be loaded.
    """

    places: tuple[PlaceStatus, ...]
    offline: bool
    remedy: str

    @property
    def verified(self) -> bool:
        """Whether MNIST can be loaded without a network."""
        return self.places[0].verified


def data_folder() -> Path | None:
    """The folder that ``HARNESS_DATA`` names; ``None`` if it is unset or empty."""
    named = os.environ.get("HARNESS_DATA")
    return Path(named).expanduser() if named else None


def cache_folder() -> Path:
    """The folder for downloads: ``HARNESS_CACHE`` if set, else the user's cache folder on this system."""
    named = os.environ.get("HARNESS_CACHE")
    return Path(named).expanduser() if named else platformdirs.user_cache_path("mnist-harness")


def is_offline() -> bool:
    """Whether ``HARNESS_OFFLINE`` disables downloads: set, and neither empty nor ``0``."""
    return os.environ.get("HARNESS_OFFLINE", "0") not in ("", "0")


def cached_copy(published: PublishedDataset) -> Path:
    """The data set's folder in the cache; it is created by one rename, after verification."""
    return cache_folder() / published.torchvision


def find_mnist() -> DataStatus:
    """Search this machine for MNIST and verify the files found; does not use the network."""
    mnist = PUBLISHED["mnist"]
    named = data_folder()
    places = [_place_status("cache", cached_copy(mnist), mnist, remedy=cache_remedy(mnist))]
    if named is not None:
        places.insert(0, _place_status("HARNESS_DATA", named, mnist, remedy=folder_remedy(mnist)))
    remedy = ""
    if not places[0].verified:
        if named is not None:
            remedy = folder_remedy(mnist)
        elif cached_copy(mnist).exists():
            remedy = cache_remedy(mnist)
        else:
            remedy = missing_remedy(mnist)
    return DataStatus(places=tuple(places), offline=is_offline(), remedy=remedy)


def folder_remedy(published: PublishedDataset) -> str:
    """What to do about a folder that the user named and that cannot be used."""
    if published.flat:
        return (
            f"Nothing was changed. Put {_files(published)} there, gzipped or not, directly or under "
            f"{published.torchvision}/raw, or choose other data with --data ({', '.join(data_choices())} or a folder), "
            "or another folder with HARNESS_DATA."
        )
    return (
        f"Nothing was changed. Put {_files(published)} as published, gzipped, under {published.torchvision}/raw in the "
        "folder that HARNESS_DATA names, set HARNESS_DATA to another folder, or unset it to download the data set."
    )


def cache_remedy(published: PublishedDataset) -> str:
    """What to do about a damaged cache."""
    return f"Nothing was changed. Delete the folder {cached_copy(published)} and try again to download the data set."


def missing_remedy(published: PublishedDataset) -> str:
    """What to do about a data set that was not found."""
    enable = "unset HARNESS_OFFLINE" if is_offline() else "connect to the network"
    if published.flat:
        return (
            f"Name a folder with {_files(published)} by HARNESS_DATA or --data, or {enable} and try again, "
            "or use the embedded digits with --data digits."
        )
    return (
        f"Put {_files(published)}, gzipped, under {published.torchvision}/raw in a folder and name the folder by "
        f"HARNESS_DATA, or {enable} and try again."
    )


def _files(published: PublishedDataset) -> str:
    return f"the {'four' if len(published.files) == 4 else 'two'} {published.torchvision} files"  # noqa: PLR2004


def read_folder(folder: Path, published: PublishedDataset, *, remedy: str) -> tuple[Tensor, ...]:
    """Read and verify the files of a data set in a folder.

    Args:
        folder: where the files are: in its subfolder ``raw``, under torchvision's ``NAME/raw``, or, for a data set with
            ``flat``, directly in it.
        published: the data set.
        remedy: last sentence of an error message: what to do.

    Returns:
        The arrays, in the order of `PublishedDataset.files`.

    Raises:
        DataMissingError: the folder or a file does not exist.
        DataError: a file has other content than published.
    """
    paths = _find_files(folder, published)
    missing = [file.file_names[0] for file in published.files if file.name not in paths]
    if missing:
        # os.path, not Path: Path.is_dir raises where a parent folder may not be searched.
        state = "the folder lacks some" if os.path.isdir(folder) else "it is not a folder"  # noqa: PTH112
        raise DataMissingError(
            f"expected {_files(published)} in {folder}, but {state}: missing={', '.join(missing)}. {remedy}"
        )
    return tuple(read_verified(paths[file.name], file, remedy=remedy) for file in published.files)


def _find_files(folder: Path, published: PublishedDataset) -> dict[str, Path]:
    """The files in a folder, by name: flat before torchvision's layout, decompressed before gzipped."""
    paths: dict[str, Path] = {}
    flat = (folder,) if published.flat else ()
    for place in (*flat, folder / published.torchvision / "raw", folder / "raw"):
        for file in published.files:
            for path in (place / name for name in file.file_names):
                if os.path.isfile(path):  # noqa: PTH113 - Path.is_file raises where a parent folder may not be searched
                    paths.setdefault(file.name, path)
    return paths


def _place_status(
    origin: Literal["HARNESS_DATA", "cache"], folder: Path, published: PublishedDataset, *, remedy: str
) -> PlaceStatus:
    paths = _find_files(folder, published)
    return PlaceStatus(
        origin=origin,
        folder=folder,
        files=tuple(_file_status(paths.get(file.name), file, remedy=remedy) for file in published.files),
    )


def _file_status(path: Path | None, file: IdxFile, *, remedy: str) -> FileStatus:
    if path is None:
        detail = f"found neither {file.name} nor {file.name}.gz"
        return FileStatus(name=file.name, path=None, state="missing", detail=detail)
    try:
        read_verified(path, file, remedy=remedy)
    except DataError as error:
        return FileStatus(name=file.name, path=path, state="damaged", detail=str(error))
    return FileStatus(name=file.name, path=path, state="verified", detail="")
