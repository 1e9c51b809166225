"""Made-up files with the names of MNIST's and other data sets', for the tests of loading."""

from __future__ import annotations

import functools
import gzip
import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from harness.data.idx import encode_idx
from harness.datasets import PUBLISHED, IdxFile

MNIST = PUBLISHED["mnist"]
ARRAYS = {
    "train-images-idx3-ubyte": torch.arange(3 * 784, dtype=torch.int64).to(torch.uint8).view(3, 28, 28),
    "train-labels-idx1-ubyte": torch.tensor((7, 8, 9), dtype=torch.uint8),
    "t10k-images-idx3-ubyte": torch.ones(2, 28, 28, dtype=torch.uint8),
    "t10k-labels-idx1-ubyte": torch.tensor((0, 1), dtype=torch.uint8),
}
CONTENTS = {name: encode_idx(array) for name, array in ARRAYS.items()}
# The labels' first column is the class, the others are other facts.
QMNIST_ARRAYS = {
    "qmnist-test-images-idx3-ubyte": torch.zeros(10_002, 28, 28, dtype=torch.uint8),
    "qmnist-test-labels-idx2-int": torch.full((10_002, 8), 77, dtype=torch.int32),
}
QMNIST_ARRAYS["qmnist-test-images-idx3-ubyte"][10_000:] = torch.tensor((5, 6), dtype=torch.uint8)[:, None, None]
QMNIST_ARRAYS["qmnist-test-labels-idx2-int"][:, 0] = 1
QMNIST_ARRAYS["qmnist-test-labels-idx2-int"][10_000:, 0] = torch.tensor((3, 4), dtype=torch.int32)


def expect_made_up_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the digests of every published data set by those of the made-up files."""
    for name, published in PUBLISHED.items():
        files = tuple(
            IdxFile(
                name=file,
                shape=tuple(array.shape),
                dtype="int32" if array.dtype == torch.int32 else "uint8",
                sha256=hashlib.sha256(CONTENTS[file]).hexdigest() if name == "mnist" else "",
                gzip_md5="" if name == "mnist" else hashlib.md5(packed(name)[f"{file}.gz"]).hexdigest(),  # noqa: S324
            )
            for file, array in _arrays(name).items()
        )
        monkeypatch.setitem(PUBLISHED, name, replace(published, files=files))


def fill(folder: Path, *, gzipped: bool = True) -> Path:
    """Write the four made-up MNIST files into a folder."""
    folder.mkdir(parents=True)
    for name, content in CONTENTS.items():
        if gzipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content, mtime=0))
        else:
            (folder / name).write_bytes(content)
    return folder


@functools.cache
def packed(name: str) -> dict[str, bytes]:
    """The gzipped made-up files of a data set other than MNIST."""
    return {f"{file}.gz": gzip.compress(encode_idx(array), 1, mtime=0) for file, array in _arrays(name).items()}


def fill_packed(folder: Path, name: str) -> Path:
    """Write a data set's gzipped files in torchvision's layout below a folder; returns the subfolder."""
    place = folder / PUBLISHED[name].torchvision / "raw"
    place.mkdir(parents=True)
    for file, content in packed(name).items():
        (place / file).write_bytes(content)
    return place


def contents_of(folder: Path) -> dict[Path, bytes]:
    """Every file below a folder with its bytes."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def no_network(*_args: object, **_named: object) -> str:
    """Replaces `unreachable_reason` where the network must not be used."""
    pytest.fail("the network was used")


def _arrays(name: str) -> dict[str, torch.Tensor]:
    return QMNIST_ARRAYS if PUBLISHED[name].train_on else ARRAYS
