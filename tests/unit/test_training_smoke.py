"""The smoke run tells a network that learns from one that does not."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from harness.errors import InputError
from harness.findings import Status
from harness.training import SmokeResult, initialise, smoke_run, state_digest
from tests.made_up import dataset, network

CPU = torch.device("cpu")
DATA = dataset(train=128, test=10)


def test_a_sound_network_learns() -> None:
    """Twenty steps lower the loss of the made-up network, and the module passed in is not changed."""
    module = initialise(network, seed=1)
    before, randomness = state_digest(module.state_dict()), torch.get_rng_state()
    result = smoke_run(module, DATA, device=CPU, seed=1)
    finding = result.finding()
    assert ("smoke run on cpu", Status.PASS, "") == (finding.requirement, finding.status, finding.hint)
    assert result.last < result.first
    assert result.seconds_per_step > 0
    assert before == state_digest(module.state_dict())
    assert torch.equal(randomness, torch.get_rng_state())


class Dead(nn.Module):
    """The same output for every image: its ReLU is always zero."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()
        self.bias = nn.Parameter(torch.zeros(10))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.net(images)
        return (-output.square()).relu() + self.bias


class Exploding(nn.Module):
    """Returns NaN from the first step."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.net(images)
        return output * math.inf


@pytest.mark.parametrize("build", [Dead, Exploding])
def test_a_dead_network_fails(build: type[nn.Module]) -> None:
    """A network whose output does not depend on its weights, or is NaN, does not learn."""
    finding = smoke_run(initialise(build, seed=1), DATA, device=CPU, seed=1).finding()
    assert Status.FAIL == finding.status
    assert "no gradient" in finding.hint


def result(losses: list[float]) -> SmokeResult:
    """A result with these losses."""
    return SmokeResult(device="cpu", batch_size=64, losses=tuple(losses), seconds_per_step=0.01)


@pytest.mark.parametrize(
    ("losses", "learns"),
    [
        ([2.0] * 5 + [1.9] * 15, True),
        ([2.0] * 5 + [1.97] * 15, False),
        ([2.0] * 20, False),
        ([2.0] * 5 + [math.nan] * 15, False),
        ([50.0] * 5 + [2.3] * 15, False),
        ([50.0] * 5 + [2.0] * 15, True),
    ],
)
def test_learning_is_measured(losses: list[float], *, learns: bool) -> None:
    """The last quarter must be 2 % below the first; falling back from an explosion to guessing does not count as learning."""
    assert learns == result(losses).learns


def test_the_seed_decides_the_run() -> None:
    """The same seed gives the same losses; another seed gives other losses."""
    module = initialise(network, seed=1)
    first, again, other = (smoke_run(module, DATA, device=CPU, seed=seed, steps=8).losses for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_too_few_steps_are_refused() -> None:
    """Fewer than eight steps are refused: a quarter needs two."""
    with pytest.raises(InputError, match="expected at least 8 steps of a smoke run, got steps=7"):
        smoke_run(network(), DATA, device=CPU, seed=1, steps=7)
