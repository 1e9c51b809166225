"""Augmentation computes torchvision's pixels, with one draw per image."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, RandomAffine, RandomRotation, functional

from harness.data import AffineDraws, Augmentation, load_dataset
from harness.errors import InputError

N = 200
ROTATE = Augmentation(rotation=8, rotation_fill=1)
SHIFT = Augmentation(shift=0.1)
SCALE = Augmentation(scale=(0.8, 1.25), shift_fill=7)
ALL = Augmentation(rotation=180, rotation_fill=1, shift=0.3, shift_fill=200, scale=(0.5, 2.0))


def generator(seed: int = 1) -> torch.Generator:
    """A fresh generator."""
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def noise() -> Tensor:
    """Images whose adjacent pixels differ nearly everywhere, so that a pixel from the wrong position is detected."""
    return torch.randint(0, 256, (N, 1, 28, 28), dtype=torch.uint8, generator=generator())


def by_torchvision(image: Tensor | Image.Image, augmentation: Augmentation, draws: AffineDraws, at: int) -> Tensor:
    """One image transformed by torchvision with the same angle, shift and scale."""
    mode = InterpolationMode(augmentation.interpolation)
    fills = [float(augmentation.rotation_fill)], [float(augmentation.shift_fill)]
    image = functional.rotate(image, float(draws.angles[at]), interpolation=mode, fill=fills[0])
    pixels = [round(28 * float(shift)) for shift in draws.shifts[at]]
    image = functional.affine(image, 0.0, pixels, float(draws.scales[at]), [0.0, 0.0], mode, fill=fills[1])
    return image if isinstance(image, Tensor) else torch.tensor(np.asarray(image))[None]


@pytest.mark.parametrize("augmentation", [ROTATE, SHIFT, SCALE, ALL], ids=["rotate", "shift", "scale", "all"])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_pixels_are_torchvisions(noise: Tensor, augmentation: Augmentation, interpolation: str) -> None:
    """Each image equals torchvision's transform with the same parameters: exactly, or up to rounding for bilinear."""
    augmentation = replace(augmentation, interpolation=interpolation)  # type: ignore[arg-type]
    draws = augmentation.draw(N, generator=generator(2))
    expected = torch.stack([by_torchvision(noise[at], augmentation, draws, at) for at in range(N)])
    difference = (expected.int() - augmentation.apply(noise, draws).int()).abs()
    assert int(difference.max()) <= (0 if interpolation == "nearest" else 1)


def test_one_transform_for_the_whole_batch_is_detected(noise: Tensor) -> None:
    """With one image's parameters for the whole batch, the comparison with torchvision fails for all other images."""
    draws = ALL.draw(N, generator=generator(2))
    same = AffineDraws(
        angles=draws.angles[:1].expand(N), shifts=draws.shifts[:1].expand(N, 2), scales=draws.scales[:1].expand(N)
    )
    wrong = ALL.apply(noise, same)
    agreeing = [torch.equal(by_torchvision(noise[at], ALL, draws, at), wrong[at]) for at in range(N)]
    assert agreeing == [True] + [False] * (N - 1)


def test_images_of_a_batch_get_different_draws() -> None:
    """Equal images in one batch are transformed differently."""
    images = load_dataset("digits").train_images[:1].expand(64, 1, 28, 28)
    augmentation = Augmentation(rotation=20, shift=0.1, scale=(0.9, 1.1))
    changed = augmentation.apply(images, augmentation.draw(64, generator=generator()))
    assert len({image.numpy().tobytes() for image in changed}) == 64


@pytest.mark.parametrize(("interpolation", "share", "beyond"), [("nearest", 1e-4, 1e-4), ("bilinear", 0.3, 0.001)])
def test_pixels_are_nearly_pillows(interpolation: str, share: float, beyond: float) -> None:
    """Few pixels differ from those that torchvision computes on Pillow images, and few of those by more than a grey level."""
    augmentation = Augmentation(rotation=8, rotation_fill=1, shift=0.1, interpolation=interpolation)  # type: ignore[arg-type]
    images = load_dataset("digits").train_images[:N]
    draws = augmentation.draw(N, generator=generator())
    expected = [by_torchvision(Image.fromarray(images[at, 0].numpy()), augmentation, draws, at) for at in range(N)]
    difference = (torch.stack(expected).int() - augmentation.apply(images, draws).int()).abs()
    assert float((difference > 0).float().mean()) <= share
    assert float((difference > 1).float().mean()) <= beyond


def test_draws_have_torchvisions_distribution() -> None:
    """Angles, whole-pixel shifts and scales are distributed as the parameters of RandomRotation and RandomAffine."""
    torch.manual_seed(1)
    n = 4000
    angles = [RandomRotation.get_params([-8.0, 8.0]) for _ in range(n)]
    params = [RandomAffine.get_params([0.0, 0.0], [0.1, 0.1], [0.9, 1.2], None, [28, 28]) for _ in range(n)]
    draws = Augmentation(rotation=8, shift=0.1, scale=(0.9, 1.2)).draw(n, generator=generator())
    pixels = (draws.shifts * 28).round()
    for expected, drawn in (
        (torch.tensor(angles), draws.angles),
        (torch.tensor([shift[0] for _, shift, _, _ in params]), pixels[:, 0]),
        (torch.tensor([shift[1] for _, shift, _, _ in params]), pixels[:, 1]),
        (torch.tensor([scale for _, _, scale, _ in params]), draws.scales),
    ):
        levels = torch.linspace(0.01, 0.99, 50)
        spread = float(expected.max() - expected.min())
        # The pixel shifts are whole numbers, where a quantile jumps; so they are compared by their shares.
        if expected.is_floating_point():
            gap = expected.double().quantile(levels.double()) - drawn.quantile(levels.double())
            assert float(gap.abs().max()) < 0.05 * spread
        else:
            shares = torch.stack([(values.long() + 3).bincount(minlength=7) for values in (expected, drawn)]) / n
            assert float((shares[0] - shares[1]).abs().max()) < 0.04


def test_draws_stay_in_range_and_repeat() -> None:
    """Draws fill their range, are equal for equal seeds and differ for different seeds."""
    draws = ALL.draw(1000, generator=generator())
    assert (-180, 180) == (round(float(draws.angles.min()), -1), round(float(draws.angles.max()), -1))
    assert (-0.3, 0.3) == (round(float(draws.shifts.min()), 1), round(float(draws.shifts.max()), 1))
    assert (0.5, 2.0) == (round(float(draws.scales.min()), 1), round(float(draws.scales.max()), 1))
    assert torch.equal(draws.angles, ALL.draw(1000, generator=generator()).angles)
    assert not torch.equal(draws.angles, ALL.draw(1000, generator=generator(2)).angles)


def test_draws_do_not_depend_on_the_batch_size() -> None:
    """Drawing for two batches in turn gives the same as drawing for both at once."""
    stream = generator()
    first, second = ALL.draw(5, generator=stream), ALL.draw(7, generator=stream)
    assert torch.equal(ALL.draw(12, generator=generator()).angles, torch.cat((first.angles, second.angles)))


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_identity_draws_change_nothing(noise: Tensor, interpolation: str) -> None:
    """Angle 0, shift 0 and scale 1 change no pixel."""
    identity = AffineDraws(
        angles=torch.zeros(N).double(), shifts=torch.zeros(N, 2).double(), scales=torch.ones(N).double()
    )
    assert torch.equal(noise, replace(ALL, interpolation=interpolation).apply(noise, identity))  # type: ignore[arg-type]


def test_no_augmentation_returns_the_same_tensor(noise: Tensor) -> None:
    """Without a configured transform, `apply` returns its argument, not a copy."""
    augmentation = Augmentation()
    assert augmentation.apply(noise, augmentation.draw(N, generator=generator())) is noise


def test_directions_and_fills() -> None:
    """A positive angle rotates counter-clockwise, positive shifts move right and down, uncovered pixels get the fill value."""
    image = torch.arange(9, dtype=torch.uint8).view(1, 1, 3, 3)
    turn = AffineDraws(
        angles=torch.tensor([90.0]).double(), shifts=torch.zeros(1, 2).double(), scales=torch.ones(1).double()
    )
    shift = replace(turn, angles=torch.zeros(1).double(), shifts=torch.tensor([[1 / 3, -1 / 3]]).double())
    assert torch.equal(image[0, 0].rot90(), Augmentation(rotation=90).apply(image, turn)[0, 0])
    expected = torch.tensor([[9, 3, 4], [9, 6, 7], [9, 9, 9]], dtype=torch.uint8)
    assert torch.equal(expected, Augmentation(shift=0.5, shift_fill=9).apply(image, shift)[0, 0])


def test_oblong_images_with_channels() -> None:
    """Height and width are not confused, and all channels of an image are transformed alike."""
    images = torch.randint(0, 256, (20, 3, 10, 28), dtype=torch.uint8, generator=generator())
    augmentation = Augmentation(rotation=8, shift=0.3)
    draws = augmentation.draw(20, generator=generator())
    expected = []
    for image, angle, (right, down) in zip(images, draws.angles.tolist(), draws.shifts.tolist(), strict=True):
        turned = functional.rotate(image, angle)
        expected.append(functional.affine(turned, 0.0, [round(28 * right), round(10 * down)], 1.0, [0.0, 0.0]))
    assert torch.equal(torch.stack(expected), augmentation.apply(images, draws))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rotation": -1}, "expected 0 <= rotation <= 180, got rotation=-1"),
        ({"rotation": float("nan")}, "expected 0 <= rotation <= 180, got rotation=nan"),
        ({"rotation": "7"}, "expected 0 <= rotation <= 180, got rotation='7'"),
        ({"rotation": True}, "expected 0 <= rotation <= 180, got rotation=True"),
        ({"rotation_fill": 256}, "expected 0 <= rotation_fill <= 255, got rotation_fill=256"),
        ({"shift": 1.5}, "expected 0 <= shift <= 1, got shift=1.5"),
        ({"shift_fill": -1}, "expected 0 <= shift_fill <= 255, got shift_fill=-1"),
        ({"scale": (0, 1)}, r"expected 0.01 <= scale <= 100, got scale=\(0, 1\)"),
        ({"scale": (1.1, 0.9)}, r"expected scale to be two factors .*, got scale=\(1.1, 0.9\)"),
        ({"scale": (1.1,)}, "expected scale to be two factors"),
        ({"scale": 1.1}, r"expected scale to be two factors .* got scale=1\.1"),
        ({"interpolation": "cubic"}, "expected interpolation to be 'nearest' or 'bilinear', got interpolation='cubic'"),
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, object], message: str) -> None:
    """A value out of range is an error that names the field, the range and the value."""
    with pytest.raises(InputError, match=message):
        Augmentation(**values)  # type: ignore[arg-type]


def test_wrong_batches_are_refused(noise: Tensor) -> None:
    """Normalised images, single images and too few draws are refused."""
    draws = ALL.draw(N, generator=generator())
    with pytest.raises(InputError, match=r"uint8 batch.*dtype=torch.float32"):
        ALL.apply(noise.float(), draws)
    with pytest.raises(InputError, match=r"uint8 batch.*shape=\(1, 28, 28\)"):
        ALL.apply(noise[0], draws)
    with pytest.raises(InputError, match="draws=200, images=3"):
        ALL.apply(noise[:3], draws)
