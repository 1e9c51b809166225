"""What a module does in a training step, or for one image, that its graph does not hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from harness.graph import CapturedModel, capture

Step = Callable[["Net", Tensor], Tensor]


class Net(nn.Module):
    """A convolution, a step on its maps, and three scores from their means."""

    def __init__(self, step: Step = lambda _, maps: maps) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.norm = nn.BatchNorm2d(2)
        self.fc = nn.Linear(2, 3)
        self.register_buffer("count", torch.zeros(1))
        self.last: Tensor | None = None
        self.step = step

    def forward(self, images: Tensor) -> Tensor:
        """Three numbers an image."""
        scores: Tensor = self.fc(self.step(self, self.conv(images)).mean((2, 3)))
        return scores


def captured(net: nn.Module) -> CapturedModel:
    """The network on 1x5x5 images."""
    return capture(net, (1, 5, 5), name="net", twice=False)


class Hard(torch.autograd.Function):
    """A threshold with a straight-through gradient."""

    @staticmethod
    def forward(_: Any, maps: Tensor) -> Tensor:  # noqa: ANN401 - torch's context
        """Ones and zeros."""
        return (maps > 0).to(maps.dtype)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:  # noqa: ANN401 - torch's context
        """The gradient as it comes."""
        return gradient


class Reversed(torch.autograd.Function):
    """The identity, with the gradient reversed."""

    @staticmethod
    def forward(_: Any, maps: Tensor) -> Tensor:  # noqa: ANN401 - torch's context
        """The same maps."""
        return maps.view_as(maps)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:  # noqa: ANN401 - torch's context
        """The gradient with another sign."""
        return -gradient


class Rectified(torch.autograd.Function):
    """A rectifier with the backward that it has anyway."""

    @staticmethod
    def forward(context: Any, maps: Tensor) -> Tensor:  # noqa: ANN401 - torch's context
        """The positive part."""
        context.save_for_backward(maps)
        return maps.clamp(min=0)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:  # noqa: ANN401 - torch's context
        """The gradient of a rectifier."""
        passed: Tensor = gradient * (context.saved_tensors[0] >= 0)
        return passed


def hooked(change: Callable[[Tensor], Tensor]) -> Step:
    """A hook on the gradient of the maps."""

    def step(_: Net, maps: Tensor) -> Tensor:
        if maps.requires_grad:
            maps.register_hook(change)  # type: ignore[no-untyped-call]
        return maps

    return step


def backward_hook() -> Net:
    """A hook on the backward pass of a layer."""
    net = Net(lambda net, maps: net.norm(maps))
    net.norm.register_full_backward_hook(lambda _, inputs, __: (3 * inputs[0],))  # type: ignore[index]
    return net


def counting_hook() -> Net:
    """A hook that changes a buffer in the backward pass."""
    net = Net(lambda net, maps: net.norm(maps))
    net.norm.register_full_backward_hook(lambda *_: net.get_buffer("count").add_(1) and None)
    return net


def parameter_hook() -> Net:
    """A hook that halves a parameter's gradient."""
    net = Net()
    net.conv.weight.register_hook(lambda gradient: gradient / 2)  # type: ignore[no-untyped-call]
    return net


def post_hook() -> Net:
    """A hook that removes a gradient once it is there."""
    net = Net()

    def drop(parameter: Tensor) -> None:
        parameter.grad = None

    net.conv.weight.register_post_accumulate_grad_hook(drop)  # type: ignore[no-untyped-call]
    return net


def remembering(net: Net, maps: Tensor) -> Tensor:
    """Adds the maps of the pass before."""
    before, net.last = net.last, maps.detach()
    return maps if before is None or before.shape != maps.shape else maps + before


DIFFERENT: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...]]] = {
    "a straight-through threshold": (
        lambda: Net(lambda _, maps: Hard.apply(maps)),
        ("gradient of conv.weight", "Hard, an autograd.Function with a backward of its own in line"),
    ),
    "a reversed gradient": (
        lambda: Net(lambda _, maps: Reversed.apply(maps)),
        ("gradient of conv.weight, conv.bias differs", "Reversed, an autograd.Function"),
    ),
    "a checkpoint around a batch norm": (
        lambda: Net(lambda net, maps: checkpoint(net.norm, maps, use_reentrant=False)),
        ("buffer norm.running_mean differs", "a checkpoint, which runs its part of forward again"),
    ),
    "a hook on a tensor": (lambda: Net(hooked(lambda gradient: gradient / 2)), ("a hook on a tensor in line",)),
    "a hook that clips": (
        lambda: Net(hooked(lambda gradient: gradient.clamp(-9, 9))),
        ("in step 2", "a hook on a tensor"),
    ),
    "a hook that drops small numbers": (
        lambda: Net(hooked(lambda gradient: gradient * (gradient.abs() > 1e-5))),
        ("a hook on a tensor",),
    ),
    "a backward hook": (backward_hook, ("gradient of conv.weight", "a backward hook of norm")),
    "a backward hook that counts": (counting_hook, ("buffer count differs", "a backward hook of norm")),
    "a hook on a parameter": (parameter_hook, ("a hook on the gradient of conv.weight",)),
    "a hook after the gradient": (post_hook, ("gradient of conv.weight", "it has none", "a hook on the gradient")),
    "the pass before": (lambda: Net(remembering), ("in another pass", "forward changes last, which no buffer holds")),
    "an answer for one image": (
        lambda: Net(lambda _, maps: 2 * maps if maps.size(0) == 1 else maps),
        ("in eval mode for one image the model's output differs",),
    ),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_a_graph_does_not_hold_is_noticed_and_named(name: str) -> None:
    """Outputs, gradients and buffers of several passes and steps are compared, and the cause is said."""
    build, words = DIFFERENT[name]
    fidelity = captured(build()).fidelity

    assert not fidelity.holds
    said = "; ".join(fidelity.differences)
    assert [] == [word for word in words if word not in said], said


EQUAL: dict[str, Step] = {
    "the identity": lambda _, maps: maps,
    "a straight-through estimator by detach": lambda _, maps: maps + (maps.sign() - maps).detach(),
    "a scaled gradient": lambda _, maps: 0.1 * maps + (0.9 * maps).detach(),
    "detached in place": lambda _, maps: maps.detach_(),
    "a checkpoint without state": lambda _, maps: checkpoint(torch.tanh, maps, use_reentrant=False),
    "a backward that is the usual one": lambda _, maps: Rectified.apply(maps),
    "batch norm, in place": lambda net, maps: net.norm(maps).relu_(),
}


@pytest.mark.parametrize("name", EQUAL)
def test_what_a_graph_holds_is_equal(name: str) -> None:
    """Spellings of a gradient that operations show, and a checkpoint that leaves nothing behind."""
    assert () == captured(Net(EQUAL[name])).fidelity.differences


def test_frozen_in_train_is_frozen_in_the_graph() -> None:
    """Whether a parameter is trained is asked in training mode."""

    class Freezing(Net):
        """Freezes its convolution in training mode."""

        def train(self, mode: bool = True) -> Freezing:  # noqa: FBT001, FBT002 - as nn.Module declares it
            """Set the mode."""
            super().train(mode)
            self.conv.requires_grad_(not mode)
            return self

    model = captured(Freezing())
    assert () == model.fidelity.differences
    assert {"conv.weight", "conv.bias"} == {spec.name for spec in model.graph.tensors if not spec.requires_grad} - {
        spec.name for spec in model.graph.tensors if spec.kind != "parameter"
    }


def test_the_answer_for_one_image_is_known() -> None:
    """Its shape, or that there is none."""
    scored = nn.Sequential(nn.Flatten(), nn.Linear(25, 3))

    class Squeezed(nn.Module):
        """Drops every dimension of size one."""

        def __init__(self) -> None:
            super().__init__()
            self.scored = scored

        def forward(self, images: Tensor) -> Tensor:
            """Three numbers an image."""
            result: Tensor = self.scored(images).squeeze()
            return result

    assert (1, 3) == captured(scored).fidelity.single_image
    assert (3,) == captured(Squeezed()).fidelity.single_image


@pytest.mark.parametrize(
    ("step", "finite"),
    [
        (lambda _, maps: maps / 0, False),
        (lambda _, maps: maps * float("nan"), False),
        (lambda _, maps: maps, True),
    ],
)
def test_numbers_that_are_not_finite_are_equal_to_themselves(step: Step, *, finite: bool) -> None:
    """NaN and infinity are no difference, and known."""
    fidelity = captured(Net(step)).fidelity

    assert (True, finite) == (fidelity.holds, fidelity.finite)


def test_numbers_between_0_and_1_are_tried() -> None:
    """A model that takes the root of its images is finite on images as they are read."""

    class Root(Net):
        """Takes a root first."""

        def forward(self, images: Tensor) -> Tensor:
            """Three numbers an image."""
            return super().forward(images.sqrt())

    assert captured(Root()).fidelity.finite


def test_a_backward_pass_that_fails_alike_is_no_difference() -> None:
    """A buffer that training changes after it was used: the model cannot be trained, and its graph cannot either."""
    fidelity = captured(Net(_changed_after_use)).fidelity

    assert fidelity.holds
    assert "modified by an inplace operation" in fidelity.training_failure


def _changed_after_use(net: Net, maps: Tensor) -> Tensor:
    scale = net.get_buffer("count")
    scaled = maps * scale
    if net.training:
        scale.add_(1)
    return scaled
