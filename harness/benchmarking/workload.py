"""The reference workload: a fixed piece of the same kind of work, by which every figure is calibrated.

Two saved runs are comparable only while this stays as it is: network, sizes, optimizer, order of the operations. It is
plain PyTorch on purpose, so that no change of ours can make it faster. Whoever must change it gives it a new name, and
`compare_runs` refuses to compare across names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

WORKLOAD = "small-conv-net/1"

Kind = Literal["training", "inference"]

# On a CPU a step, and as many evaluations as this, take about 10 ms: long beside the clock, short beside what else goes
# on. The activations of 32 images lie in a core's own cache, which other processes do not fill.
IMAGES = 32
EVALUATIONS = 4


def reference_workload(kind: Kind, device: torch.device) -> Callable[[], object]:
    """A training step, or four evaluations, of a network like those that are benchmarked; over 32 images.

    Images, weights, and dropout at each training step, draw from torch's random state.
    """
    images = torch.randn(IMAGES, 1, 28, 28, device=device)
    network = nn.Sequential(
        *_block(1, 8),
        *_block(8, 12),
        nn.MaxPool2d(2),
        *_block(12, 12),
        *_block(12, 16),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    ).to(device)
    if kind == "inference":
        network.eval()

        def evaluate() -> None:
            with torch.no_grad():
                for _ in range(EVALUATIONS):
                    network(images)

        return evaluate
    labels = torch.arange(IMAGES, device=device) % 10
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)

    def step() -> None:
        loss = functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()

    return step


def _block(channels_in: int, channels_out: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(channels_in, channels_out, 3, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
        nn.Dropout(0.1),
    )
