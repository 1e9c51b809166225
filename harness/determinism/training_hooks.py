"""A user's own loader and evaluation in place of the harness's: a Python file that the worker processes import.

The file may define ``batches(seed, epoch)``, which yields pairs of images (B, 1, 28, 28) float and labels (B,), and
``evaluate(module, images, labels)``, which returns the number of correct predictions.
"""

from __future__ import annotations

import importlib.util
import math
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.data import Dataset
from harness.errors import InputError
from harness.training import Batch, Evaluation, RandomStreams, Recipe, TrainingHooks, evaluate, shuffled_batches

_IMAGE = (1, 28, 28)


def load_training_hooks(path: Path) -> TrainingHooks:
    """Import a file and return the hooks that it defines; the others are the harness's own.

    Raises:
        InputError: the file cannot be imported, or defines neither ``batches`` nor ``evaluate``. From the hooks: the loader
            yields fewer batches than an epoch has, or one of the two returns something else than batches or a count.
    """
    module_name = f"procedure_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        msg = f"expected a Python file, got procedure={str(path)!r}. Name a file that ends in .py."
        raise InputError(msg)
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    sys.path.append(str(path.parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        where = f" in line {lines[-1]}" if lines else ""
        msg = f"importing procedure={str(path)!r} failed{where}: {type(error).__name__}: {error}. Correct the file."
        raise InputError(msg) from error
    finally:
        sys.path.remove(str(path.parent))
    own_batches, own_evaluate = getattr(module, "batches", None), getattr(module, "evaluate", None)
    if not (callable(own_batches) or callable(own_evaluate)):
        msg = (
            f"expected batches(seed, epoch) or evaluate(module, images, labels) in procedure={str(path)!r}, which "
            "defines neither. Define one of them, or omit --procedure."
        )
        raise InputError(msg)
    return TrainingHooks(
        batches=_batches_of(own_batches, path) if callable(own_batches) else shuffled_batches,
        evaluate=_evaluate_of(own_evaluate, path) if callable(own_evaluate) else evaluate,
    )


def _batches_of(
    batches: Callable[[int, int], Iterable[Any]], path: Path
) -> Callable[[Dataset, Recipe, RandomStreams, int], Iterator[Batch]]:
    def adapted(data: Dataset, recipe: Recipe, streams: RandomStreams, epoch: int) -> Iterator[Batch]:
        needed = math.ceil(len(data.train_images) / recipe.batch_size)
        count = 0
        for item in islice(batches(streams.seed, epoch), needed):
            count += 1
            images, labels = _checked(item, f"batch {count} of batches(seed={streams.seed}, epoch={epoch}) in {path}")
            device = data.train_images.device
            yield Batch(images=images.to(device, torch.float32), labels=labels.to(device, torch.int64))
        if count < needed:
            msg = (
                f"expected at least {needed} batches of batches(seed={streams.seed}, epoch={epoch}) in {path}, got "
                f"{count}. Yield more, or ask for fewer --steps."
            )
            raise InputError(msg)

    return adapted


def _checked(item: object, what: str) -> tuple[Tensor, Tensor]:
    match item:
        case (Tensor() as images, Tensor() as labels):
            found = f"{images.dtype} of shape {tuple(images.shape)}, {labels.dtype} of shape {tuple(labels.shape)}"
            whole = not labels.is_floating_point()
            if images.is_floating_point() and whole and images.shape == (len(labels), *_IMAGE) and labels.ndim == 1:
                return images, labels
        case _:
            found = f"a {type(item).__name__}"
    msg = (
        f"expected {what} to be a pair of tensors, images of floats (B, 1, 28, 28) and labels of integers (B,), got "
        f"{found}."
    )
    raise InputError(msg)


def _evaluate_of(
    own: Callable[[nn.Module, Tensor, Tensor], Any], path: Path
) -> Callable[[nn.Module, Dataset], Evaluation]:
    def adapted(module: nn.Module, data: Dataset) -> Evaluation:
        total = len(data.test_images)
        found = own(module, data.normalise(data.test_images), data.test_labels)
        try:
            correct = int(found)
        except (TypeError, ValueError):
            correct = -1
        if not 0 <= correct <= total:
            msg = (
                f"expected evaluate(module, images, labels) in {path} to return the number of correct predictions, from 0 to "
                f"{total}, got {found!r}."
            )
            raise InputError(msg)
        # Only a schedule that depends on the loss uses this value.
        return Evaluation(loss=1 - correct / total, correct=correct, total=total)

    return adapted
