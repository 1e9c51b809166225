"""The embedded digits: a substitute for MNIST that needs no download.

The data set has 1,797 handwritten digits of 8x8 pixels in 17 grey levels, enlarged to 20x20 and centred in 28x28, as
the digits of MNIST are. ``embedded/PROVENANCE.md`` names the origin of the digits.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from harness.data.dataset import Dataset
from harness.data.idx import read_verified
from harness.datasets import DIGITS, IdxFile

_EMBEDDED = Path(__file__).with_name("embedded")
_REMEDY = "The installed package is damaged; reinstall it."
_IMAGES = IdxFile(
    name="digits-images-idx3-ubyte",
    shape=(1797, 8, 8),
    sha256="359cd13f0f514122884198b78a131df597421cbf5e93a76678fa96fc548f0d96",
)
_LABELS = IdxFile(
    name="digits-labels-idx1-ubyte",
    shape=(1797,),
    sha256="ce71631c1f31ce56fa54f31d1d498fafacff59b001e6c30c4a5e29508aa277ad",
)

DIGITS_TITLE = "embedded handwritten digits (scikit-learn load_digits, 8x8 resized to 28x28), NOT MNIST"


def load_digits() -> Dataset:
    """Load the embedded digits, resized to 28x28 and split into 1,437 training and 360 test images.

    The split is stratified: with the images sorted by class, in file order within a class, every fifth image, starting
    with the first, is a test image. Training images and test images are each in file order. Both parts contain images
    of the same writers.

    Raises:
        DataError: the embedded files are damaged.
    """
    labels = read_verified(_EMBEDDED / f"{_LABELS.name}.gz", _LABELS, remedy=_REMEDY)
    images = enlarge(read_verified(_EMBEDDED / f"{_IMAGES.name}.gz", _IMAGES, remedy=_REMEDY))
    is_test = torch.zeros(len(labels), dtype=torch.bool)
    is_test[labels.argsort(stable=True)[::5]] = True
    arrays = (images[~is_test], labels[~is_test], images[is_test], labels[is_test])
    return Dataset.from_arrays(arrays, name=DIGITS, title=DIGITS_TITLE, source="embedded in the package")


def enlarge(images: Tensor) -> Tensor:
    """Enlarge 8x8 images to 20x20 by bilinear interpolation, centred on a black 28x28 image.

    ``images`` are (N, 8, 8) with grey levels 0 to 16; the result is (N, 28, 28) uint8, rounded half up. The computation
    uses only integers, so that every machine computes the same bytes.
    """
    # Output pixel p lies at (4 p - 19) / 10 input pixels; outside the input is background.
    tenths = 4 * torch.arange(28)[:, None] - 19
    weights = (10 - (tenths - 10 * torch.arange(8)).abs()).clamp(min=0)
    summed = weights @ images.long() @ weights.T
    # The weights of both axes are in tenths and the largest grey level is 16, so 1,600 becomes 255.
    return ((summed * 255 + 800) // 1600).to(torch.uint8)
