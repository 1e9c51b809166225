"""The steps of a training: batches, the optimizer step, and the callbacks and hooks around each step.

The loss is the mean cross entropy of the model's output, that is the negative log-likelihood of
``log_softmax(output)``. For logits this is the usual loss; for log-probabilities, which ``log_softmax`` leaves
unchanged, it is the plain negative log-likelihood up to rounding. Models with either output are trained in the same way
and need not declare which of the two they return.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.data import AffineDraws, Dataset
from harness.training.evaluation import Evaluation, count_correct, evaluate, forward
from harness.training.randomness import RandomStreams
from harness.training.recipe import Recipe


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """The images of one step: (B, 1, 28, 28) float, augmented and normalised, with (B,) int64 labels.

    ``order``, (B,) int64 on the CPU, holds the indices of the training images; ``draws`` holds the random parameters of
    their augmentation, or None without augmentation. Both are None for batches from a user's loader.
    """

    images: Tensor
    labels: Tensor
    order: Tensor | None = None
    draws: AffineDraws | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """One step of a training, as passed to callbacks.

    ``number`` counts from 1 over all epochs; ``module`` is in train mode. In ``before_step`` the optimizer has the
    learning rate of this step, in ``after_step`` that of the next.
    """

    number: int
    batch: Batch
    module: nn.Module
    optimizer: torch.optim.Optimizer


class StepCallback(Protocol):
    """An object whose methods are called before and after every step.

    An exception raised by a method ends the training.
    """

    def before_step(self, step: Step) -> None:
        """Called when the batch of the step is ready, before the forward pass."""

    def after_step(self, step: Step) -> None:
        """Called when the optimizer and the learning-rate schedule have taken their step."""


def shuffled_batches(data: Dataset, recipe: Recipe, streams: RandomStreams, _epoch: int = 1) -> Iterator[Batch]:
    """Yield the batches of one epoch: all training images once, in a new random order, augmented and normalised.

    The random streams continue from epoch to epoch, so the epoch's number is not used.
    """
    order = torch.randperm(len(data.train_images), generator=streams.order)
    on_device = order.to(data.train_images.device)
    for positions, chosen in zip(
        torch.split(order, recipe.batch_size), torch.split(on_device, recipe.batch_size), strict=True
    ):
        images, draws = data.train_images[chosen], None
        if recipe.augmentation:
            draws = recipe.augmentation.draw(len(chosen), generator=streams.augmentation)
            images = recipe.augmentation.apply(images, draws)
        yield Batch(images=data.normalise(images), labels=data.train_labels[chosen], order=positions, draws=draws)


def train_step(
    network: Callable[[Tensor], Tensor], optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute one optimizer step on the mean cross entropy of a batch.

    Returns:
        The mean loss and the number of correct predictions before the update, as tensors on the device.

    Raises:
        InputError: the output's shape is not (B, 10).
    """
    output = forward(network, images)
    loss = functional.cross_entropy(output, labels)
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    optimizer.step()
    return loss.detach(), count_correct(output.detach(), labels)


@dataclass(frozen=True, kw_only=True)
class TrainingHooks:
    """The parts of a training that a caller may replace (``batches`` and ``evaluate``) or add (``callbacks``).

    ``batches`` yields the batches of an epoch, given the data, the recipe, the run's random streams and the epoch's
    number from 1; ``evaluate`` evaluates the model after each epoch; ``callbacks`` are called around every step, in
    their order.
    """

    batches: Callable[[Dataset, Recipe, RandomStreams, int], Iterator[Batch]] = shuffled_batches
    evaluate: Callable[[nn.Module, Dataset], Evaluation] = evaluate
    callbacks: tuple[StepCallback, ...] = ()
