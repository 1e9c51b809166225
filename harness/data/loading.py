"""Loading a data set: from the folder that the user names, otherwise from the cache, otherwise from the network."""

from __future__ import annotations

import difflib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from harness.data.dataset import Dataset
from harness.data.digits import DIGITS_TITLE, load_digits
from harness.data.download import download_into, torchvision_command, unreachable_reason
from harness.data.folders import (
    cache_remedy,
    cached_copy,
    data_folder,
    folder_remedy,
    is_offline,
    missing_remedy,
    read_folder,
)
from harness.datasets import AUTO, DIGITS, PUBLISHED, PublishedDataset, data_choices
from harness.errors import DataError, DataMissingError
from harness.files import expanded


def load_dataset(
    choice: str | Path = AUTO,
    *,
    validation: int = 0,
    announce: Callable[[str], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Load a data set into CPU memory and verify it.

    ``choice`` is a name in `harness.datasets.PUBLISHED`; ``digits`` for the embedded digits; ``auto`` for MNIST, or the
    digits if MNIST is neither found nor downloadable within seconds; or the path of a folder with the MNIST files.

    The files of a named data set are read from the folder that ``HARNESS_DATA`` names; if ``HARNESS_DATA`` is unset,
    from the cache (``HARNESS_CACHE``, or the user's cache folder); files that are not in the cache are downloaded into
    the cache, unless ``HARNESS_OFFLINE`` is set. If a named folder or an existing cache cannot be used, an error is raised
    and no other place is searched. Nothing is written to folders that the user names. The files of data sets other than
    MNIST are in a subfolder named after torchvision's class.

    If ``validation`` is not 0, that many training images become the test images (see `Dataset.with_validation`).
    ``announce`` is called with a sentence when a download starts or when the digits replace MNIST. ``progress`` is
    called during a download with the number of bytes received and the total number.

    Raises:
        DataMissingError: the data set is neither found nor downloadable.
        DataError: a file is truncated or has other content than published.
        InputError: there are not more training images than ``validation``.
    """
    dataset = _load(choice, announce=announce, progress=progress)
    return dataset.with_validation(validation) if validation else dataset


def _load(
    choice: str | Path, *, announce: Callable[[str], None] | None, progress: Callable[[int, int], None] | None
) -> Dataset:
    if choice == DIGITS:
        return load_digits()
    if choice not in (AUTO, *PUBLISHED) and not os.path.lexists(expanded(str(choice))):
        known = {name.casefold(): name for name in data_choices()}
        for close in difflib.get_close_matches(str(choice).casefold(), known, n=1):
            raise DataMissingError(
                f"expected the name of a data set or of a folder, got {str(choice)!r}, which does not exist. Did you mean "
                f"{known[close]!r}?"
            )
    named = data_folder() if choice in (AUTO, *PUBLISHED) else expanded(str(choice))
    published = PUBLISHED.get(str(choice), PUBLISHED["mnist"])
    trained = PUBLISHED[published.train_on] if published.train_on else published
    arrays: list[Tensor] = []
    sources: list[str] = []
    for part in dict.fromkeys((trained, published)):
        cached = cached_copy(part)
        if named is not None:
            arrays += read_folder(named, part, remedy=folder_remedy(part))
            sources.append(f"folder {named.resolve()}")
        elif cached.exists():
            arrays += read_folder(cached, part, remedy=cache_remedy(part))
            sources.append(f"cache {cached}")
        else:
            try:
                arrays += _download(part, announce=announce, progress=progress)
            except DataMissingError as error:
                if choice == AUTO:
                    if announce is not None:
                        announce(f"MNIST is not on this machine, and {error}: using the {DIGITS_TITLE} instead.")
                    return load_digits()
                raise DataMissingError(
                    f"{part.torchvision} was not found: HARNESS_DATA is not set, the cache folder {cached} does not exist, "
                    f"and {error}. {missing_remedy(part)}"
                ) from error
            sources.append(f"downloaded into {cached.parent}")
    test_images, test_labels = (array[published.first_test_image :] for array in arrays[-2:])
    if test_labels.ndim > 1:
        # QMNIST's labels have further columns; the first is the class.
        test_labels = test_labels[:, 0].to(torch.uint8)
    return Dataset.from_arrays(
        (*arrays[:2], test_images, test_labels),
        name=published.name,
        title=published.title,
        source=" and ".join(dict.fromkeys(sources)),
        scale=trained.scale,
    )


def _download(
    published: PublishedDataset, *, announce: Callable[[str], None] | None, progress: Callable[[int, int], None] | None
) -> tuple[Tensor, ...]:
    """Download and verify the files, and move them into the cache; error messages are clauses without a final period."""
    if is_offline():
        raise DataMissingError("HARNESS_OFFLINE disables the download")
    if reason := unreachable_reason(published.address):
        raise DataMissingError(f"the server cannot be reached ({published.address}: {reason})")
    cached = cached_copy(published)
    if announce is not None:
        announce(f"Downloading {published.torchvision} ({published.size / 1e6:.1f} MB) into {cached.parent}.")
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=cached.parent) as temporary:
            download_into(
                Path(temporary),
                command=torchvision_command(published.torchvision),
                progress=progress and (lambda received: progress(received, published.size)),
            )
            arrays = read_folder(Path(temporary), published, remedy="The download was discarded")
            try:
                Path(temporary, published.torchvision).rename(cached)
            except OSError:
                # If another process has created the folder in the meantime, the copy of that process stays.
                if not cached.is_dir():
                    raise
    except (OSError, DataError) as error:
        raise DataMissingError(f"the download failed: {error}") from error
    return arrays
