"""Loading a data set: from the folder that the user names, else from the cache, else from the network."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from harness.data.dataset import Dataset
from harness.data.digits import DIGITS_TITLE, load_digits
from harness.data.download import download_into, torchvision_command, unreachable_reason
from harness.data.folders import (
    cache_folder,
    cache_remedy,
    cached_copy,
    data_folder,
    folder_remedy,
    is_offline,
    missing_remedy,
    read_folder,
)
from harness.data.idx import content_digest
from harness.datasets import AUTO, DIGITS, PUBLISHED, PublishedDataset
from harness.errors import DataError, DataMissingError

if TYPE_CHECKING:
    from collections.abc import Callable


def load_dataset(
    choice: str | Path = AUTO,
    *,
    announce: Callable[[str], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Load and verify a data set, on the CPU.

    Its files are read from the folder that ``HARNESS_DATA`` names; if that is unset, from the cache (``HARNESS_CACHE``, or
    the user's cache folder); if they are not cached, they are downloaded into the cache, unless ``HARNESS_OFFLINE`` is set.
    A named folder or an existing cache that cannot be used is an error, not a reason to search further. User folders are
    never written to. Data sets other than MNIST lie in a subfolder with torchvision's name for them.

    Args:
        choice: a name in `harness.datasets.PUBLISHED`; ``digits`` for the embedded digits; ``auto`` for MNIST, or the
            digits if MNIST is not found and not downloadable within seconds; anything else is a folder with MNIST.
        announce: called with a sentence when a download starts or the digits replace MNIST.
        progress: called during a download with the bytes received and the total.

    Raises:
        DataMissingError: the data set is not found and not downloadable.
        DataError: a file is truncated or has other content than published.
    """
    if choice == DIGITS:
        return load_digits()
    named = data_folder() if choice in (AUTO, *PUBLISHED) else Path(choice).expanduser()
    published = PUBLISHED.get(str(choice), PUBLISHED["mnist"])
    trained = PUBLISHED[published.train_on] if published.train_on else published
    arrays: list[Tensor] = []
    sources: list[str] = []
    for part in dict.fromkeys((trained, published)):
        found = _read_local(part, named)
        if found is None:
            try:
                found = _download(part, announce=announce, progress=progress)
            except DataMissingError as error:
                if choice == AUTO:
                    if announce is not None:
                        announce(f"MNIST is not on this machine, and {error}: using the {DIGITS_TITLE} instead.")
                    return load_digits()
                raise DataMissingError(
                    f"{part.torchvision} was not found: HARNESS_DATA is not set, the cache folder {cached_copy(part)} does "
                    f"not exist, and {error}. {missing_remedy(part)}"
                ) from error
        arrays += found[0]
        sources.append(found[1])
    train_images, train_labels = arrays[:2]
    test_images, test_labels = (array[published.first_test_image :] for array in arrays[-2:])
    if test_labels.ndim > 1:
        # QMNIST's labels have further columns; the first is the class.
        test_labels = test_labels[:, 0].to(torch.uint8)
    mean, std = trained.scale or mean_and_std(train_images)
    return Dataset(
        name=published.name,
        title=published.title,
        train_images=train_images[:, None],
        train_labels=train_labels.long(),
        test_images=test_images[:, None],
        test_labels=test_labels.long(),
        digest=content_digest((train_images, train_labels, test_images, test_labels)),
        mean=mean,
        std=std,
        source=" and ".join(dict.fromkeys(sources)),
    )


def mean_and_std(images: Tensor) -> tuple[float, float]:
    """Mean and standard deviation of uint8 images on the scale 0 to 1, rounded to four decimals, as is usual for MNIST.

    The sums are exact integers, so every machine computes the same values.
    """
    counts = images.flatten().bincount(minlength=256).tolist()
    mean = sum(value * count for value, count in enumerate(counts)) / images.numel()
    square = sum(value * value * count for value, count in enumerate(counts)) / images.numel()
    return round(mean / 255, 4), round(math.sqrt(square - mean * mean) / 255, 4)


def _read_local(published: PublishedDataset, named: Path | None) -> tuple[tuple[Tensor, ...], str] | None:
    """The arrays and where they were read from: the named folder, else the cache; ``None`` if there is neither."""
    if named is not None:
        return read_folder(named, published, remedy=folder_remedy(published)), f"folder {named.resolve()}"
    cached = cached_copy(published)
    if cached.exists():
        return read_folder(cached, published, remedy=cache_remedy(published)), f"cache {cached}"
    return None


def _download(
    published: PublishedDataset,
    *,
    announce: Callable[[str], None] | None,
    progress: Callable[[int, int], None] | None,
) -> tuple[tuple[Tensor, ...], str]:
    """Download, verify and move the files into the cache; returns the arrays and where they were read from.

    Raises:
        DataMissingError: the download failed or is disabled; the message is a clause without a final period.
    """
    if is_offline():
        raise DataMissingError("HARNESS_OFFLINE disables the download")
    if reason := unreachable_reason(published.address):
        raise DataMissingError(f"the server cannot be reached ({published.address}: {reason})")
    cache = cache_folder()
    if announce is not None:
        announce(f"Downloading {published.torchvision} ({published.size / 1e6:.1f} MB) into {cache}.")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=cache) as temporary:
            download_into(
                Path(temporary),
                command=torchvision_command(published.torchvision),
                progress=progress and (lambda received: progress(received, published.size)),
            )
            arrays = read_folder(Path(temporary), published, remedy="The download was discarded")
            _move(Path(temporary) / published.torchvision, cached_copy(published))
    except (OSError, DataError) as error:
        raise DataMissingError(f"the download failed: {error}") from error
    return arrays, f"downloaded into {cache}"


def _move(verified: Path, place: Path) -> None:
    """Rename the folder into the cache; if another process was faster, keep its copy."""
    try:
        verified.rename(place)
    except OSError:
        if not place.is_dir():
            raise
