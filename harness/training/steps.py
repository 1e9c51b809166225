"""What a training is made of: batches, the step, the evaluation, and those who watch the steps.

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
from harness.errors import InputError
from harness.training.randomness import RandomStreams, preserved_randomness
from harness.training.recipe import Recipe

CLASSES = 10


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


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A network's answers to the test images: mean cross entropy, right answers, images."""

    loss: float
    correct: int
    total: int


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
    module: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """One step of the optimizer. Returns mean loss and right answers from before it, both still on the device.

    Raises:
        InputError: the network's output has another shape than (B, 10).
    """
    output = _forward(module, images)
    loss = functional.cross_entropy(output, labels)
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    optimizer.step()
    return loss.detach(), _count_correct(output.detach(), labels)


def evaluate(module: nn.Module, dataset: Dataset, *, batch_size: int = 1000) -> Evaluation:
    """Test a network on all test images, in eval mode, on the device where both are.

    No randomness is consumed, and the module is back in the mode it was in afterwards. An answer with a NaN in it is
    never right.

    Raises:
        InputError: the output has another shape than (B, 10).
    """
    images, labels = dataset.test_images, dataset.test_labels
    losses, corrects = [], []
    was_training = module.training
    module.eval()
    with preserved_randomness(images.device), torch.no_grad():
        for batch, answers in zip(torch.split(images, batch_size), torch.split(labels, batch_size), strict=True):
            output = _forward(module, dataset.normalise(batch))
            losses.append(functional.cross_entropy(output, answers, reduction="sum"))
            corrects.append(_count_correct(output, answers))
    module.train(was_training)
    loss = torch.stack(losses).cpu().double().sum().item() / len(images)
    return Evaluation(loss=loss, correct=int(torch.stack(corrects).sum()), total=len(images))


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


def _forward(module: nn.Module, images: Tensor) -> Tensor:
    output: object = module(images)
    if not isinstance(output, Tensor) or output.shape != (len(images), CLASSES):
        found = f"shape={tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        msg = f"expected the network to give shape=({len(images)}, {CLASSES}) for {len(images)} images, got {found}."
        raise InputError(msg)
    return output


def _count_correct(output: Tensor, labels: Tensor) -> Tensor:
    highest, answers = output.max(dim=1)
    # A NaN wins every maximum, and its class could be the right one.
    return ((answers == labels) & ~highest.isnan()).sum()
