"""A data set in memory: moving it to a device, normalising its images."""

import torch
from torchvision.transforms import functional

from harness.data import load_dataset


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
