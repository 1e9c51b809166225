"""The model that the determinism check trains repeatedly, in the process that imported the model's file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from harness.data import Dataset
from harness.reproducibility.trace import Trace, TraceCompleteError, Tracer
from harness.training import Observer, RunSpec, Step, StepCallback, TrainingHooks, initialise, train


@dataclass(frozen=True, kw_only=True)
class ImportedModel:
    """The content of a model's imported files: ``build`` creates the module from a seed, ``hooks`` are the training hooks."""

    build: Callable[[int], nn.Module]
    hooks: TrainingHooks


class ModelUnderTest:
    """A model with the spec and the data of the trainings that the determinism check performs.

    ``load`` imports the model and the hooks anew at each call. ``spec`` has the number of epochs of the check.
    ``keep_alive`` is called before each step, to show the parent process that the training advances.
    """

    def __init__(
        self,
        load: Callable[[], ImportedModel],
        *,
        spec: RunSpec,
        data: Dataset,
        keep_alive: Callable[[], None] = lambda: None,
    ) -> None:
        self._load = load
        self._keep_alive = keep_alive
        self.spec = spec
        self.device = torch.device(spec.device)
        self.data = data.to(self.device)
        self.steps = spec.recipe.epochs * -(-len(data.train_images) // spec.recipe.batch_size)
        self.imported = load()

    @property
    def hooks(self) -> TrainingHooks:
        """The training hooks of the imported files: data loader and evaluation."""
        return self.imported.hooks

    def reimport(self) -> None:
        """Import the user's files again, which resets the globals and class attributes of these files."""
        self.imported = self._load()

    def module(self, seed: int | None = None) -> nn.Module:
        """Build the module with initial weights drawn under ``seed``; by default, under the seed of the run."""
        seed = self.spec.seed if seed is None else seed
        return initialise(lambda: self.imported.build(seed), seed=seed)

    def trace(
        self,
        module: nn.Module | None = None,
        *,
        tracer: Tracer | None = None,
        seed: int | None = None,
        upto: int | None = None,
        callbacks: Sequence[StepCallback] = (),
        observer: Observer | None = None,
        folder: Path | None = None,
    ) -> Trace:
        """Train once and return the trace: the inputs and results of each step.

        By default, a newly built module is trained under the seed of the run to the last step. ``callbacks`` are called
        after the tracer; ``upto`` is the number of the last step; checkpoints are written to ``folder``. The trace has
        fewer than `steps` steps if the loss becomes infinite or NaN.
        """
        tracer = tracer or Tracer(self.device)
        module = self.module(seed) if module is None else module
        spec = self.spec if seed is None else replace(self.spec, seed=seed)
        hooks = replace(self.hooks, callbacks=(tracer, *callbacks, _EndAfter(self._keep_alive, upto)))
        with suppress(TraceCompleteError):
            train(module, spec, self.data, observer=observer, checkpoint_dir=folder, hooks=hooks)
        return tracer.trace


class _EndAfter:
    """A callback that calls ``keep_alive`` before each step and ends the training after step ``upto``."""

    def __init__(self, keep_alive: Callable[[], None], upto: int | None) -> None:
        self._keep_alive = keep_alive
        self._upto = upto

    def before_step(self, _: Step) -> None:
        self._keep_alive()

    def after_step(self, step: Step) -> None:
        if step.number == self._upto:
            raise TraceCompleteError
