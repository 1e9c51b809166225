"""One way to every data set: what the user named, else the cache, else the network, else - said aloud - the digits."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from harness.data.dataset import Dataset
from harness.data.digits import DIGITS_TITLE, load_digits
from harness.data.download import download_into, torchvision_command, why_unreachable
from harness.data.idx import content_digest
from harness.data.mnist import (
    PUBLISHED,
    Published,
    cache_folder,
    cache_remedy,
    cached_copy,
    data_folder,
    folder_remedy,
    is_offline,
    missing_remedy,
    read_folder,
)
from harness.errors import DataError, DataMissingError

if TYPE_CHECKING:
    from collections.abc import Callable

# QMNIST's first 10,000 test digits are MNIST's own test digits, made again.
_FIRST_UNUSED = 10_000


def load_dataset(
    choice: str | Path = "auto",
    *,
    announce: Callable[[str], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Load a data set, verified, on the CPU.

    MNIST is taken from the folder that ``HARNESS_DATA`` names; without that from the cache (``HARNESS_CACHE``, or the
    user's cache folder); without that it is downloaded into the cache, unless ``HARNESS_OFFLINE`` is set. A folder that
    was named, or a cache that is there, is used or refused, never passed over, and never written to. The same holds for
    the other data sets, each in a subfolder as torchvision names it.

    Args:
        choice: ``mnist``, ``fashion-mnist`` or ``kmnist``; ``qmnist-holdout`` for MNIST's training images and the 50,000
            test digits of QMNIST that are not in MNIST; ``digits`` for the embedded ones; ``auto`` for MNIST, or the
            digits where MNIST is neither here nor to be had within seconds of trying; anything else is a folder that
            holds MNIST.
        announce: called with a sentence when data are being downloaded or the digits stand in for MNIST.
        progress: called during a download with the bytes fetched so far and the bytes in all.

    Raises:
        DataMissingError: the data asked for are not there: neither in the folder named, nor in the cache, nor to be had.
        DataError: a file is truncated or has other content.
    """
    if choice == "digits":
        return load_digits()
    named = data_folder() if choice in ("auto", *PUBLISHED) else Path(choice).expanduser()
    mnist = PUBLISHED["mnist"]
    published = next((one for one in PUBLISHED.values() if one.name == choice), mnist)
    trained = mnist if published.name == "qmnist-holdout" else published
    arrays: list[Tensor] = []
    sources: list[str] = []
    for part in dict.fromkeys((trained, published)):
        found = _here(part, named)
        if found is None:
            try:
                found = _fetch(part, announce=announce, progress=progress)
            except DataMissingError as error:
                if choice == "auto":
                    if announce is not None:
                        announce(f"MNIST is not on this machine, and {error}: using the {DIGITS_TITLE} instead.")
                    return load_digits()
                raise DataMissingError(
                    f"{part.torchvision} was expected in a folder that HARNESS_DATA names, in {cached_copy(part)} or from "
                    f"the network, but HARNESS_DATA is not set, the folder is not there, and {error}. "
                    f"{missing_remedy(part)}"
                ) from error
        arrays += found[0]
        sources.append(found[1])
    if trained is not published:
        images, labels = arrays[4:]
        arrays[2:] = images[_FIRST_UNUSED:], labels[_FIRST_UNUSED:, 0].to(torch.uint8)
    train_images, train_labels, test_images, test_labels = arrays
    mean, std = trained.scale or mean_and_std(train_images)
    return Dataset(
        name=published.name,
        title=published.title,
        train_images=train_images[:, None],
        train_labels=train_labels.long(),
        test_images=test_images[:, None],
        test_labels=test_labels.long(),
        digest=content_digest(arrays),
        mean=mean,
        std=std,
        source=" and ".join(dict.fromkeys(sources)),
    )


def mean_and_std(images: Tensor) -> tuple[float, float]:
    """Mean and standard deviation of uint8 images on the scale 0 to 1, to four decimals as custom has MNIST's.

    The sums are exact, so every machine gets the same.
    """
    counts = images.flatten().bincount(minlength=256).tolist()
    mean = sum(value * count for value, count in enumerate(counts)) / images.numel()
    square = sum(value * value * count for value, count in enumerate(counts)) / images.numel()
    return round(mean / 255, 4), round(math.sqrt(square - mean * mean) / 255, 4)


def _here(published: Published, named: Path | None) -> tuple[tuple[Tensor, ...], str] | None:
    """The arrays and where they came from: the folder named, else the cache; None if there is neither."""
    if named is not None:
        return read_folder(named, published, remedy=folder_remedy(published)), f"folder {named.resolve()}"
    cached = cached_copy(published)
    if cached.exists():
        return read_folder(cached, published, remedy=cache_remedy(published)), f"cache {cached}"
    return None


def _fetch(
    published: Published, *, announce: Callable[[str], None] | None, progress: Callable[[int, int], None] | None
) -> tuple[tuple[Tensor, ...], str]:
    """Download, verify and move into the cache as a whole; DataMissingError says why not."""
    if is_offline():
        raise DataMissingError("HARNESS_OFFLINE forbids to download it")
    if reason := why_unreachable(published.address):
        raise DataMissingError(f"it is not reachable ({published.address}: {reason})")
    cache = cache_folder()
    if announce is not None:
        announce(f"Downloading {published.torchvision} ({published.size / 1e6:.1f} MB) into {cache}.")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=cache) as temporary:
            download_into(
                Path(temporary),
                command=torchvision_command(published.torchvision),
                progress=progress and (lambda fetched: progress(fetched, published.size)),
            )
            arrays = read_folder(Path(temporary), published, remedy="It was not kept")
            _keep(Path(temporary) / published.torchvision, cached_copy(published))
    except (OSError, DataError) as error:
        raise DataMissingError(f"it could not be fetched: {error}") from error
    return arrays, f"downloaded into {cache}"


def _keep(verified: Path, place: Path) -> None:
    """Move the copy in at once; where another process was faster, its copy stays."""
    try:
        verified.rename(place)
    except OSError:
        if not place.is_dir():
            raise
