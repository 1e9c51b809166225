"""Whatever the angle, shift and scale: torchvision's pixels, image by image."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import InterpolationMode, functional

from harness.data import AffineDraws, Augmentation

# Ends and ties are where roundings part: quarter turns, halving and doubling.
ANGLES = st.one_of(st.sampled_from((0.0, 45.0, 90.0, -90.0, 180.0)), st.floats(-180, 180))
SHIFTS = st.integers(-28, 28)
SCALES = st.one_of(st.sampled_from((0.5, 1.0, 2.0)), st.floats(0.1, 4.0))
DRAW = st.tuples(ANGLES, SHIFTS, SHIFTS, SCALES)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(DRAW, min_size=1, max_size=6),
    fills=st.tuples(st.integers(0, 255), st.integers(0, 255)),
    interpolation=st.sampled_from(("nearest", "bilinear")),
    seed=st.integers(0, 2**32),
)
def test_every_image_is_torchvisions(
    rows: list[tuple[float, int, int, float]], fills: tuple[int, int], interpolation: str, seed: int
) -> None:
    """A batch with arbitrary draws equals torchvision's transforms one by one: exactly, or to rounding for bilinear."""
    images = torch.randint(
        0, 256, (len(rows), 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )
    mode = InterpolationMode(interpolation)
    expected = []
    for image, (angle, right, down, scale) in zip(images, rows, strict=True):
        turned = functional.rotate(image, angle, interpolation=mode, fill=[float(fills[0])])
        moved = functional.affine(turned, 0.0, [right, down], scale, [0.0, 0.0], mode, fill=[float(fills[1])])
        expected.append(moved)
    augmentation = Augmentation(
        rotation=180,
        rotation_fill=fills[0],
        shift=1,
        shift_fill=fills[1],
        scale=(0.1, 4.0),
        interpolation=interpolation,  # type: ignore[arg-type]
    )
    table = torch.tensor(rows, dtype=torch.float64)
    draws = AffineDraws(angles=table[:, 0], shifts=table[:, 1:3] / 28, scales=table[:, 3])
    difference = (torch.stack(expected).int() - augmentation.apply(images, draws).int()).abs()
    assert int(difference.max()) <= (0 if interpolation == "nearest" else 1)
