"""Random rotation, shift and scale of a batch, with separate parameters for each image, computed on the images' device.

The arithmetic is that of torchvision's ``rotate`` and ``affine`` on tensors, with a matrix for each image instead of
one matrix for the whole batch, so that the same angle, shift and scale give the same pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor
from torch.nn import functional

from harness.errors import InputError
from harness.tables import Range, require, require_ranges

_Grey = Annotated[int, Range(least=0, most=255)]


@dataclass(frozen=True, kw_only=True, eq=False)
class AffineDraws:
    """The random parameters of the transform of each image in a batch; float64 tensors on the CPU.

    ``angles`` (N,) are in degrees, counter-clockwise. ``shifts`` (N, 2) are to the right and down, as fractions of the
    width and the height, and are rounded to whole pixels when applied. ``scales`` (N,) are factors of the size.
    """

    angles: Tensor
    shifts: Tensor
    scales: Tensor


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """The random transforms of training images: a rotation, then a shift with a scale, in two separate resamplings.

    The rotation equals torchvision's ``RandomRotation(rotation, fill=rotation_fill)``; shift and scale equal
    ``RandomAffine(0, translate=(shift, shift), scale=scale, fill=shift_fill)``.

    Angles are drawn uniformly from -rotation to rotation, in degrees. Shifts are drawn for each axis up to the fraction
    ``shift`` of the side length, and rounded to whole pixels. Scale factors are drawn between the two values of
    ``scale``; ``None`` keeps the size. The fills are the grey values of output pixels outside the transformed image.

    Raises:
        InputError: a value is out of range.
    """

    rotation: Annotated[float, Range(least=0, most=180)] = 0.0
    rotation_fill: _Grey = 0
    shift: Annotated[float, Range(least=0, most=1)] = 0.0
    shift_fill: _Grey = 0
    scale: Annotated[tuple[float, float] | None, Range(least=0.01, most=100)] = None
    interpolation: Literal["nearest", "bilinear"] = "nearest"

    def __post_init__(self) -> None:
        require_ranges(self, InputError)
        factors = sorted(self.scale) if isinstance(self.scale, tuple) else []
        ordered = self.scale is None or (len(factors) == 2 and self.scale == tuple(factors))  # noqa: PLR2004
        require(InputError, ordered, "scale to be two factors (smallest, largest) or None", scale=self.scale)
        known = self.interpolation in ("nearest", "bilinear")
        require(InputError, known, "interpolation to be 'nearest' or 'bilinear'", interpolation=self.interpolation)

    def draw(self, n: int, *, generator: torch.Generator) -> AffineDraws:
        """Draw the transform parameters of ``n`` images; always consumes four random numbers per image.

        ``generator`` is a CPU generator, so that the parameters are the same for every device of the images.
        """
        uniform = torch.rand(n, 4, dtype=torch.float64, generator=generator)
        signed = uniform * 2 - 1
        smallest, largest = self.scale or (1.0, 1.0)
        return AffineDraws(
            angles=signed[:, 0] * self.rotation,
            shifts=signed[:, 1:3] * self.shift,
            scales=smallest + uniform[:, 3] * (largest - smallest),
        )

    def apply(self, images: Tensor, draws: AffineDraws) -> Tensor:
        """Transform each image with its own parameters.

        ``images`` are (N, C, H, W) uint8 on any device. The result is a new tensor of the same shape, dtype and device,
        or ``images`` itself if no transform is configured.

        Raises:
            InputError: the images are not a uint8 batch, or the number of images differs from the number of parameters.
        """
        expected, shape = "a uint8 batch of shape (N, C, H, W), not yet normalised", tuple(images.shape)
        is_batch = images.dtype == torch.uint8 and len(shape) == len("NCHW")
        require(InputError, is_batch, expected, shape=shape, dtype=images.dtype)
        count = len(draws.angles)
        require(InputError, count == len(images), "one draw per image", draws=count, images=len(images))
        if self.rotation:
            images = self._resample(images, _rotations(draws.angles), fill=self.rotation_fill)
        if self.shift or self.scale:
            height, width = images.shape[-2:]
            pixels = (draws.shifts * draws.shifts.new_tensor([width, height])).round()
            images = self._resample(images, _shifts_and_scales(pixels, draws.scales), fill=self.shift_fill)
        return images

    def _resample(self, images: Tensor, matrices: Tensor, *, fill: int) -> Tensor:
        """Sample each output pixel at an input position; each image has a (2, 3) matrix in pixels from the centre."""
        height, width = images.shape[-2:]
        grid = _sampling_grid(matrices.to(images.device, non_blocking=images.is_cuda), height=height, width=width)
        # The extra channel is the weight of the pixels inside the image in each sampled value.
        weighted = torch.cat((images.float(), torch.ones_like(images[:, :1], dtype=torch.float32)), dim=1)
        sampled = functional.grid_sample(weighted, grid, mode=self.interpolation, align_corners=False)
        values, inside = sampled[:, :-1], sampled[:, -1:]
        # The weight is applied a second time at the border, as by torchvision, to get the same pixels.
        return (values * inside + (1.0 - inside) * fill).round_().to(torch.uint8)


def _rotations(angles: Tensor) -> Tensor:
    """Return (N, 2, 3) float32 matrices that map output to input pixels, for counter-clockwise angles in degrees."""
    radians = torch.deg2rad(angles)
    cos, sin, zero = radians.cos(), radians.sin(), torch.zeros_like(radians)
    return torch.stack((cos, -sin, zero, sin, cos, zero), dim=1).view(-1, 2, 3).float()


def _shifts_and_scales(pixels: Tensor, scales: Tensor) -> Tensor:
    """Return (N, 2, 3) float32 matrices that map output to input pixels, for shifts in pixels and scale factors."""
    shrink, zero = 1.0 / scales, torch.zeros_like(scales)
    right, down = (shrink[:, None] * -pixels).unbind(dim=1)
    return torch.stack((shrink, zero, right, zero, shrink, down), dim=1).view(-1, 2, 3).float()


def _sampling_grid(matrices: Tensor, *, height: int, width: int) -> Tensor:
    """Compute the (N, H, W, 2) grid for ``grid_sample`` from one (2, 3) matrix per image.

    The operations are in the order of torchvision: if a position is halfway between two pixels, the last bit decides.
    Products and sums are separate operations, not a matrix product, because a fused or reduced-precision product could
    change the last bit.
    """
    halves = torch.tensor((0.5 * width, 0.5 * height), device=matrices.device)
    x = torch.arange(width, dtype=torch.float32, device=matrices.device) - (width - 1) / 2
    y = torch.arange(height, dtype=torch.float32, device=matrices.device) - (height - 1) / 2
    along_x, along_y, offset = (matrices / halves[:, None])[..., None].unbind(dim=2)
    # Two planes, permuted to pairs, are computed several times as fast as stacked pairs.
    planes = (along_x * x)[:, :, None, :] + (along_y * y)[..., None] + offset[..., None]
    return planes.permute(0, 2, 3, 1)
