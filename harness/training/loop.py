"""The training loop, which trains a module as a run spec declares and returns a run record."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Generator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler

from harness.data import Dataset
from harness.errors import InputError, RecipeError
from harness.training.checkpoint import Checkpoints
from harness.training.digests import DigestChain, StepDigests, state_digest
from harness.training.engines import Compute, Engine, choose_engine
from harness.training.machine import BIT_RELEVANT, Environment, environment
from harness.training.observer import NullObserver, Observer
from harness.training.randomness import RandomStreams, preserved_randomness, require_plain_arithmetic
from harness.training.recipe import build_optimizer, build_schedule
from harness.training.record import EpochResult, RunRecord
from harness.training.run_spec import RunSpec
from harness.training.step_graphs import Branch
from harness.training.steps import Batch, Step, TrainingHooks

_SECONDS_BETWEEN_REPORTS = 0.1

# Yields the batch of each step and receives the step's loss and number of correct predictions.
Steps = Generator[Batch, tuple[Tensor, Tensor], None]


class TrainingInterrupted(KeyboardInterrupt):
    """Raised if a KeyboardInterrupt stops a run; ``record`` holds the completed epochs.

    A run with checkpoints can be resumed.
    """

    def __init__(self, record: RunRecord) -> None:
        super().__init__(f"interrupted after {len(record.epochs)} of {record.recipe.epochs} epochs")
        self.record = record


class DivergedError(Exception):
    """Raised inside the training loop if the loss is infinite or NaN; `train` then returns a record with status ``diverged``."""


def train(
    module: nn.Module,
    spec: RunSpec,
    data: Dataset,
    *,
    engine: Engine | None = None,
    checkpoint_dir: Path | None = None,
    resume: bool = True,
    observer: Observer | None = None,
    hooks: TrainingHooks | None = None,
) -> RunRecord:
    """Train a model and test it after each epoch.

    Args:
        module: maps images (B, 1, 28, 28) to logits or log-probabilities (B, 10). The module is trained in place,
            starting from its current weights (see `initialise`), and stays on the device of the run.
        spec: the declaration of the run.
        data: the data set to train and test on.
        engine: the engine named in ``spec``, if `choose_engine` has already verified it for this module.
        checkpoint_dir: folder for the checkpoints of this run alone, one after each epoch; None writes no checkpoints.
        resume: whether to continue from the newest checkpoint in ``checkpoint_dir``; the results are bit-equal to those
            of an uninterrupted run. False deletes existing checkpoints.
        observer: the object whose methods are called as the run proceeds.
        hooks: replacements of the batches or the evaluation, and callbacks around each step.

    Returns:
        The record, with the status ``complete`` or ``diverged``. The global random state of PyTorch is restored.

    Raises:
        TrainingInterrupted: a KeyboardInterrupt came after the start. The exception's record holds the completed epochs;
            with ``checkpoint_dir``, the last of them has a checkpoint.
        InputError: the output's shape is not (B, 10), the model has no trainable parameters, the seed is out of range, a
            checkpoint cannot be written, the engine does not exist or cannot train this model, another
            thread is training, or PyTorch's defaults are changed, such as by `torch.autocast`.
        RecipeError: the batch size leaves a single image in the last batch for a model with batch norm, or the schedule
            cannot be used with this number of steps.
        CheckpointError: ``checkpoint_dir`` holds a checkpoint of another run.
    """
    device = torch.device(spec.device)
    with preserved_randomness(device):
        run = Run(module, spec, data, engine or choose_engine(spec.engine, module, device)[0], observer, hooks)
        try:
            _drive(run.steps(run.checkpoints(checkpoint_dir, resume=resume)), run.compute())
            return run.record("complete")
        except DivergedError:
            return run.record("diverged")
        except KeyboardInterrupt as stop:
            if not run.has_started:
                raise
            raise TrainingInterrupted(run.record_so_far()) from stop


def _drive(steps: Steps, compute: Compute) -> None:
    """Compute all steps of one run."""
    batch = next(steps, None)
    while batch:
        done = compute(batch.images, batch.labels)
        try:
            batch = steps.send(done)
        except StopIteration:
            return


class Run:
    """A run in progress: the state of the training and the results of the epochs so far.

    The arguments are those of `train`; ``engine`` must have been verified for the module.
    """

    def __init__(
        self,
        module: nn.Module,
        spec: RunSpec,
        data: Dataset,
        engine: Engine,
        observer: Observer | None = None,
        hooks: TrainingHooks | None = None,
    ) -> None:
        require_plain_arithmetic()
        if not torch.is_grad_enabled():
            raise InputError("expected a training with gradients, got torch.no_grad or torch.inference_mode around it.")
        _check_last_batch(module, spec, images=len(data.train_images))
        self.spec = spec
        self.engine = engine
        self.epochs: list[EpochResult] = []
        # Whether a checkpoint, if there is one, has been restored.
        self.has_started = False
        self._device = torch.device(spec.device)
        self._module = module.to(self._device)
        self._data = data.to(self._device)
        self._observer = observer or NullObserver()
        self._hooks = hooks or TrainingHooks()
        self._streams = RandomStreams(spec.seed, self._device, own_dropout=engine.has_own_random_generator)
        self._steps_per_epoch = math.ceil(len(data.train_images) / spec.recipe.batch_size)
        self._optimizer = build_optimizer(spec.recipe.optimizer, module)
        self._scheduler = spec.recipe.schedule and build_schedule(
            spec.recipe.schedule, self._optimizer, epochs=spec.recipe.epochs, steps=self._steps_per_epoch
        )
        self._chain = DigestChain(self._device)
        self._digests = [self._chain.after(0, self._module, self._optimizer)]
        self._state_digest = state_digest(module.state_dict())
        self._environment = environment(self._device)
        self._started = datetime.now(UTC).isoformat(timespec="seconds")
        self._began = time.monotonic()

    def steps(self, checkpoints: Checkpoints | None) -> Steps:
        """Yield the batch of each remaining step and receive the step's loss and number of correct predictions.

        The steps begin after the newest usable checkpoint, if there is one.
        """
        if checkpoints:
            initial = copy.deepcopy(self._state())
            if not checkpoints.restore(self._restore, warn=self._observer.on_warning):
                self._restore(initial)
        self.has_started = True
        self._observer.on_start(spec=self.spec, steps=self._steps_per_epoch, done=tuple(self.epochs))
        while len(self.epochs) < self.spec.recipe.epochs:
            result = yield from self._next_epoch()
            if checkpoints:
                checkpoints.save(result.epoch, self._state())
            self._observer.on_epoch(result)

    def compute(self) -> Compute:
        """Return the function that computes one step of this run."""
        return self.engine.prepare(self._module, self._optimizer, self._streams.dropout)

    def branch(self) -> Branch:
        """Describe this run as one branch of a group of runs, whose steps are computed at once."""
        # An engine that gives runs no generator of their own computes no groups either: `Engine.group` raises an error.
        generator = self._streams.dropout or torch.Generator(self._device)
        return self.engine.branch(self._module, self._optimizer, generator)

    def checkpoints(self, folder: Path | None, *, resume: bool) -> Checkpoints | None:
        """Return the checkpoints of this run in ``folder``, or None if ``folder`` is None.

        Without ``resume``, existing checkpoints in the folder are deleted.
        """
        if folder is None:
            return None
        # A checkpoint can be used only by a run with the same values, since the record of a run names one environment.
        identity = {
            "model": self.spec.model,
            "graph_digest": self.spec.graph_digest,
            "initial_state_digest": self._state_digest,
            "recipe": self.spec.recipe.to_mapping(),
            "seed": self.spec.seed,
            "engine": self.spec.engine,
            "digest_every": self.spec.digest_every,
            "data_digest": self._data.digest,
            # Random states of one kind of device cannot be restored on another.
            "device": self._device.type,
            **{name: getattr(self._environment, name) for name in (*BIT_RELEVANT, "processor")},
        }
        checkpoints = Checkpoints(folder, run=identity)
        if not resume:
            checkpoints.clear()
        return checkpoints

    def record(self, status: Literal["complete", "interrupted", "diverged"]) -> RunRecord:
        """Return the record of the run so far, with the given status."""
        completed = len(self.epochs) * self._steps_per_epoch
        return RunRecord(
            **self.spec.declared(),
            data_name=self._data.name,
            data_title=self._data.title,
            data_digest=self._data.digest,
            validation=self._data.validation,
            status=status,
            epochs=tuple(self.epochs),
            state_digest=self._state_digest,
            # The digests of an unfinished epoch are left out, except those of a diverged run, whose last steps matter most.
            digests=tuple(digests for digests in self._digests if status == "diverged" or digests.step <= completed),
            environment=self._environment,
            started=self._started,
            wall_seconds=round(self._wall_seconds(), 3),
        )

    def record_so_far(self) -> RunRecord:
        """Return the record of a run that was interrupted."""
        # The run is complete if only the last checkpoint or the last call of the observer was interrupted.
        return self.record("complete" if len(self.epochs) == self.spec.recipe.epochs else "interrupted")

    def _wall_seconds(self) -> float:
        """Return the wall time of the run so far in seconds, including the time up to the checkpoint that was resumed."""
        return time.monotonic() - self._began

    def _state(self) -> dict[str, Any]:
        """Return all state that the remaining steps and the record depend on, as plain data and tensors."""
        return {
            "module": self._module.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scheduler": self._scheduler and self._scheduler.state_dict(),
            "streams": self._streams.state(),
            "chain": self._chain.state(),
            "digests": [asdict(digests) for digests in self._digests],
            "epochs": [asdict(result) for result in self.epochs],
            "environment": asdict(self._environment),
            "started": self._started,
            "seconds": self._wall_seconds(),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        """Set the run to a state that `_state` returned."""
        self._module.load_state_dict(state["module"])
        self._optimizer.load_state_dict(state["optimizer"])
        if self._scheduler:
            self._scheduler.load_state_dict(state["scheduler"])
        self._streams.restore(state["streams"])
        self._chain.restore(state["chain"])
        self._digests = [StepDigests(**digests) for digests in state["digests"]]
        self.epochs = [EpochResult(**result) for result in state["epochs"]]
        self._state_digest = state_digest(self._module.state_dict())
        self._environment = Environment(**state["environment"])
        self._started = state["started"]
        self._began -= state["seconds"]

    def _next_epoch(self) -> Generator[Batch, tuple[Tensor, Tensor], EpochResult]:
        """Train for one epoch, evaluate the model and return the results; a generator of the same kind as `steps`."""
        began = time.monotonic()
        lr, totals = yield from self._train_epoch()
        tested = self._hooks.evaluate(self._module, self._data)
        if not math.isfinite(tested.loss):
            raise DivergedError
        if isinstance(self._scheduler, lr_scheduler.ReduceLROnPlateau):
            self._scheduler.step(tested.loss)
        elif self._scheduler and not self._scheduled_per_step():
            self._scheduler.step()
        result = EpochResult(
            epoch=len(self.epochs) + 1,
            lr=lr,
            train_loss=totals.loss,
            train_correct=totals.correct,
            train_total=totals.seen,
            test_loss=tested.loss,
            test_correct=tested.correct,
            test_total=tested.total,
            seconds=round(time.monotonic() - began, 3),
        )
        self._state_digest = state_digest(self._module.state_dict())
        self.epochs.append(result)
        return result

    def _scheduled_per_step(self) -> bool:
        schedule = self.spec.recipe.schedule
        return schedule is not None and schedule.interval == "step"

    def _train_epoch(self) -> Generator[Batch, tuple[Tensor, Tensor], tuple[float, _EpochTotals]]:
        """Train on all training images once. Returns the learning rate of the last step and the totals of the epoch."""
        group = self._optimizer.param_groups[0]
        totals, reported = _EpochTotals(), time.monotonic()
        before = len(self.epochs) * self._steps_per_epoch
        batches = self._hooks.batches(self._data, self.spec.recipe, self._streams, len(self.epochs) + 1)
        self._module.train()
        for number, batch in enumerate(batches, start=1):
            last = number == self._steps_per_epoch
            step = Step(number=before + number, batch=batch, module=self._module, optimizer=self._optimizer)
            with self._streams.before_step():
                for callback in self._hooks.callbacks:
                    callback.before_step(step)
                self._chain.add(batch, self._optimizer)
            loss, correct = yield batch
            lr = float(group["lr"])
            if self._scheduler and self._scheduled_per_step():
                self._scheduler.step()
            totals.add(loss, correct, len(batch.labels))
            is_digested = last or step.number % self.spec.digest_every == 0
            if is_digested:
                self._digests.append(self._chain.after(step.number, self._module, self._optimizer))
            for callback in self._hooks.callbacks:
                callback.after_step(step)
            # Reading a value makes the host wait for the device, so results are read ten times a second, not at each step.
            is_reported = last or time.monotonic() - reported > _SECONDS_BETWEEN_REPORTS
            if is_digested or is_reported:
                totals.settle()
            # Only here, so that the time does not decide which digests a diverged run has.
            if is_digested and totals.diverged:
                raise DivergedError
            if is_reported and not totals.diverged:
                reported = time.monotonic()
                self._observer.on_step(
                    epoch=len(self.epochs) + 1,
                    step=number,
                    steps=self._steps_per_epoch,
                    loss=totals.loss,
                    correct=totals.correct,
                    seen=totals.seen,
                )
        return lr, totals


class _EpochTotals:
    """Sums of loss and correct predictions in an epoch so far; the results of steps stay on the device until `settle`."""

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._corrects: list[Tensor] = []
        self._sizes: list[int] = []
        self._loss_sum = 0.0
        self.diverged = False
        self.correct = 0
        self.seen = 0

    @property
    def loss(self) -> float:
        """Mean loss per image, over all steps that `settle` has added."""
        return self._loss_sum / self.seen

    def add(self, loss: Tensor, correct: Tensor, size: int) -> None:
        self._losses.append(loss)
        self._corrects.append(correct)
        self._sizes.append(size)

    def settle(self) -> None:
        """Add the results of the steps since the last call to the sums.

        The results are added in the order of the steps, so that the sums do not depend on when this method is called.
        """
        for loss, size in zip(torch.stack(self._losses).tolist(), self._sizes, strict=True):
            self.diverged |= not math.isfinite(loss)
            self._loss_sum += loss * size
        self.correct += int(torch.stack(self._corrects).sum())
        self.seen += sum(self._sizes)
        self._losses, self._corrects, self._sizes = [], [], []


def _check_last_batch(module: nn.Module, spec: RunSpec, *, images: int) -> None:
    recipe = spec.recipe
    left_over = images % recipe.batch_size or recipe.batch_size
    has_batch_norm = any(name.endswith("running_var") for name in module.state_dict())
    if left_over == 1 and has_batch_norm:
        raise RecipeError(
            f"recipe {recipe.name}: expected a batch size that leaves more than one image in the last batch, since "
            f"batch norm needs several images in train mode, got batch_size={recipe.batch_size} for {images} images. "
            "Use another batch size."
        )
