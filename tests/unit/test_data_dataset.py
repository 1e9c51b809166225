"""A data set in memory: moving it to a device, normalising its images."""

import numpy as np
import pytest
import torch
from torchvision.transforms import functional

from harness.data import load_dataset
from harness.errors import InputError


def test_to_moves_all_tensors() -> None:
    """`to` moves all four tensors and keeps digest and statistics."""
    digits = load_dataset("digits")
    moved = digits.to("meta")
    tensors = (moved.train_images, moved.train_labels, moved.test_images, moved.test_labels)
    assert {"meta"} == {tensor.device.type for tensor in tensors}
    assert (digits.digest, digits.mean) == (moved.digest, moved.mean)


def test_normalising_is_torchvisions() -> None:
    """Normalised images equal torchvision's ToTensor and Normalize bit for bit; the argument is not changed."""
    digits = load_dataset("digits")
    batch = digits.train_images[:20]
    before = batch.clone()
    expected = functional.normalize(functional.convert_image_dtype(batch), [digits.mean], [digits.std])
    assert torch.equal(expected, digits.normalise(batch))
    assert torch.equal(before, batch)


def test_a_shortened_copy_has_the_first_images() -> None:
    """`shortened` keeps the first training and test images with their labels, and all else."""
    digits = load_dataset("digits")
    short = digits.shortened(train=20, test=10)
    assert torch.equal(digits.train_images[:20], short.train_images)
    assert torch.equal(digits.train_labels[:20], short.train_labels)
    assert torch.equal(digits.test_images[:10], short.test_images)
    assert torch.equal(digits.test_labels[:10], short.test_labels)
    assert (digits.digest, digits.mean) == (short.digest, short.mean)


def test_validation_images_are_training_images() -> None:
    """Every training image is on exactly one side, the test images are left out, and the split is the published one."""
    digits = load_dataset("digits")
    split = digits.with_validation(200)
    images = torch.cat([split.train_images, split.test_images])
    labels = torch.cat([split.train_labels, split.test_labels])

    def rows(images: torch.Tensor, labels: torch.Tensor) -> list[bytes]:
        return sorted(
            image.numpy().tobytes() + bytes([label]) for image, label in zip(images, labels.tolist(), strict=True)
        )

    assert rows(digits.train_images, digits.train_labels) == rows(images, labels)
    assert (200, 200) == (split.validation, len(split.test_labels))
    assert digits.digest != split.digest
    assert digits.title in split.title
    assert "200 of its training images" in split.title
    # Results that were published with --validation depend on this order.
    order = np.random.RandomState(0).permutation(len(digits.train_labels))
    assert torch.equal(digits.train_images[order[-200:]], split.test_images)
    assert split.digest == load_dataset("digits", validation=200).digest


@pytest.mark.parametrize("count", [0, -1, 1437, 10**30])
def test_a_split_leaves_images_on_both_sides(count: int) -> None:
    """As many validation images as there are training images, or none, are refused with the bounds."""
    with pytest.raises(InputError, match="from 1 to 1,436 validation images out of the 1,437 training images"):
        load_dataset("digits").with_validation(count)
