"""The embedded digits are scikit-learn's, enlarged and split the same way on every machine."""

import shutil
from pathlib import Path

import pytest
import sklearn.datasets
import torch

from harness.data import Dataset, load_dataset
from harness.data import digits as digits_module
from harness.data.digits import enlarge
from harness.errors import DataError


@pytest.fixture(scope="module")
def digits() -> Dataset:
    """The embedded digits."""
    return load_dataset("digits")


def test_they_are_scikit_learns(digits: Dataset) -> None:
    """The embedded data equal load_digits; every fifth of the class-sorted images is a test image."""
    original = sklearn.datasets.load_digits()
    images, labels = torch.tensor(original.images).to(torch.uint8), torch.tensor(original.target)
    test = set(sorted(range(len(labels)), key=lambda index: int(labels[index]))[::5])
    train_at, test_at = [index for index in range(len(labels)) if index not in test], sorted(test)
    assert torch.equal(enlarge(images)[train_at], digits.train_images[:, 0])
    assert torch.equal(enlarge(images)[test_at], digits.test_images[:, 0])
    assert torch.equal(labels[train_at], digits.train_labels)
    assert torch.equal(labels[test_at], digits.test_labels)


def test_shapes_and_types(digits: Dataset) -> None:
    """1,437 training and 360 test images, uint8 images and int64 labels."""
    assert (1437, 1, 28, 28) == tuple(digits.train_images.shape)
    assert (360, 1, 28, 28) == tuple(digits.test_images.shape)
    assert {torch.uint8} == {digits.train_images.dtype, digits.test_images.dtype}
    assert {torch.int64} == {digits.train_labels.dtype, digits.test_labels.dtype}


def test_split_is_stratified(digits: Dataset) -> None:
    """A fifth of the images of each class are test images, up to one image."""
    in_test, in_all = digits.test_labels.bincount(), torch.cat((digits.train_labels, digits.test_labels)).bincount()
    assert bool(((in_test - in_all / 5).abs() <= 1).all())


def test_bytes_are_the_same_on_every_machine(digits: Dataset) -> None:
    """The digest of the enlarged and split images is the recorded one."""
    assert digits.digest == "6dcb9b712e7f7b06bb2d779d7eb1b8f5e0c33f2ecbdac0793516735c8c707ec9"


def test_normalisation_is_measured(digits: Dataset) -> None:
    """Mean and standard deviation are those of the training images, to four decimals."""
    scaled = digits.train_images.double() / 255
    assert (digits.mean, digits.std) == (round(float(scaled.mean()), 4), round(float(scaled.std(correction=0)), 4))


def test_title_says_that_it_is_not_mnist(digits: Dataset) -> None:
    """The title states that the digits are not MNIST."""
    assert digits.name == "digits"
    assert "NOT MNIST" in digits.title


def test_enlarging_is_bilinear() -> None:
    """Enlarging agrees with torch's bilinear interpolation away from the border, up to rounding."""
    images = torch.randint(0, 17, (50, 8, 8), generator=torch.Generator().manual_seed(1))
    expected = torch.nn.functional.interpolate(images[:, None].double() * (255 / 16), size=(20, 20), mode="bilinear")
    inside = enlarge(images)[:, 6:22, 6:22]
    assert float((expected[:, 0, 2:18, 2:18] - inside).abs().max()) < 0.5 + 1e-9


def test_enlarged_digit_is_centred_on_black() -> None:
    """A white input gives a symmetric image, white in the middle with a black border."""
    image = enlarge(torch.full((1, 8, 8), 16))[0]
    assert torch.equal(image, image.flip(0))
    assert torch.equal(image, image.T)
    assert (255, 0) == (int(image[14, 14]), int(image[:3].max()))


def test_damaged_package_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A truncated embedded file is refused."""
    shutil.copytree(digits_module._EMBEDDED, tmp_path / "embedded")  # noqa: SLF001
    damaged = tmp_path / "embedded" / "digits-labels-idx1-ubyte.gz"
    damaged.write_bytes(damaged.read_bytes()[:-20])
    monkeypatch.setattr(digits_module, "_EMBEDDED", tmp_path / "embedded")
    with pytest.raises(DataError, match="reinstall it"):
        load_dataset("digits")
