"""A network's answers to the test images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.data import Dataset
from harness.errors import InputError
from harness.training.randomness import preserved_randomness

CLASSES = 10
_NO_ANSWER = -1


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How good the answers are: mean cross entropy, right answers, images."""

    loss: float
    correct: int
    total: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """The answer to each test image, on the CPU.

    Args:
        labels: (N,) int64, what is right.
        answers: (N,) int64, the class with the highest output; -1 where an output is NaN, which is never right.
        probabilities: (N, 10) float32, softmax of the outputs.
        loss: mean cross entropy.
    """

    labels: Tensor
    answers: Tensor
    probabilities: Tensor
    loss: float

    @property
    def right(self) -> Tensor:
        """(N,) bool, which answers are right."""
        return self.answers == self.labels

    @property
    def wrong(self) -> list[int]:
        """Positions of the wrong answers among the test images."""
        return torch.nonzero(~self.right).flatten().tolist()

    def evaluation(self) -> Evaluation:
        """The answers in three figures."""
        return Evaluation(loss=self.loss, correct=int(self.right.sum()), total=len(self.labels))

    def confusion(self) -> list[list[int]]:
        """How often each class (row) was answered with each class (column); a NaN stands in no column."""
        answered = self.answers != _NO_ANSWER
        pairs = CLASSES * self.labels[answered] + self.answers[answered]
        table: list[list[int]] = torch.bincount(pairs, minlength=CLASSES**2).reshape(CLASSES, CLASSES).tolist()
        return table


def answer(module: nn.Module, dataset: Dataset, *, batch_size: int = 125) -> Answers:
    """Ask a network all test images, in eval mode, on the device where both are.

    No randomness is consumed, and the module is back in the mode it was in afterwards.

    Raises:
        InputError: the output has another shape than (B, 10).
    """
    images, labels = dataset.test_images, dataset.test_labels
    losses, outputs = [], []
    was_training = module.training
    module.eval()
    with preserved_randomness(images.device), torch.no_grad():
        for batch, right in zip(torch.split(images, batch_size), torch.split(labels, batch_size), strict=True):
            output = forward(module, dataset.normalise(batch))
            losses.append(functional.cross_entropy(output, right, reduction="sum"))
            outputs.append(output)
    module.train(was_training)
    output = torch.cat(outputs)
    return Answers(
        labels=labels.cpu(),
        answers=_answers(output).cpu(),
        probabilities=output.float().softmax(dim=1).cpu(),
        loss=torch.stack(losses).cpu().double().sum().item() / len(images),
    )


def evaluate(module: nn.Module, dataset: Dataset) -> Evaluation:
    """Test a network on all test images, as `answer` does.

    Raises:
        InputError: the output has another shape than (B, 10).
    """
    return answer(module, dataset).evaluation()


def forward(network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """The network's output, (B, 10).

    Raises:
        InputError: it has another shape.
    """
    output: object = network(images)
    if not isinstance(output, Tensor) or output.shape != (len(images), CLASSES):
        found = f"shape={tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        msg = f"expected the network to give shape=({len(images)}, {CLASSES}) for {len(images)} images, got {found}."
        raise InputError(msg)
    return output


def count_correct(output: Tensor, labels: Tensor) -> Tensor:
    """Right answers, still on the device."""
    return (_answers(output) == labels).sum()


def _answers(output: Tensor) -> Tensor:
    highest, answers = output.max(dim=1)
    # A NaN wins every maximum, and its class could be the right one.
    return torch.where(highest.isnan(), _NO_ANSWER, answers)
