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
    """The state of one of MNIST's four files, named without ``.gz``; ``detail`` says what is wrong, or is empty."""

    name: str
    state: State
    detail: str


@dataclass(frozen=True, kw_only=True)
class PlaceStatus:
    """The state of MNIST's four files in one folder, which is the folder that ``HARNESS_DATA`` names or the cache."""

    origin: Literal["HARNESS_DATA", "cache"]
    folder: Path
    files: tuple[FileStatus, ...]

    @property
    def verified(self) -> bool:
        """Whether all four files exist with the expected content."""
        return all(file.state == "verified" for file in self.files)


class DataStatus(NamedTuple):
    """The folders searched for MNIST, in order; data sets are loaded from the first folder.

    ``remedy`` says how to get MNIST; it is empty if the files in the first folder are verified.
    """

    places: tuple[PlaceStatus, ...]
    remedy: str


def data_folder() -> Path | None:
    """Return the folder that the environment variable ``HARNESS_DATA`` names; ``None`` if the variable is unset or empty."""
    named = os.environ.get("HARNESS_DATA")
    return expanded(named) if named else None


def is_offline() -> bool:
    """Whether the environment variable ``HARNESS_OFFLINE`` disables downloads: it is set, and neither empty nor ``0``."""
    return os.environ.get("HARNESS_OFFLINE", "0") not in ("", "0")


def cached_copy(published: PublishedDataset) -> Path:
    """Return the data set's folder in the cache; a download creates the folder by one rename, after verification.

    The cache is the folder that ``HARNESS_CACHE`` names, else the user's cache folder on this system, else a temporary
    folder.
    """
    if named := os.environ.get("HARNESS_CACHE"):
        return expanded(named) / published.torchvision
    cache = Path("~")
    with contextlib.suppress(RuntimeError):
        cache = platformdirs.user_cache_path("mnist-harness")
    if not cache.is_absolute():
        # The user has no home folder, for example in a container that runs under an arbitrary user number.
        cache = Path(tempfile.gettempdir()) / "mnist-harness"
    return cache / published.torchvision


def find_mnist() -> DataStatus:
    """Search this machine for the MNIST files and verify the files that are found, without using the network."""
    mnist = PUBLISHED["mnist"]
    named, cached = data_folder(), cached_copy(mnist)
    places = [_place_status("cache", cached, remedy=cache_remedy(mnist))]
    remedy = cache_remedy(mnist) if cached.exists() else missing_remedy(mnist)
    if named is not None:
        remedy = folder_remedy(mnist)
        places.insert(0, _place_status("HARNESS_DATA", named, remedy=remedy))
    return DataStatus(places=tuple(places), remedy="" if places[0].verified else remedy)


def folder_remedy(published: PublishedDataset) -> str:
    """Tell the user what to do if the data set cannot be read from the folder that the user named."""
    if published.flat:
        return (
            f"Nothing was changed. Put {_files(published)} into the folder, gzipped or not, directly or under "
            f"{published.torchvision}/raw, or choose other data with --data ({', '.join(data_choices())} or a folder), "
            "or another folder with HARNESS_DATA."
        )
    return (
        f"Nothing was changed. Put {_files(published)} as published, gzipped, under {published.torchvision}/raw in the "
        "folder that HARNESS_DATA names, set HARNESS_DATA to another folder, or unset it to download the data set."
    )


def cache_remedy(published: PublishedDataset) -> str:
    """Tell the user what to do if the files in the cache are damaged."""
    return f"Nothing was changed. Delete the folder {cached_copy(published)} and try again to download the data set."


def missing_remedy(published: PublishedDataset) -> str:
    """Tell the user what to do if the data set was not found."""
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
    """Read and verify the files of a data set; return the arrays in the order of `PublishedDataset.files`.

    The files are in the subfolder ``raw`` of ``folder``, in ``NAME/raw``, which torchvision creates, or, for a data set
    with ``flat``, directly in ``folder``. ``remedy`` is the last part of an error message and says what to do.

    Raises:
        DataMissingError: the folder or a file does not exist.
        DataError: a file has other content than published.
    """
    paths = _find_files(folder, published)
    missing = [file.file_names[0] for file in published.files if file.name not in paths]
    if missing:
        # os.path, not Path: Path.is_dir raises where a parent folder may not be searched.
        state = "the folder lacks some" if os.path.isdir(folder) else "there is no such folder"  # noqa: PTH112
        state = "this path is a file" if os.path.isfile(folder) else state  # noqa: PTH113
        found = _found_instead(folder, missing)
        raise DataMissingError(
            f"expected {_files(published)} in {folder}, but {state}: missing={', '.join(missing)}. {found}{remedy}"
        )
    return tuple(read_verified(paths[file.name], file, remedy=remedy) for file in published.files)


def _find_files(folder: Path, published: PublishedDataset) -> dict[str, Path]:
    """Map file names to paths; files directly in the folder and decompressed files take precedence."""
    paths: dict[str, Path] = {}
    flat = (folder,) if published.flat else ()
    for place in (*flat, folder / published.torchvision / "raw", folder / "raw"):
        for file in published.files:
            for path in (place / name for name in file.file_names):
                if os.path.isfile(path):  # noqa: PTH113 - Path.is_file raises where a parent folder may not be searched
                    paths.setdefault(file.name, path)
    return paths


def _found_instead(folder: Path, missing: list[str]) -> str:
    """Return a sentence about files with other names or in subfolders that may be the missing files; empty if there are none."""
    for name in (name.removesuffix(".gz") for name in missing):
        dotted = name.replace("-idx", ".idx")
        for path in (folder / dotted, folder / f"{dotted}.gz"):
            if path.is_file():
                plain = path.name.replace(".idx", "-idx")
                return f"{path.name} is named as on Kaggle: rename the file to {plain}, and the other files in the same way. "
        try:
            below = [path for path in sorted(folder.glob("*/*"))[:_MOST_SEARCHED] if path.is_file()]
            archives = [path for path in sorted(folder.glob("*.zip")) if path.is_file()]
        except OSError:
            return ""
        for path in below:
            if path.name in (name, f"{name}.gz", dotted, f"{dotted}.gz"):
                return (
                    f"There is {path.relative_to(folder)}: name the folder {path.parent} instead, or move the files from "
                    f"there into {folder}. "
                )
        if archives:
            return f"There is {archives[0].name}: extract the files from the archive. "
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
