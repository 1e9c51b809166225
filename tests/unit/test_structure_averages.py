"""Averages of a whole map that no operation is by its name, sums that are none, and what cannot be told."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.findings import Status
from harness.graph import CapturedModel, capture
from harness.structure import Structure
from tests.made_up import decided

Step = Callable[["Pooled", Tensor], Tensor]


class Pooled(nn.Module):
    """A convolution to 4x4 maps, a step that turns them into four numbers, and a linear layer."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.even = nn.Conv2d(4, 4, 4, groups=4, bias=False)
        nn.init.constant_(self.even.weight, 1 / 16)
        self.register_buffer("column", torch.full((16, 1), 1 / 16))
        self.fc = nn.Linear(4, 3)
        self.step = step

    def forward(self, images: Tensor) -> Tensor:
        """Three numbers an image."""
        scores: Tensor = self.fc(self.step(self, self.conv(images)))
        return scores


def captured(step: Step) -> CapturedModel:
    """The network with this step on 1x6x6 images."""
    return capture(Pooled(step), (1, 6, 6), name="pooled", twice=False)


def mixed(net: Pooled, maps: Tensor) -> Tensor:
    """An average and a product with weights in one operation."""
    return torch.einsum("bchw,kc->bk", maps, net.even.weight[:, 0, 0]) / 16


def over_tokens(_: Pooled, maps: Tensor) -> Tensor:
    """The mean of what each position gets from all by attention."""
    tokens = maps.flatten(2).transpose(1, 2)
    return functional.scaled_dot_product_attention(tokens, tokens, tokens).mean(1)


AVERAGES: dict[str, Step] = {
    "einsum": lambda _, x: torch.einsum("bchw->bc", x) / 16,
    "product with a constant column": lambda net, x: (x.flatten(2) @ net.get_buffer("column")).squeeze(-1),
    "linear": lambda net, x: functional.linear(x.flatten(2), net.get_buffer("column").t()).flatten(1),
    "convolution": lambda _, x: functional.conv2d(x, torch.full((4, 1, 4, 4), 1 / 16), groups=4).flatten(1),
    "cumulative sum": lambda _, x: x.flatten(2).cumsum(-1)[..., -1] / 16,
    "weighted before the sum": lambda _, x: (x * torch.full((4, 4), 1 / 16)).sum((2, 3)),
    "one-dimensional pooling": lambda _, x: functional.adaptive_avg_pool1d(x.flatten(2), 1).squeeze(-1),
    "position by position": lambda _, x: sum((x[:, :, i, j] for i in range(4) for j in range(4)), torch.zeros(())) / 16,
    "two halves": lambda _, x: (x[:, :, :2].mean((2, 3)) + x[:, :, 2:].mean((2, 3))) / 2,
    "last dimension": lambda _, x: torch.einsum("bhwc->bc", x.permute(0, 2, 3, 1)) / 16,
}
OTHERS: dict[str, tuple[Step, str]] = {
    "a sum": (lambda _, x: torch.einsum("bchw->bc", x), "einsum is 16 times the average of the whole 4x4 map"),
    "part": (lambda _, x: torch.einsum("bchw->bc", x[:, :, :2]) / 8, ""),
    "trained weights, even at first": (lambda net, x: net.even(x).flatten(1), ""),
    "uneven weights": (lambda _, x: x.flatten(2) @ torch.linspace(0, 1 / 8, 16), ""),
    "first of a cumulative sum": (lambda _, x: x.flatten(2).cumsum(-1)[..., 3] / 4, ""),
    "beside the map": (lambda _, x: (x * torch.sigmoid(torch.einsum("bchw->bc", x)[..., None, None])).amax((2, 3)), ""),
}
UNDECIDED: dict[str, tuple[Step, str]] = {
    "mixed with weights": (mixed, "einsum"),
    "shifted": (
        lambda _, x: functional.conv2d(x, torch.ones(4, 1, 4, 4), torch.ones(4), groups=4).flatten(1),
        "Conv2d",
    ),
    "over tokens": (over_tokens, "scaled_dot_product_attention"),
}


@pytest.mark.parametrize("name", AVERAGES)
def test_an_average_is_found_however_it_is_written(name: str) -> None:
    """It feeds the head, averages the convolution's map, and the receptive field is the one before it."""
    model = captured(AVERAGES[name])
    structure = Structure(model.graph, model.state)

    assert [((4, 4), True)] == [(pool.map_size, pool.feeds_head) for pool in structure.global_pools if pool.feeds_head]
    assert structure.head_pool is not None
    assert 3 == structure.field_before_head[1].size
    assert Status.PASS == decided(model, "[gap]\nrequired = true", "gap").status


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_average_is_shown_to_be_none(name: str) -> None:
    """Other weights, a part of the map or another divisor change the output where the averages stay the same."""
    step, reason = OTHERS[name]
    finding = decided(captured(step), "[gap]\nrequired = true", "gap")

    assert (Status.FAIL, "absent") == (finding.status, finding.observed)
    assert reason in "".join(finding.evidence)


@pytest.mark.parametrize("name", UNDECIDED)
def test_what_cannot_be_told_is_unknown(name: str) -> None:
    """The finding names the operation, whether the average is required or forbidden."""
    step, operation = UNDECIDED[name]
    model = captured(step)

    for rule in ("required", "forbidden"):
        finding = decided(model, f"[gap]\n{rule} = true", "gap")
        assert (Status.UNKNOWN, f"unknown: whether {operation} averages a whole map could not be determined") == (
            finding.status,
            finding.observed,
        )
    assert Status.UNKNOWN == decided(model, 'any_of = ["gap"]', "any_of").status
    assert Status.PASS == decided(model, 'any_of = ["gap", "linear"]', "any_of").status
