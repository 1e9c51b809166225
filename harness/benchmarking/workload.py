"""The reference workload: fixed work whose time is the unit in which all benchmarks are measured.

Two saved runs are comparable only while network, sizes, optimizer and order of the operations of this workload stay the
same. The workload is plain PyTorch, so that no change to the harness makes it faster. If the workload is changed,
`WORKLOAD` needs a new name; `compare_runs` refuses to compare runs with different names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

WORKLOAD = "small-conv-net/1"

Kind = Literal["training", "inference"]

# On a CPU a training step, and this number of evaluations, take about 10 ms: long compared with the resolution of the clock,
# short compared with the activity of other processes. The activations of 32 images fit into a core's own cache.
IMAGES = 32
EVALUATIONS = 4


def reference_workload(kind: Kind, device: torch.device) -> Callable[[], object]:
    """Return a function that computes a training step, or four evaluations, of a small network with 32 images.

    The network is similar to the benchmarked models. Images, weights and dropout consume torch's random state.
    """
    images = torch.randn(IMAGES, 1, 28, 28, device=device)
    layers = [*_block(1, 8), *_block(8, 12), nn.MaxPool2d(2), *_block(12, 12), *_block(12, 16)]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)]
    network = nn.Sequential(*layers).to(device)
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
    convolution = nn.Conv2d(channels_in, channels_out, 3, bias=False)
    return convolution, nn.BatchNorm2d(channels_out), nn.ReLU(), nn.Dropout(0.1)
