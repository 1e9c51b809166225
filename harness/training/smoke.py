"""The smoke run: a few training steps that show whether the loss falls, and how long a step takes."""

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
# the loss of five_step_1 returns to that of guessing. Over 20 steps, on MNIST and on the digits, every shipped model lowers its
# loss by at least 4 %.
_RECIPE = Recipe(name="smoke", batch_size=64, epochs=1, optimizer=Adam(lr=0.001))
_MARGIN = 0.02
_FEWEST_STEPS = 8
_WARM_UP_STEPS = 3


@dataclass(frozen=True, kw_only=True)
class SmokeResult:
    """The result of a smoke run; ``losses`` are the mean cross entropies of each batch before the step on that batch.

    ``seconds_per_step`` is the median wall time of a step after warm-up, including the work of the device.
    """

    device: str
    batch_size: int
    losses: tuple[float, ...]
    seconds_per_step: float

    @property
    def quarter(self) -> int:
        """The number of steps in a quarter of the run, at least one."""
        return max(1, len(self.losses) // 4)

    @property
    def first(self) -> float:
        """The mean loss in the first quarter of the steps, but at most ``ln 10``, the loss of random guessing.

        Without this bound, a model would count as learning if its loss first rises far above ``ln 10`` and then falls
        back to ``ln 10``.
        """
        return min(statistics.fmean(self.losses[: self.quarter]), math.log(CLASSES))

    @property
    def last(self) -> float:
        """The mean loss in the last quarter of the steps."""
        return statistics.fmean(self.losses[-self.quarter :])

    @property
    def learns(self) -> bool:
        """Whether the mean loss in the last quarter of the steps is at least 2 % below `first`; False if a loss is NaN."""
        return self.last <= (1 - _MARGIN) * self.first

    def finding(self) -> Finding:
        """Return the finding ``smoke run``, which passes if the model learns."""
        percent = f"{100 * _MARGIN:g} %"
        return Finding(
            requirement=f"smoke run on {self.device}",
            status=Status.PASS if self.learns else Status.FAIL,
            expected=f"{len(self.losses)} training steps lower the loss by at least {percent}",
            observed=f"mean loss {self.first:.3f} in the first quarter of the steps, {self.last:.3f} in the last",
            evidence=(
                f"loss of each step: {' '.join(f'{loss:.3f}' for loss in self.losses)}",
                f"{1000 * self.seconds_per_step:.1f} ms per step of {self.batch_size} images",
            ),
            hint=""
            if self.learns
            else "Look for a layer whose parameters get no gradient, or a head whose output does not depend on the image.",
        )


def smoke_run(module: nn.Module, dataset: Dataset, *, device: torch.device, seed: int, steps: int = 20) -> SmokeResult:
    """Train a copy of a model for ``steps`` steps with Adam, always with learning rate 0.001 and batch size 64.

    The global random state of PyTorch is restored.

    Args:
        module: maps images (B, 1, 28, 28) to logits or log-probabilities (B, 10); with its initial weights, since the loss
            of a trained model hardly falls any more.
        dataset: only its training images are used.
        device: the device to train on.
        seed: seed of the order of the images and of dropout.
        steps: number of steps, at least 8.

    Raises:
        InputError: there are too few steps or no trainable parameters, or the output has another shape.
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
