"""One way to every data set: what the user named, else the cache, else the network, else - said aloud - the digits."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from harness.data.digits import DIGITS_TITLE, load_digits
from harness.data.download import MNIST_ADDRESS, MNIST_SIZE, download_mnist, why_unreachable
from harness.data.mnist import (
    FOLDER_REMEDY,
    cache_folder,
    cache_remedy,
    cached_copy,
    data_folder,
    is_offline,
    missing_remedy,
    read_folder,
)
from harness.errors import DataError, DataMissingError

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.data.dataset import Dataset


def load_dataset(
    choice: str | Path = "auto",
    *,
    announce: Callable[[str], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Load a data set, verified, on the CPU.

    MNIST is taken from the folder that ``HARNESS_DATA`` names; without that from the cache (``HARNESS_CACHE``, or the
    user's cache folder); without that it is downloaded into the cache, unless ``HARNESS_OFFLINE`` is set. A folder that
    was named, or a cache that is there, is used or refused, never passed over, and never written to.

    Args:
        choice: ``mnist``; ``digits`` for the embedded ones; ``auto`` for MNIST, or the digits where MNIST is neither
            here nor to be had within seconds of trying; anything else is a folder that holds MNIST.
        announce: called with a sentence when MNIST is being downloaded or the digits stand in for it.
        progress: called during a download with the bytes fetched so far and the bytes in all.

    Raises:
        DataMissingError: MNIST was asked for, or a folder named, and it is not there.
        DataError: a file is truncated or its content is not MNIST's.
    """
    if choice == "digits":
        return load_digits()
    named = data_folder() if choice in ("auto", "mnist") else Path(choice).expanduser()
    if named is not None:
        return read_folder(named, source=f"folder {named.resolve()}", remedy=FOLDER_REMEDY)
    if cached_copy().exists():
        return read_folder(cached_copy(), source=f"cache {cached_copy()}", remedy=cache_remedy())
    try:
        return _fetch(announce=announce, progress=progress)
    except DataMissingError as error:
        if choice == "mnist":
            raise DataMissingError(
                f"MNIST was expected in a folder that HARNESS_DATA names, in {cached_copy()} or from the network, "
                f"but HARNESS_DATA is not set, the folder is not there, and {error}. {missing_remedy()}"
            ) from error
        if announce is not None:
            announce(f"MNIST is not on this machine, and {error}: using the {DIGITS_TITLE} instead.")
        return load_digits()


def _fetch(*, announce: Callable[[str], None] | None, progress: Callable[[int, int], None] | None) -> Dataset:
    """Download MNIST, verify it and move it into the cache as a whole; DataMissingError says why not."""
    if is_offline():
        raise DataMissingError("HARNESS_OFFLINE forbids to download it")
    if reason := why_unreachable(MNIST_ADDRESS):
        raise DataMissingError(f"it is not reachable ({MNIST_ADDRESS}: {reason})")
    cache = cache_folder()
    if announce is not None:
        announce(f"Downloading MNIST ({MNIST_SIZE / 1e6:.1f} MB) into {cache}.")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=cache) as temporary:
            download_mnist(Path(temporary), progress=progress)
            dataset = read_folder(Path(temporary), source=f"downloaded into {cache}", remedy="It was not kept")
            _keep(Path(temporary) / "MNIST")
    except (OSError, DataError) as error:
        raise DataMissingError(f"it could not be fetched: {error}") from error
    return dataset


def _keep(verified: Path) -> None:
    """Move the copy in at once; where another process was faster, its copy stays."""
    try:
        verified.rename(cached_copy())
    except OSError:
        if not cached_copy().is_dir():
            raise
