"""Importing and re-importing the user's files, as opposed to libraries, in a worker process.

One file defines the model. A second file, if there is one, replaces the harness's loader or evaluation. The second file
may define ``batches(seed, epoch)``, which yields pairs of images (B, 1, 28, 28) float and labels (B,), and
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
from harness.determinism.model_under_test import ImportedModel
from harness.errors import HarnessError, InputError
from harness.sources.building import module_builder
from harness.sources.importing import is_user_file, line_of
from harness.sources.source import ModelSource
from harness.training import Batch, Evaluation, RandomStreams, Recipe, TrainingHooks, evaluate, shuffled_batches

_HARNESS_FOLDER = Path(__file__).parents[1]
_IMAGE = (1, 28, 28)


class UserFiles:
    """The file of a model, with the constructor arguments, and the file of the training hooks, if there is one."""

    def __init__(self, source: ModelSource, arguments: str, hooks_file: Path | None) -> None:
        self._source = source
        self._arguments = arguments
        self._hooks_file = hooks_file
        self._path = [*sys.path]
        self._before = set(sys.modules)

    def load(self) -> ImportedModel:
        """Import the files anew at each call; raise an `InputError` if one of them cannot be imported."""
        self.forget()
        build = module_builder(self._source, self._arguments)
        hooks = load_training_hooks(self._hooks_file) if self._hooks_file else TrainingHooks()
        return ImportedModel(build=build, hooks=hooks)

    def forget(self) -> None:
        """Remove the user's modules from this process, so that the next import runs them again."""
        sys.path[:] = self._path
        for name in set(sys.modules) - self._before:
            if is_user_file(getattr(sys.modules[name], "__file__", None)):
                del sys.modules[name]


def explained_error(error: Exception, text: str) -> Exception:
    """Convert an exception that ended a training into the error to report; ``text`` names the model.

    A `HarnessError`, or any exception raised in a harness module, is returned unchanged. Any other exception is
    attributed to the user's code and becomes an `InputError` with the line of the user's file.
    """
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, HarnessError) or Path(frames[-1].filename).is_relative_to(_HARNESS_FOLDER):
        return error
    lines = [f"line {frame.lineno} of {Path(frame.filename).name}" for frame in frames if is_user_file(frame.filename)]
    where = f" in {lines[-1]}" if lines else ""
    return InputError(
        f"{text} failed{where} during a training: {type(error).__name__}: {error}. Expected a model that completes "
        "all steps. Correct the code and try again."
    )


def load_training_hooks(path: Path) -> TrainingHooks:
    """Import a file and return the training hooks that it defines; the harness's own hooks replace missing ones.

    Raises:
        InputError: the file cannot be imported, or defines neither ``batches`` nor ``evaluate``. The returned hooks raise an
            `InputError` if the loader yields fewer batches than an epoch has, or a batch or the count is invalid.
    """
    module_name = f"procedure_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"expected a Python file, got procedure={str(path)!r}. Name a file that ends in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    sys.path.append(str(path.parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        failed = f"importing procedure={str(path)!r} failed{line_of(error, path)}"
        raise InputError(f"{failed}: {type(error).__name__}: {error}. Correct the file.") from error
    finally:
        sys.path.remove(str(path.parent))
    own_batches, own_evaluate = getattr(module, "batches", None), getattr(module, "evaluate", None)
    if not (callable(own_batches) or callable(own_evaluate)):
        raise InputError(
            f"expected batches(seed, epoch) or evaluate(module, images, labels) in procedure={str(path)!r}, which "
            "defines neither. Define one of them, or omit --procedure."
        )
    return TrainingHooks(
        batches=_batches_of(own_batches, path) if callable(own_batches) else shuffled_batches,
        evaluate=_evaluate_of(own_evaluate, path) if callable(own_evaluate) else evaluate,
    )


def _batches_of(
    batches: Callable[[int, int], Iterable[Any]], path: Path
) -> Callable[[Dataset, Recipe, RandomStreams, int], Iterator[Batch]]:
    def adapted(data: Dataset, recipe: Recipe, streams: RandomStreams, epoch: int) -> Iterator[Batch]:
        needed, device = math.ceil(len(data.train_images) / recipe.batch_size), data.train_images.device
        call, count = f"batches(seed={streams.seed}, epoch={epoch}) in {path}", 0
        for item in islice(batches(streams.seed, epoch), needed):
            count += 1
            images, labels = _checked(item, f"batch {count} of {call}")
            yield Batch(images=images.to(device, torch.float32), labels=labels.to(device, torch.int64))
        if count < needed:
            raise InputError(
                f"expected at least {needed} batches of {call}, got {count}. Yield more batches, or set fewer --steps."
            )

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
    raise InputError(
        f"expected {what} to be a pair of tensors, images of floats (B, 1, 28, 28) and labels of integers (B,), got "
        f"{found}."
    )


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
            raise InputError(
                f"expected evaluate(module, images, labels) in {path} to return the number of correct predictions, from 0 to "
                f"{total}, got {found!r}."
            )
        # The loss is used only by a schedule that depends on it.
        return Evaluation(loss=1 - correct / total, correct=correct, total=total)

    return adapted
