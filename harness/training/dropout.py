"""Three variants of dropout for the engines: sparse, with an explicit random generator, and without randomness.

Sparse dropout draws the distances between dropped values. With p = 0.025, the usual dropout draws forty random numbers
for each dropped value, and drawing takes a third of a small network's training time on a CPU. The distances are
geometrically distributed, so one random number per dropped value suffices: the distribution is exactly the same, the
random numbers are others.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from harness.graph import Operation, Program

# The negative saturation value of SELU, as in ATen's native/Dropout.cpp.
_ALPHA = 1.7580993408473766


# Sparse ---------------------------------------------------------------------------------------------------------------


def dropped_positions(count: int, p: float) -> Tensor:
    """Draw which of ``count`` values to drop, each independently with probability 0 <= p < 1.

    The distance to the next dropped value is geometric: floor(ln(1 - u) / ln(1 - p)) values are kept before it, for u
    uniform on [0, 1) (L. Devroye, Non-Uniform Random Variate Generation, 1986, chapter X.2). The numbers u are drawn in
    float64 from torch's global CPU generator. The result holds (K,) int64 positions in rising order, on the CPU.
    """
    if p == 0:
        return torch.empty(0, dtype=torch.int64)
    expected = count * p
    # Six standard deviations above the mean: a second chunk is needed once in a billion times.
    draws = math.ceil(expected + 6 * math.sqrt(expected) + 6)
    last, chunks = -1.0, []
    while last < count:
        kept = torch.rand(draws, dtype=torch.float64).neg_().log1p_().mul_(1 / math.log1p(-p)).floor_()
        positions = kept.add_(1).cumsum_(0).add_(last)
        chunks.append(positions)
        last = positions[-1].item()
    positions = torch.cat(chunks) if len(chunks) > 1 else chunks[0]
    return positions[: int(torch.searchsorted(positions, count))].long()


def sparse_dropout(maps: Tensor, p: float, factor: float, *, in_place: bool) -> Tensor:
    """Apply dropout with probability ``p`` to each value of ``maps``, a tensor of any shape on the CPU.

    The kept values are multiplied by ``factor``: 1 / (1 - p) for the usual dropout, 1 if the previous layer applies the
    factor. With ``in_place``, the result may overwrite ``maps``, so that no other operation may read the values of
    ``maps`` afterwards.
    """
    result: Tensor = _SparseDropout.apply(maps, p, factor, in_place)
    return result


def sparse_relu_dropout(maps: Tensor, p: float, factor: float, *, in_place: bool) -> Tensor:
    """Apply ReLU and then `sparse_dropout` with the same arguments, as one operation of autograd.

    Dropped values and values that ReLU sets to 0 both have gradient 0, so the backward pass needs the result only.
    """
    result: Tensor = _SparseReluDropout.apply(maps, p, factor, in_place)
    return result


class _SparseDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor, p: float, factor: float, in_place: bool) -> Tensor:  # noqa: ANN401, FBT001 - torch's signature
        result = _writable(ctx, maps, in_place=in_place)
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


class _SparseReluDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor, p: float, factor: float, in_place: bool) -> Tensor:  # noqa: ANN401, FBT001
        result = _writable(ctx, maps, in_place=in_place).relu_()
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


def _writable(ctx: Any, maps: Tensor, *, in_place: bool) -> Tensor:  # noqa: ANN401
    """Return a dense tensor with the values of ``maps`` to write into: ``maps`` itself if dense and ``in_place``, else a copy."""
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
    """Return a 1-D view of a dense tensor, in the order of its memory."""
    return dense.as_strided((dense.numel(),), (1,))


# From a generator -----------------------------------------------------------------------------------------------------


def seeded_operations(generator: torch.Generator | None) -> dict[str, Callable[..., Tensor]]:
    """Map the name of each dropout operation of ATen to a function that draws from ``generator``.

    If ``generator`` is None, the functions draw from torch's global generator; otherwise, it must be on the device of
    the network. On a CPU, results are bit-equal to ATen's for the same random state.
    """
    return {
        f"aten.{name}{ending}.default": functools.partial(
            _dropout,
            generator=generator,
            whole_maps="feature" in name,
            saturated="alpha" in name,
            in_place=bool(ending),
        )
        for name in ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")
        for ending in ("", "_")
    }


def unseedable_operation(program: Program) -> str:
    """Return the name of the first operation that draws random numbers and is no dropout; empty if there is none.

    No generator can be set for such an operation.
    """
    drawing = (operation for operation in program.operations if operation.kind.draws)
    return next((operation.op for operation in drawing if operation.kind.family != "dropout"), "")


def _dropout(
    values: Tensor,
    p: float,
    train: bool,  # noqa: FBT001 - ATen's signature
    *,
    generator: torch.Generator | None,
    whole_maps: bool,
    saturated: bool,
    in_place: bool,
) -> Tensor:
    """Compute dropout as ATen's native/Dropout.cpp does, but with the given generator."""
    if not train or p == 0:
        return values
    if p == 1:
        return values.mul_(0) if in_place else values * 0
    shape = (*values.shape[:2], *(1 for _ in values.shape[2:])) if whole_maps else values.shape
    noise = values.new_empty(shape) if whole_maps else torch.empty_like(values)
    noise.bernoulli_(1 - p, generator=generator)
    if not saturated:
        noise.div_(1 - p)
        return values.mul_(noise) if in_place else values * noise
    a = 1 / math.sqrt((_ALPHA**2 * p + 1) * (1 - p))
    added = noise.add(-1).mul_(_ALPHA * a).add_(_ALPHA * a * p)
    noise.mul_(a)
    return values.mul_(noise).add_(added) if in_place else (values * noise).add_(added)


# Without randomness, to compare engines -------------------------------------------------------------------------------


def without_dropout(program: Program) -> Program:
    """Return a copy of a program with p = 0 in every dropout."""

    def drop_nothing(operation: Operation) -> Operation:
        if operation.kind.family != "dropout":
            return operation
        return replace(operation, args=(operation.args[0], 0.0, *operation.args[2:]))

    return replace(program, operations=tuple(map(drop_nothing, program.operations)))


class NothingDropped(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Context in which every dropout on the CPU keeps all values, but multiplies them by the factor for kept values.

    All dropouts of the engines draw with ``bernoulli_``, where 1 means that a value is kept, or with ``rand``, where 1
    gives an infinite distance to the next dropped value. In this context both return ones. The result then depends on
    the factor that an engine applies, but not on the order or the memory layout in which the engine draws.
    """

    def __torch_dispatch__(
        self, operation: Callable[..., Any], _: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:  # noqa: ANN401 - whatever the operation returns
        result = operation(*args, **(kwargs or {}))
        if operation in (torch.ops.aten.bernoulli_.float, torch.ops.aten.rand.default):
            result.fill_(1)
        return result
