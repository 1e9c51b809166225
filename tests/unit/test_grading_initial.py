"""Initial weights of the examiner: drawn like PyTorch's own, by the seed, whatever the submission holds."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from harness.grading.initial import kept_numbers, with_drawn_weights
from harness.graph import capture
from tests.graded import built
from tests.made_up import network


class Unusual(nn.Module):
    """Parameters that no layer reads directly, a PReLU and running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 7, stride=7)
        self.norm = nn.BatchNorm2d(4)
        self.prelu = nn.PReLU()
        self.scale = nn.Parameter(torch.full((4, 1, 1), 0.5))
        self.mixed = nn.Parameter(3 + 2 * torch.randn(64, 200))
        self.head = nn.Linear(200, 10)
        self.register_buffer("kept", torch.arange(10.0))

    def forward(self, images: Tensor) -> Tensor:
        maps = self.prelu(self.norm(self.conv(images))) * self.scale
        output: Tensor = self.head(maps.flatten(1) @ self.mixed) + self.get_buffer("kept")
        return output


def test_the_seed_decides() -> None:
    """The same seed gives the same weights, whatever weights the submission has; another seed gives others."""
    drawn = [with_drawn_weights(built(seed), draw).state["5.weight"] for seed, draw in ((1, 7), (2, 7), (1, 8))]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_layers_are_drawn_like_those_of_torch() -> None:
    """For a network in the order of its layers, bit for bit."""
    torch.manual_seed(7)
    expected = network().state_dict()
    drawn = with_drawn_weights(built(1), 7).state
    assert all(torch.equal(tensor, drawn[name]) for name, tensor in expected.items())


def test_trained_tensors_are_replaced() -> None:
    """Running statistics, scales of normalisations and PReLU begin as new; fixed numbers stay."""
    module = Unusual()
    with torch.no_grad():
        for tensor in (*module.norm.parameters(), module.prelu.weight):
            tensor.fill_(9)
        module.norm.running_mean.fill_(9)  # type: ignore[union-attr]  # tracked
        module.norm.running_var.fill_(9)  # type: ignore[union-attr]  # tracked
        module.norm.num_batches_tracked.fill_(9)  # type: ignore[union-attr]  # tracked
    drawn = with_drawn_weights(capture(module, name="net", twice=False), 7).state
    expected = {
        "norm.weight": 1.0,
        "norm.bias": 0.0,
        "norm.running_mean": 0.0,
        "norm.running_var": 1.0,
        "norm.num_batches_tracked": 0.0,
        "prelu.weight": 0.25,
        "scale": 0.5,
    }
    assert expected == {name: drawn[name].double().mean().item() for name in expected}
    assert torch.equal(torch.arange(10.0), drawn["kept"])
    assert drawn["head.weight"].abs().max().item() <= 1 / math.sqrt(200)


def test_other_parameters_keep_only_mean_and_spread() -> None:
    """Their values cannot carry weights of an earlier training."""
    module = Unusual()
    drawn = with_drawn_weights(capture(module, name="net", twice=False), 7).state["mixed"]
    assert not torch.equal(module.mixed, drawn)
    assert (3.0, 2.0) == (round(drawn.mean().item(), 1), round(drawn.std().item(), 1))


class Joined(nn.Module):
    """A head of parameters of one or two elements, and a running mean that is read before its batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.tensor(3.0))
        self.two = nn.ParameterList(nn.Parameter(k + torch.randn(2) / 1e6) for k in range(5))
        self.norm = nn.BatchNorm2d(1)

    def forward(self, images: Tensor) -> Tensor:
        assert self.norm.running_mean is not None
        maps = self.norm(images + self.norm.running_mean[:, None, None]) * self.one
        output: Tensor = torch.cat(list(self.two)) + maps.mean((1, 2, 3))[:, None]
        return output


def test_what_is_kept_of_a_submission_is_counted() -> None:
    """One number of a constant parameter, mean and deviation of another one; nothing of those that PyTorch's layers have."""
    assert {} == kept_numbers(built(1))
    assert {"one": 1, **{f"two.{k}": 2 for k in range(5)}} == kept_numbers(built(1, Joined))
    assert {"scale": 1, "mixed": 2} == kept_numbers(built(1, Unusual))


def test_a_running_statistic_is_new_whatever_reads_it_first() -> None:
    """The state budget does not count it."""
    module = Joined()
    module.norm.running_mean = torch.full((1,), 9.0)
    assert 0 == with_drawn_weights(capture(module, name="net", twice=False), 7).state["norm.running_mean"].item()
