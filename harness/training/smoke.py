"""A short smoke run: does the network learn at all, and how long does a step take here."""

from __future__ import annotations

import copy
import itertools
import math
import statistics
import time
from dataclasses import dataclass

import torch
from torch import nn

from harness.data import Dataset
from harness.errors import InputError
from harness.findings import Finding, Status
from harness.training.evaluation import CLASSES
from harness.training.randomness import RandomStreams, preserved_randomness
from harness.training.recipe import Adam, Recipe, build_optimizer
from harness.training.steps import shuffled_batches, train_step

# Adam is nearly indifferent to the scale of the gradients, so one rate serves networks of every depth; at twice the
# rate five_step_1 falls back to guessing. Measured over 20 steps, on MNIST and on the digits, the shipped models lower
# their loss by 4 % at the least.
_RECIPE = Recipe(name="smoke", batch_size=64, epochs=1, optimizer=Adam(lr=0.001))
_MARGIN = 0.02
_FEWEST_STEPS = 8
_WARM_UP_STEPS = 3


@dataclass(frozen=True, kw_only=True)
class SmokeResult:
    """What a smoke run saw.

    Args:
        device: where it ran.
        batch_size: images a step.
        losses: mean cross entropy of each step's batch, before the step.
        seconds_per_step: median wall time of a step after warm-up, the device's work included.
    """

    device: str
    batch_size: int
    losses: tuple[float, ...]
    seconds_per_step: float

    @property
    def quarter(self) -> int:
        """Steps in a quarter of the run, at least one."""
        return max(1, len(self.losses) // 4)

    @property
    def first(self) -> float:
        """Mean loss of the first quarter, or that of guessing (``ln 10``) if the network began worse than that.

        Without the second part a network that blows up and falls back to guessing would look as if it had learnt.
        """
        return min(statistics.fmean(self.losses[: self.quarter]), math.log(CLASSES))

    @property
    def last(self) -> float:
        """Mean loss of the last quarter."""
        return statistics.fmean(self.losses[-self.quarter :])

    @property
    def learns(self) -> bool:
        """Whether the last quarter's loss is 2 % or more below the first's; never with a loss that is no number."""
        return self.last <= (1 - _MARGIN) * self.first

    def finding(self) -> Finding:
        """The result as a verdict."""
        percent = f"{100 * _MARGIN:g} %"
        return Finding(
            requirement=f"smoke run on {self.device}",
            status=Status.PASS if self.learns else Status.FAIL,
            expected=f"{len(self.losses)} training steps lower the loss by {percent} or more",
            observed=f"loss {self.first:.3f} in the first quarter, {self.last:.3f} in the last",
            evidence=(
                f"loss of each step: {' '.join(f'{loss:.3f}' for loss in self.losses)}",
                f"{1000 * self.seconds_per_step:.1f} ms a step of {self.batch_size} images",
            ),
            hint=""
            if self.learns
            else "Look for a layer that passes no gradient or a head that answers the same to all.",
        )


def smoke_run(module: nn.Module, dataset: Dataset, *, device: torch.device, seed: int, steps: int = 20) -> SmokeResult:
    """Train a copy of the network for some steps with Adam (rate 0.001, 64 images a step), the same for every network.

    Args:
        module: (B, 1, 28, 28) float to (B, 10) logits or log-probabilities, with its initial weights, since a trained
            network has little left to learn; it is left as it is.
        dataset: what to train on; only its training images are used.
        device: where to train.
        seed: what the order of the images and dropout are derived from. Torch's global state is as before afterwards.
        steps: how many steps, at least 8.

    Raises:
        InputError: too few steps, a network with nothing to train, or an output of another shape.
    """
    if steps < _FEWEST_STEPS:
        msg = f"expected at least {_FEWEST_STEPS} steps of a smoke run, got steps={steps}."
        raise InputError(msg)
    network, data = copy.deepcopy(module).to(device).train(), dataset.to(device)
    optimizer = build_optimizer(_RECIPE.optimizer, network)
    losses, seconds = [], []
    with preserved_randomness(device):
        streams = RandomStreams(seed, device)
        epochs = itertools.chain.from_iterable(shuffled_batches(data, _RECIPE, streams) for _ in itertools.count())
        for batch in itertools.islice(epochs, steps):
            began = time.perf_counter()
            loss, _ = train_step(network, optimizer, batch.images, batch.labels)
            # Reading the loss waits for the device, so the time is that of the whole step.
            losses.append(loss.item())
            seconds.append(time.perf_counter() - began)
    return SmokeResult(
        device=str(device),
        batch_size=_RECIPE.batch_size,
        losses=tuple(losses),
        seconds_per_step=statistics.median(seconds[_WARM_UP_STEPS:]),
    )
