"""Training-mode batch norm whose backward pass is fast on several CPU threads.

For channels-last tensors, ATen's backward pass keeps a row of per-channel partial sums per thread, in adjacent memory.
If a row does not fill whole cache lines, threads write to the same line (false sharing): two threads take ten times as
long as one. Here, several pixels are viewed as one pixel with so many channels that a row fills whole cache lines.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Number of float32 sums in a cache line of 64 bytes. For float64 maps, ATen adds in float64: a row fills twice as many lines.
_LINE = 16


def batch_norm(maps: Tensor, weight: Tensor | None, bias: Tensor | None, *rest: Any) -> Tensor:  # noqa: ANN401 - as ATen's
    """Compute `aten::batch_norm`: the result is bit-equal to ATen's, the gradients are equal to ATen's up to rounding."""
    *statistics, training, momentum, eps, cudnn = rest
    result: Tensor
    if training and torch.get_num_threads() > 1 and _pixels_together(maps) > 1:
        result = _BatchNorm.apply(maps, weight, bias, *statistics, training, momentum, eps)
    else:
        result = torch.ops.aten.batch_norm.default(maps, weight, bias, *statistics, training, momentum, eps, cudnn)
    return result


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor | None, *rest: Any) -> Tensor:  # noqa: ANN401 - torch's signature
        result: Tensor
        result, mean, inverse_std = torch.ops.aten.native_batch_norm(maps, weight, *rest)
        ctx.save_for_backward(maps, weight, mean, inverse_std)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        """Return the gradients of y = weight * (x - mean) / std + bias with respect to x, weight and bias.

        The formulas are those of S. Ioffe and C. Szegedy, 2015, section 3. ATen's eval-mode batch norm evaluates the
        formulas, first in its backward and then in its forward pass, with a standard deviation of 1 and with all other
        factors passed as its weight.
        """
        maps, weight, mean, inverse_std = ctx.saved_tensors
        together, channels = _pixels_together(maps), len(mean)
        pixels = maps.numel() // channels
        wide, wide_gradient = _wide(maps, together), _wide(gradient, together)
        scale = inverse_std if weight is None else inverse_std * weight
        wide_mean = mean.repeat(together)
        fixed, training, eps = (wide_mean, torch.ones_like(wide_mean)), False, 0.0
        result, *sums = torch.ops.aten.native_batch_norm_backward(
            wide_gradient, wide, scale.repeat(together), *fixed, *fixed, training, eps, (True, True, True)
        )
        # Sums over the pixels of each channel: of gradient * (x - mean), and of the gradient.
        products, total = torch.stack(sums).view(2, together, channels).sum(dim=1)
        slope, shift = -scale * products * inverse_std**2 / pixels, -scale * total / pixels
        line = (slope.repeat(together), shift.repeat(together))
        result += torch.ops.aten.native_batch_norm(wide, *line, *fixed, training, 0.0, eps)[0]
        of_weights = (None, None) if weight is None else (products * inverse_std, total)
        return result.as_strided(maps.shape, maps.stride()), *of_weights, *[None] * 5


def _pixels_together(maps: Tensor) -> int:
    """Return how many adjacent pixels to view as one, so that the channels of all of them fill whole cache lines.

    The number is 1 if the channels of one pixel fill whole cache lines already, or if ``maps`` cannot be viewed in this
    way.
    """
    if maps.dim() != len("NCHW") or not maps.is_contiguous(memory_format=torch.channels_last):
        return 1
    batch, channels, height, width = maps.shape
    together = _LINE // math.gcd(channels, _LINE)
    return 1 if batch * height * width % together else together


def _wide(maps: Tensor, together: int) -> Tensor:
    """Reshape maps from (B, C, H, W) to (B * H * W / together, together * C).

    The result is a view if ``maps`` is channels-last.
    """
    return maps.permute(0, 2, 3, 1).reshape(-1, together * maps.shape[1])
