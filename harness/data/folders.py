"""Finding and reading the files of a data set on this machine, and reporting the state of MNIST's files."""

from __future__ import annotations

import contextlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import platformdirs
from torch import Tensor

from harness.data.idx import read_verified
from harness.datasets import PUBLISHED, PublishedDataset, data_choices
from harness.errors import DataError, DataMissingError
from harness.files import expanded

State = Literal["verified", "damaged", "missing"]
_MOST_SEARCHED = 10_000


class FileStatus(NamedTuple):
    """The state of one of MNIST's four files, named without ``.gz``; ``detail`` says what is wrong, if anything is."""

    name: str
    state: State
    detail: str


@dataclass(frozen=True, kw_only=True)
class PlaceStatus:
    """The state of MNIST's four files in one folder: that of ``HARNESS_DATA`` or the cache."""

    origin: Literal["HARNESS_DATA", "cache"]
    folder: Path
    files: tuple[FileStatus, ...]

    @property
    def verified(self) -> bool:
        """Whether all four files exist with the expected content."""
        return all(file.state == "verified" for file in self.files)


class DataStatus(NamedTuple):
    """The folders searched for MNIST, of which loading uses the first; ``remedy``, if not empty, says how to get it."""

    places: tuple[PlaceStatus, ...]
    remedy: str


def data_folder() -> Path | None:
    """The folder that ``HARNESS_DATA`` names; ``None`` if it is unset or empty."""
    named = os.environ.get("HARNESS_DATA")
    return expanded(named) if named else None


def is_offline() -> bool:
    """Whether ``HARNESS_OFFLINE`` disables downloads: set, and neither empty nor ``0``."""
    return os.environ.get("HARNESS_OFFLINE", "0") not in ("", "0")


def cached_copy(published: PublishedDataset) -> Path:
    """The data set's folder in the cache; it is created by one rename, after verification.

    The cache is the folder that ``HARNESS_CACHE`` names, else the user's cache folder on this system, else a temporary one.
    """
    if named := os.environ.get("HARNESS_CACHE"):
        return expanded(named) / published.torchvision
    cache = Path("~")
    with contextlib.suppress(RuntimeError):
        cache = platformdirs.user_cache_path("mnist-harness")
    if not cache.is_absolute():
        # A user without a home folder, such as the arbitrary number that a container may run as.
        cache = Path(tempfile.gettempdir()) / "mnist-harness"
    return cache / published.torchvision


def find_mnist() -> DataStatus:
    """Search this machine for MNIST and verify the files found; does not use the network."""
    mnist = PUBLISHED["mnist"]
    named, cached = data_folder(), cached_copy(mnist)
    places = [_place_status("cache", cached, remedy=cache_remedy(mnist))]
    remedy = cache_remedy(mnist) if cached.exists() else missing_remedy(mnist)
    if named is not None:
        remedy = folder_remedy(mnist)
        places.insert(0, _place_status("HARNESS_DATA", named, remedy=remedy))
    return DataStatus(places=tuple(places), remedy="" if places[0].verified else remedy)


def folder_remedy(published: PublishedDataset) -> str:
    """Advice to the user on a named folder that cannot be used."""
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
    """Advice to the user on a damaged cache."""
    return f"Nothing was changed. Delete the folder {cached_copy(published)} and try again to download the data set."


def missing_remedy(published: PublishedDataset) -> str:
    """Advice to the user on a data set that was not found."""
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
    """Read and verify the files of a data set; returns the arrays in the order of `PublishedDataset.files`.

    The files are in the subfolder ``raw``, under torchvision's ``NAME/raw``, or, for a data set with ``flat``, directly
    in it. ``remedy`` ends an error message with what to do.

    Raises:
        DataMissingError: the folder or a file does not exist.
        DataError: a file has other content than published.
    """
    paths = _find_files(folder, published)
    missing = [file.file_names[0] for file in published.files if file.name not in paths]
    if missing:
        # os.path, not Path: Path.is_dir raises where a parent folder may not be searched.
        state = "the folder lacks some" if os.path.isdir(folder) else "there is no such folder"  # noqa: PTH112
        state = "it is a file" if os.path.isfile(folder) else state  # noqa: PTH113
        found = _found_instead(folder, missing)
        raise DataMissingError(
            f"expected {_files(published)} in {folder}, but {state}: missing={', '.join(missing)}. {found}{remedy}"
        )
    return tuple(read_verified(paths[file.name], file, remedy=remedy) for file in published.files)


def _find_files(folder: Path, published: PublishedDataset) -> dict[str, Path]:
    """Map file names to paths; files directly in the folder take precedence, as do decompressed ones."""
    paths: dict[str, Path] = {}
    flat = (folder,) if published.flat else ()
    for place in (*flat, folder / published.torchvision / "raw", folder / "raw"):
        for file in published.files:
            for path in (place / name for name in file.file_names):
                if os.path.isfile(path):  # noqa: PTH113 - Path.is_file raises where a parent folder may not be searched
                    paths.setdefault(file.name, path)
    return paths


def _found_instead(folder: Path, missing: list[str]) -> str:
    """A sentence on files with other names or in subfolders that may be the missing ones; empty if there are none."""
    for name in (name.removesuffix(".gz") for name in missing):
        dotted = name.replace("-idx", ".idx")
        for path in (folder / dotted, folder / f"{dotted}.gz"):
            if path.is_file():
                plain = path.name.replace(".idx", "-idx")
                return (
                    f"{path.name} has the name that Kaggle gives the file: rename it to {plain}, and the others alike. "
                )
        try:
            below = [path for path in sorted(folder.glob("*/*"))[:_MOST_SEARCHED] if path.is_file()]
            archives = [path for path in sorted(folder.glob("*.zip")) if path.is_file()]
        except OSError:
            return ""
        for path in below:
            if path.name in (name, f"{name}.gz", dotted, f"{dotted}.gz"):
                return (
                    f"There is {path.relative_to(folder)}: name the folder {path.parent}, or move the files out of it. "
                )
        if archives:
            return f"There is {archives[0].name}: extract the files in it. "
    return ""


def _place_status(origin: Literal["HARNESS_DATA", "cache"], folder: Path, *, remedy: str) -> PlaceStatus:
    mnist = PUBLISHED["mnist"]
    paths = _find_files(folder, mnist)
    files = []
    for file in mnist.files:
        if file.name not in paths:
            files.append(FileStatus(file.name, "missing", f"found neither {file.name} nor {file.name}.gz"))
            continue
        try:
            read_verified(paths[file.name], file, remedy=remedy)
            files.append(FileStatus(file.name, "verified", ""))
        except DataError as error:
            files.append(FileStatus(file.name, "damaged", str(error)))
    return PlaceStatus(origin=origin, folder=folder, files=tuple(files))
