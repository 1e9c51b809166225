"""What a training is made of: batches, the step, and those who watch the steps.

What is computed: the loss is the mean cross entropy of the network's output, that is the negative log-likelihood of
``log_softmax(output)``. For logits this is the usual loss; for log-probabilities, whose ``log_softmax`` is themselves,
it is the plain negative log-likelihood up to rounding. So both kinds of network train alike and none has to say which
it is.
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
    """The images of one step.

    Args:
        images: (B, 1, 28, 28) float, augmented and normalised.
        labels: (B,) int64.
        order: (B,) int64 on the CPU, which training images they are; None where only the loader knows.
        draws: how each was augmented; None where they were not, or where only the loader knows.
    """

    images: Tensor
    labels: Tensor
    order: Tensor | None = None
    draws: AffineDraws | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """One step of a training, as a watcher sees it.

    Args:
        number: which, from 1, over all epochs.
        batch: its images.
        module: the network, in train mode.
        optimizer: the optimizer, with the step's learning rate before it and the next one's after it.
    """

    number: int
    batch: Batch
    module: nn.Module
    optimizer: torch.optim.Optimizer


class Watcher(Protocol):
    """Whoever wants to look at every step from inside. An exception raised here ends the training."""

    def before_step(self, step: Step) -> None:
        """The batch is there, nothing is computed yet."""

    def after_step(self, step: Step) -> None:
        """The optimizer and the schedule have moved."""


def one_epoch(data: Dataset, recipe: Recipe, streams: RandomStreams, _epoch: int = 1) -> Iterator[Batch]:
    """All training images once, in a new order.

    The streams go on from epoch to epoch, so the number of the epoch says nothing here.
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
    """One step of the optimizer. Returns mean loss and right answers from before it, both still on the device.

    Raises:
        InputError: the network's output has another shape than (B, 10).
    """
    output = forward(network, images)
    loss = functional.cross_entropy(output, labels)
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    optimizer.step()
    return loss.detach(), count_correct(output.detach(), labels)


@dataclass(frozen=True, kw_only=True)
class Procedure:
    """The parts of a training that somebody may bring himself.

    Args:
        batches: the batches of an epoch, from the data, the recipe, the run's random streams and the epoch's number
            from 1.
        evaluate: the evaluation after an epoch.
    """

    batches: Callable[[Dataset, Recipe, RandomStreams, int], Iterator[Batch]] = one_epoch
    evaluate: Callable[[nn.Module, Dataset], Evaluation] = evaluate
