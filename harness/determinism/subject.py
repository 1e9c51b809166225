"""What the audit trains again and again: a model, in the process that imported it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from harness.data import Dataset
from harness.reproducibility.trace import Trace, TraceCompleteError, Tracer
from harness.training import (
    DIGEST_EVERY,
    Observer,
    Recipe,
    RunSpec,
    Step,
    StepCallback,
    TrainingHooks,
    initialise,
    train,
)


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What came of importing a model's file and the procedure's.

    Args:
        build: the module, drawn under a seed.
        procedure: batches and evaluation.
    """

    build: Callable[[int], nn.Module]
    procedure: TrainingHooks


class Subject:
    """A model and everything that its training is made of, in the process that imported it.

    Args:
        load: imports the model and the procedure, each time anew.
        recipe: how it is trained, with the epochs of the audit.
        data: what on, cut for the audit.
        seed: the declared seed.
        device: where.
        alive: called before each step, so that whoever waits knows that something happens.
    """

    def __init__(
        self,
        load: Callable[[], Imported],
        *,
        recipe: Recipe,
        data: Dataset,
        seed: int,
        device: torch.device,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        self._load = load
        self._alive = alive
        self.recipe = recipe
        self.data = data.to(device)
        self.seed = seed
        self.device = device
        self.steps = recipe.epochs * -(-len(data.train_images) // recipe.batch_size)
        self.imported = load()

    @property
    def procedure(self) -> TrainingHooks:
        """Batches and evaluation."""
        return self.imported.procedure

    def renew(self) -> None:
        """Import the files anew: their globals and class attributes are as at the beginning."""
        self.imported = self._load()

    def module(self, seed: int | None = None) -> nn.Module:
        """The module with its initial weights."""
        seed = self.seed if seed is None else seed
        return initialise(lambda: self.imported.build(seed), seed=seed)

    def trace(
        self,
        module: nn.Module | None = None,
        *,
        tracer: Tracer | None = None,
        seed: int | None = None,
        upto: int | None = None,
        watchers: Sequence[StepCallback] = (),
        observer: Observer | None = None,
        folder: Path | None = None,
    ) -> Trace:
        """Train once and keep what the steps saw and made.

        Args:
            module: what to train; the module with its initial weights without.
            tracer: what keeps it; a new one without.
            seed: of weights and streams; the declared one without.
            upto: the last step.
            watchers: who else looks at the steps; each comes after the tracer.
            observer: who is told of the epochs.
            folder: where checkpoints are.

        Returns:
            The steps; fewer than `steps` where a loss was no finite number.
        """
        tracer = tracer or Tracer(self.device)
        with suppress(TraceCompleteError):
            train(
                self.module(seed) if module is None else module,
                RunSpec(
                    model="audited",
                    source="",
                    arguments="",
                    graph_digest="",
                    recipe=self.recipe,
                    seed=self.seed if seed is None else seed,
                    engine="eager",
                    device=str(self.device),
                    digest_every=DIGEST_EVERY,
                ),
                self.data,
                observer=observer,
                checkpoint_dir=folder,
                hooks=replace(self.procedure, callbacks=(tracer, *watchers, _EndAfter(self._alive, upto))),
            )
        return tracer.trace


class _EndAfter:
    """Reports before each step that the training is alive; ends the training after step ``upto``."""

    def __init__(self, alive: Callable[[], None], upto: int | None) -> None:
        self._alive = alive
        self._upto = upto

    def before_step(self, _: Step) -> None:
        self._alive()

    def after_step(self, step: Step) -> None:
        if step.number == self._upto:
            raise TraceCompleteError
