"""Predicting the test images with a model, and counting correct predictions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.data import Dataset
from harness.errors import InputError
from harness.training.randomness import preserved_randomness, require_plain_arithmetic

CLASSES = 10
_NO_PREDICTION = -1


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The result of evaluating a model: mean cross entropy, number of correct predictions and number of images."""

    loss: float
    correct: int
    total: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """The predictions of a model for the test images, as tensors on the CPU, and their mean cross entropy.

    ``labels``: (N,) int64, the true classes. ``classes``: (N,) int64, the class with the highest output; -1 where an
    output is NaN, which is never correct. ``probabilities``: (N, 10) float32, softmax of the outputs.
    """

    labels: Tensor
    classes: Tensor
    probabilities: Tensor
    loss: float

    @property
    def correct(self) -> Tensor:
        """Whether each prediction is correct, (N,) bool."""
        return self.classes == self.labels

    @property
    def misclassified(self) -> list[int]:
        """The indices of the test images whose predicted class is wrong, in rising order."""
        return torch.nonzero(~self.correct).flatten().tolist()

    def evaluation(self) -> Evaluation:
        """Summarise the predictions: mean cross entropy, number of correct predictions and number of images."""
        return Evaluation(loss=self.loss, correct=int(self.correct.sum()), total=len(self.labels))

    def confusion(self) -> list[list[int]]:
        """Count the images of each true class (rows) for each predicted class (columns).

        Images with a NaN in the output are not counted.
        """
        valid = self.classes != _NO_PREDICTION
        pairs = CLASSES * self.labels[valid] + self.classes[valid]
        table: list[list[int]] = torch.bincount(pairs, minlength=CLASSES**2).reshape(CLASSES, CLASSES).tolist()
        return table


def predict(module: nn.Module, dataset: Dataset, *, batch_size: int = 125) -> Predictions:
    """Predict all test images in eval mode, on the device of the module and the data.

    Afterwards, the global random state of PyTorch and the module's train or eval mode are as before.

    Raises:
        InputError: the output's shape is not (B, 10), another thread is training, or PyTorch's defaults are changed, such as
            by `torch.autocast`.
    """
    require_plain_arithmetic()
    images, labels = dataset.test_images, dataset.test_labels
    losses, outputs = [], []
    was_training = module.training
    module.eval()
    with preserved_randomness(images.device), torch.no_grad():
        for batch, targets in zip(torch.split(images, batch_size), torch.split(labels, batch_size), strict=True):
            output = forward(module, dataset.normalise(batch))
            losses.append(functional.cross_entropy(output, targets, reduction="sum"))
            outputs.append(output)
    module.train(was_training)
    output = torch.cat(outputs)
    return Predictions(
        labels=labels.cpu(),
        classes=_classes(output).cpu(),
        probabilities=output.float().softmax(dim=1).cpu(),
        loss=torch.stack(losses).cpu().double().sum().item() / len(images),
    )


def evaluate(module: nn.Module, dataset: Dataset) -> Evaluation:
    """Predict all test images and return mean loss and number of correct predictions.

    The errors are those of `predict`.
    """
    return predict(module, dataset).evaluation()


def forward(network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Compute the output of a network for B images and check that the output has shape (B, 10).

    Raises:
        InputError: the output has another shape or is not a tensor.
    """
    output: object = network(images)
    if not isinstance(output, Tensor) or output.shape != (len(images), CLASSES):
        found = f"shape={tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        msg = f"expected the model's output to have shape=({len(images)}, {CLASSES}) for {len(images)} images, got {found}. "
        msg += "Return one number for each of the 10 classes."
        raise InputError(msg)
    return output


def count_correct(output: Tensor, labels: Tensor) -> Tensor:
    """Count the outputs that predict their label; return a scalar tensor on the device of the outputs."""
    return (_classes(output) == labels).sum()


def _classes(output: Tensor) -> Tensor:
    highest, classes = output.max(dim=1)
    # max() treats NaN as the largest value, and the class of the NaN could happen to be the correct one.
    return torch.where(highest.isnan(), _NO_PREDICTION, classes)
