"""Dropout that draws where the next dropped value lies, instead of a number for each value.

With p = 0.025 a usual dropout draws forty numbers to drop one value, which takes a third of a small network's training
time on a CPU. The distances between dropped values are geometrically distributed, so one number for each dropped value
does: the same distribution exactly, from other random numbers.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def dropped_positions(count: int, p: float) -> Tensor:
    """Which of ``count`` values to drop, each with probability ``p`` and independently of the others.

    The distance to the next dropped value is geometric: floor(ln(1 - u) / ln(1 - p)) values are kept before it, for u
    uniform on [0, 1) (L. Devroye, Non-Uniform Random Variate Generation, 1986, chapter X.2). Drawn in float64 from torch's
    global CPU generator.

    Args:
        count: number of values.
        p: probability of each to be dropped, 0 <= p < 1.

    Returns:
        (K,) int64 positions in rising order, on the CPU.
    """
    if p == 0:
        return torch.empty(0, dtype=torch.int64)
    expected = count * p
    # Six standard deviations above the mean: a second helping is needed once in a billion times.
    draws = math.ceil(expected + 6 * math.sqrt(expected) + 6)
    last, helpings = -1, []
    while last < count:
        kept = torch.rand(draws, dtype=torch.float64).neg_().log1p_().mul_(1 / math.log1p(-p)).floor_()
        positions = kept.add_(1).cumsum_(0).add_(last)
        helpings.append(positions)
        last = int(positions[-1])
    positions = torch.cat(helpings) if len(helpings) > 1 else helpings[0]
    return positions[: int(torch.searchsorted(positions, count))].long()


def sparse_dropout(maps: Tensor, p: float, factor: float, *, in_place: bool) -> Tensor:
    """Dropout with ``p``, what is kept multiplied by ``factor``.

    Args:
        maps: any shape, on the CPU.
        p: probability of each value to be dropped.
        factor: 1 / (1 - p) for the usual dropout; 1 where the layer before has the factor in it.
        in_place: write into ``maps``, whose values nobody else may need.
    """
    result: Tensor = _Dropout.apply(maps, p, factor, in_place)
    return result


def sparse_relu_dropout(maps: Tensor, p: float, factor: float, *, in_place: bool) -> Tensor:
    """ReLU and then `sparse_dropout`, in one.

    A dropped value and one that the ReLU made 0 have the same gradient, 0: so the backward pass needs the result only.
    """
    result: Tensor = _ReluDropout.apply(maps, p, factor, in_place)
    return result


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor, p: float, factor: float, in_place: bool) -> Tensor:  # noqa: ANN401, FBT001 - torch's signature
        result = _own(ctx, maps, in_place=in_place)
        if factor != 1:
            result.mul_(factor)
        ctx.factor, ctx.positions, ctx.memory_format = factor, dropped_positions(maps.numel(), p), _memory_format(maps)
        _flat(result).index_fill_(0, ctx.positions, 0)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:  # noqa: ANN401
        gradient = gradients[0].clone(memory_format=ctx.memory_format)
        if ctx.factor != 1:
            gradient.mul_(ctx.factor)
        _flat(gradient).index_fill_(0, ctx.positions, 0)
        return gradient, None, None, None


class _ReluDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor, p: float, factor: float, in_place: bool) -> Tensor:  # noqa: ANN401, FBT001
        result = _own(ctx, maps, in_place=in_place).relu_()
        if factor != 1:
            result.mul_(factor)
        _flat(result).index_fill_(0, dropped_positions(maps.numel(), p), 0)
        ctx.factor = factor
        ctx.save_for_backward(result)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:  # noqa: ANN401
        (result,) = ctx.saved_tensors
        gradient = torch.ops.aten.threshold_backward(gradients[0], result, 0)
        return gradient.mul_(ctx.factor) if ctx.factor != 1 else gradient, None, None, None


def _own(ctx: Any, maps: Tensor, *, in_place: bool) -> Tensor:  # noqa: ANN401
    """Values to write into, without gaps in memory."""
    memory_format = _memory_format(maps)
    if in_place and maps.is_contiguous(memory_format=memory_format):
        ctx.mark_dirty(maps)
        return maps
    return maps.clone(memory_format=memory_format)


def _memory_format(maps: Tensor) -> torch.memory_format:
    if maps.dim() == len("NCHW") and maps.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format


def _flat(dense: Tensor) -> Tensor:
    """The values in the order in which they lie in memory."""
    return dense.as_strided((dense.numel(),), (1,))
