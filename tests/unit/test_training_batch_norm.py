"""Batch norm with pixels side by side: ATen's results, and on one thread its bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from harness.graph import capture, computing_threads
from harness.training import batch_norm as module
from harness.training import choose_engine, train
from harness.training.batch_norm import batch_norm
from tests.made_up import dataset, network, spec

ATEN = torch.ops.aten.batch_norm.default
Norm = Callable[..., Tensor]


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    """On one thread, batch norm is ATen's."""
    torch.manual_seed(4)
    with computing_threads(2):
        yield


def maps(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Maps with channels last, far from zero mean and unit variance."""
    return (3 * torch.randn(shape) - 2).to(dtype).contiguous(memory_format=torch.channels_last)


def step(norm: Norm, images: Tensor, *, affine: bool = True, training: bool = True) -> list[Tensor]:
    """Result, gradients and running statistics of one step with random weights, the same in each call."""
    channels = images.shape[1]
    drawn = torch.Generator().manual_seed(5)
    dtype = torch.promote_types(images.dtype, torch.float32)
    weight, bias, mean, var = (torch.rand(4, channels, generator=drawn) + 0.5).to(dtype).unbind()
    leaves = [images.clone().requires_grad_()]
    leaves += [tensor.clone().requires_grad_() for tensor in (weight, bias)] if affine else []
    running = (mean.clone(), var.clone())
    result = norm(leaves[0], *(leaves[1:] or (None, None)), *running, training, 0.3, 1e-3, torch.backends.cudnn.enabled)
    # Channels first in memory: whatever comes next in a network may hand back its gradients so.
    torch.autograd.backward(result, torch.randn(result.shape, generator=drawn).to(images.dtype))
    return [result.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None), *running]


@pytest.mark.parametrize(
    "shape", [(8, 8, 6, 6), (8, 12, 5, 5), (4, 20, 2, 3), (16, 7, 3, 3), (16, 1, 3, 5), (4, 24, 1, 1)]
)
@pytest.mark.parametrize("affine", [True, False])
def test_results_and_gradients_are_those_of_aten(shape: tuple[int, ...], *, affine: bool) -> None:
    """For channels that do not fill cache lines: to rounding in double precision, and the same bits in the forward pass."""
    images = maps(*shape)
    assert module._pixels_together(images) > 1  # noqa: SLF001 - else this would compare ATen with itself
    expected, found = step(ATEN, images, affine=affine), step(batch_norm, images, affine=affine)

    assert len(expected) == len(found)
    for one, other in zip(expected, found, strict=True):
        assert one.stride() == other.stride()
        torch.testing.assert_close(other, one, rtol=1e-12, atol=1e-12)
    assert torch.equal(expected[0], found[0])


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 2e-6), (torch.bfloat16, 1e-2)])
def test_it_is_as_accurate_as_its_format(dtype: torch.dtype, error: float) -> None:
    """Against ATen in double precision, for maps whose mean is large beside their spread."""
    images = (torch.randn(32, 8, 12, 12) + 8).to(dtype).contiguous(memory_format=torch.channels_last)
    exact = step(ATEN, images.double())[1].double()
    found = step(batch_norm, images)[1].double()

    assert float((found - exact).norm() / exact.norm()) < error


def test_constant_channels_have_finite_gradients() -> None:
    """A variance of 0 is no division by 0."""
    images = torch.ones(8, 8, 4, 4).contiguous(memory_format=torch.channels_last)

    assert all(bool(tensor.isfinite().all()) for tensor in step(batch_norm, images))


@pytest.mark.parametrize("images", [
    maps(8, 16, 4, 4), maps(3, 7, 3, 3), maps(8, 8, 4, 4).contiguous(),
], ids=["full lines", "pixels that do not divide", "channels first"])  # fmt: skip
def test_elsewhere_the_bits_are_those_of_aten(images: Tensor) -> None:
    """Where there is nothing to gain or no view, the operation is ATen's."""
    for one, other in zip(step(ATEN, images), step(batch_norm, images), strict=True):
        assert torch.equal(one, other)


def test_on_one_thread_and_with_fixed_statistics_the_bits_are_those_of_aten() -> None:
    """Threads that do not exist do not wait; statistics that are not computed have no partial sums."""
    images = maps(8, 8, 4, 4, dtype=torch.float32)
    for one, other in zip(step(ATEN, images, training=False), step(batch_norm, images, training=False), strict=True):
        assert torch.equal(one, other)
    with computing_threads(1):
        for one, other in zip(step(ATEN, images), step(batch_norm, images), strict=True):
            assert torch.equal(one, other)


def test_weights_that_are_not_trained_get_no_gradient() -> None:
    """Frozen weights stay, and the layers below still learn."""
    images, weight, bias = maps(8, 8, 4, 4).requires_grad_(), torch.ones(8).double(), torch.zeros(8).double()
    training = cudnn = True
    result = batch_norm(images, weight, bias, None, None, training, 0.1, 1e-5, cudnn)
    torch.autograd.backward(result.square().sum())

    assert weight.grad is bias.grad is None
    assert images.grad is not None


def test_two_threads_repeat_their_bits() -> None:
    """The partial sums are added in the same order each time."""
    images = maps(32, 12, 10, 10, dtype=torch.float32)
    first, second = step(batch_norm, images), step(batch_norm, images)

    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.smoke  # it trains
def test_a_training_on_two_threads_repeats_its_bits() -> None:
    """The engine verifies with two threads and trains to the same digests again."""
    torch.manual_seed(0)
    captured = capture(network(dropout=0.1), name="net", twice=False)
    records = [train(captured.to_module(), spec(engine="fast"), dataset()) for _ in range(2)]

    assert records[0].state_digest == records[1].state_digest


def test_a_wrong_gradient_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backward pass that takes the statistics for constants is refused by the verification, on two threads."""
    torch.manual_seed(0)
    captured = capture(nn.Sequential(nn.Conv2d(1, 8, 7, stride=7), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(128, 10)),
                       name="net", twice=False)  # fmt: skip
    right = choose_engine("auto", captured.to_module(), torch.device("cpu"))
    monkeypatch.setattr(module._BatchNorm, "backward", _without_statistics)  # noqa: SLF001
    wrong = choose_engine("auto", captured.to_module(), torch.device("cpu"))

    assert ("fast", "") == (right[0].name, right[1])
    assert ("eager", "fast differs from eager in the gradient of 0.weight") == (wrong[0].name, wrong[1])


def _without_statistics(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
    maps, weight, mean, inverse_std = ctx.saved_tensors  # type: ignore[attr-defined]
    centred = (maps - mean[:, None, None]) * inverse_std[:, None, None]
    scale = (weight * inverse_std)[:, None, None]
    return gradient * scale, (gradient * centred).sum((0, 2, 3)), gradient.sum((0, 2, 3)), *[None] * 5
