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

# Partial sums in a cache line of 64 bytes; ATen adds in float32, or float64 for such maps.
_LINE = 16


def batch_norm(maps: Tensor, weight: Tensor | None, bias: Tensor | None, *rest: Any) -> Tensor:  # noqa: ANN401 - as ATen's
    """`aten::batch_norm`: bit-equal to ATen in the forward pass, equal up to rounding in the backward pass."""
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
        """The gradient of y = weight * (x - mean) / std + bias, by S. Ioffe and C. Szegedy, 2015, section 3.

        Computed by ATen's eval-mode batch norm, first backward, then forward, with a standard deviation of 1; the
        actual factors are passed as its weight.
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
        # Over the pixels, of gradient * (x - mean) and of the gradient.
        products, total = torch.stack(sums).view(2, together, channels).sum(dim=1)
        slope, shift = -scale * products * inverse_std**2 / pixels, -scale * total / pixels
        line = (slope.repeat(together), shift.repeat(together))
        result += torch.ops.aten.native_batch_norm(wide, *line, *fixed, training, 0.0, eps)[0]
        of_weights = (None, None) if weight is None else (products * inverse_std, total)
        return result.as_strided(maps.shape, maps.stride()), *of_weights, *[None] * 5


def _pixels_together(maps: Tensor) -> int:
    """The number of pixels to view as one so that their channels fill cache lines; 1 if unneeded or impossible."""
    if maps.dim() != len("NCHW") or not maps.is_contiguous(memory_format=torch.channels_last):
        return 1
    batch, channels, height, width = maps.shape
    together = _LINE // math.gcd(channels, _LINE)
    return 1 if batch * height * width % together else together


def _wide(maps: Tensor, together: int) -> Tensor:
    """Reshape (B, C, H, W) to (B * H * W / together, together * C); a view if channels are last in memory."""
    return maps.permute(0, 2, 3, 1).reshape(-1, together * maps.shape[1])
