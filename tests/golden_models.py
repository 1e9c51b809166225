"""A small network with its golden, and changes of it, for the tests of goldens."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from harness.goldens.golden import Golden
from harness.goldens.measurement import measure_golden, train_briefly
from harness.graph import CapturedModel, capture
from harness.training import Recipe, RunSpec, StepDigests, initialise, state_digest
from tests.made_up import RECIPE


class Net(nn.Module):
    """Two convolutions, a pooling and a linear layer; accepts any padding."""

    def __init__(self, *, padding: int = 0, p: float = 0.1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 5, stride=3, padding=padding)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(p)
        self.conv2 = nn.Conv2d(4, 8, 3, stride=2)
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 10)."""
        x = self.drop(torch.relu(self.norm(self.conv1(x))))
        x = torch.relu(self.conv2(x)).mean((2, 3))
        return torch.log_softmax(self.head(x), dim=1)


def captured(build: Callable[[], nn.Module]) -> CapturedModel:
    """A captured network with the initial weights of seed 1."""
    return capture(initialise(build, seed=1), name="net", twice=False)


@functools.cache
def captured_net(*, padding: int = 0, p: float = 0.1) -> CapturedModel:
    """The small network, or a variant of it."""
    return captured(lambda: Net(padding=padding, p=p))


def spec_of(model: CapturedModel, recipe: Recipe = RECIPE) -> RunSpec:
    """The run spec to measure a network's golden with."""
    return RunSpec.of(model, recipe, seed=1, source="net.py:Net")


@functools.cache
def net_golden() -> Golden:
    """The golden of the small network, measured in this process."""
    return measure_golden(captured_net(), spec_of(captured_net()))


_trainings: dict[str, tuple[StepDigests, ...]] = {}


def train_once(model: CapturedModel, spec: RunSpec) -> tuple[StepDigests, ...]:
    """The result of `train_briefly`, computed once for equal models and recipes."""
    key = f"{model.graph.exact_digest()} {state_digest(model.state)} {spec.recipe}"
    if key not in _trainings:
        _trainings[key] = train_briefly(model, spec)
    return _trainings[key]


def with_state(model: CapturedModel, name: str, change: Callable[[Tensor], Tensor]) -> CapturedModel:
    """The model with one tensor changed."""
    return dataclasses.replace(model, state={**model.state, name: change(model.state[name])})


def all_next_floats(tensor: Tensor) -> Tensor:
    """All values increased by one unit in the last place."""
    return torch.nextafter(tensor, torch.tensor(torch.inf))


def one_next_float(tensor: Tensor) -> Tensor:
    """One value increased by one unit in the last place."""
    changed = tensor.clone()
    changed.view(-1)[3] = all_next_floats(changed.view(-1)[3])
    return changed


def one_percent(tensor: Tensor) -> Tensor:
    """All values increased by one per cent."""
    return tensor * 1.01
