"""The smoke run: a few training steps that test whether the model learns, and how long a step takes."""

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

# Adam is nearly invariant to the scale of the gradients, so one learning rate serves models of every depth; at twice this rate
# five_step_1 falls back to guessing. Over 20 steps, on MNIST and on the digits, every shipped model lowers its loss by at least
# 4 %.
_RECIPE = Recipe(name="smoke", batch_size=64, epochs=1, optimizer=Adam(lr=0.001))
_MARGIN = 0.02
_FEWEST_STEPS = 8
_WARM_UP_STEPS = 3


@dataclass(frozen=True, kw_only=True)
class SmokeResult:
    """The result of a smoke run; ``losses`` are the mean cross entropies of each batch before its step.

    ``seconds_per_step`` is the median wall time of a step after warm-up, including the device's work.
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
        """Mean loss of the first quarter, but at most that of guessing, ``ln 10``.

        Without this bound, a model whose loss first explodes and then falls back to guessing would seem to have learned.
        """
        return min(statistics.fmean(self.losses[: self.quarter]), math.log(CLASSES))

    @property
    def last(self) -> float:
        """Mean loss of the last quarter."""
        return statistics.fmean(self.losses[-self.quarter :])

    @property
    def learns(self) -> bool:
        """Whether the last quarter's loss is at least 2 % below the first's; false if a loss is NaN."""
        return self.last <= (1 - _MARGIN) * self.first

    def finding(self) -> Finding:
        """The result as a finding."""
        percent = f"{100 * _MARGIN:g} %"
        return Finding(
            requirement=f"smoke run on {self.device}",
            status=Status.PASS if self.learns else Status.FAIL,
            expected=f"{len(self.losses)} training steps lower the loss by at least {percent}",
            observed=f"loss {self.first:.3f} in the first quarter, {self.last:.3f} in the last",
            evidence=(
                f"loss of each step: {' '.join(f'{loss:.3f}' for loss in self.losses)}",
                f"{1000 * self.seconds_per_step:.1f} ms per step of {self.batch_size} images",
            ),
            hint=""
            if self.learns
            else "Look for a layer that passes no gradient, or a head whose output does not depend on the image.",
        )


def smoke_run(module: nn.Module, dataset: Dataset, *, device: torch.device, seed: int, steps: int = 20) -> SmokeResult:
    """Train a copy of the model for some steps with Adam (learning rate 0.001, batch size 64), the same for every model.

    The global random state of PyTorch is restored.

    Args:
        module: (B, 1, 28, 28) float to (B, 10) logits or log-probabilities, with its initial weights, since a trained
            model has little left to learn.
        dataset: only its training images are used.
        device: the device to train on.
        seed: seed of the order of the images and of dropout.
        steps: number of steps, at least 8.

    Raises:
        InputError: too few steps, no trainable parameters, or an output of another shape.
    """
    if steps < _FEWEST_STEPS:
        raise InputError(f"expected at least {_FEWEST_STEPS} steps of a smoke run, got steps={steps}.")
    network, data = copy.deepcopy(module).to(device).train(), dataset.to(device)
    optimizer = build_optimizer(_RECIPE.optimizer, network)
    losses, seconds = [], []
    with preserved_randomness(device):
        streams = RandomStreams(seed, device)
        epochs = itertools.chain.from_iterable(shuffled_batches(data, _RECIPE, streams) for _ in itertools.count())
        for batch in itertools.islice(epochs, steps):
            began = time.perf_counter()
            loss, _ = train_step(network, optimizer, batch.images, batch.labels)
            # Reading the loss waits for the device, so the whole step is timed.
            losses.append(loss.item())
            seconds.append(time.perf_counter() - began)
    return SmokeResult(
        device=str(device),
        batch_size=_RECIPE.batch_size,
        losses=tuple(losses),
        seconds_per_step=statistics.median(seconds[_WARM_UP_STEPS:]),
    )
