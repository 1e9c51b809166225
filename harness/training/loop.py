"""The training loop: a network, a recipe, data and a seed in, a run record out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler

from harness.data import Dataset
from harness.errors import InputError, RecipeError
from harness.training.checkpoint import Checkpoints
from harness.training.cuda_graphs import Branch
from harness.training.digests import DigestChain, StepDigests, state_digest
from harness.training.engines import Compute, Engine, choose_engine
from harness.training.machine import environment
from harness.training.randomness import RandomStreams, preserved_randomness
from harness.training.recipe import Recipe, build_optimizer, build_schedule
from harness.training.record import EpochResult, RunRecord
from harness.training.steps import Batch, Procedure, Step, Watcher

DIGEST_EVERY = 100
_SECONDS_BETWEEN_LOOKS = 0.1

# A training gives the batch of each step and takes the step's loss and right answers.
Steps = Generator[Batch, tuple[Tensor, Tensor], None]


class Observer(Protocol):
    """Whoever wants to see a run as it goes. The calls come from the training loop, so they should be quick."""

    def on_start(self, *, recipe: Recipe, device: torch.device, steps: int, done: tuple[EpochResult, ...]) -> None:
        """The run begins: ``steps`` an epoch; ``done`` are the epochs that a checkpoint brought."""

    def on_step(self, *, epoch: int, step: int, steps: int, loss: float, correct: int, seen: int) -> None:
        """Some ten times a second and after an epoch's last step: the epoch's mean loss and right answers so far."""

    def on_epoch(self, result: EpochResult) -> None:
        """An epoch is whole, evaluated and, where there are checkpoints, on disk."""

    def on_warning(self, message: str) -> None:
        """Something the user should know that does not stop the run."""


class TrainingInterrupted(KeyboardInterrupt):
    """A run was stopped from outside; ``record`` holds its whole epochs. With checkpoints it can be resumed."""

    def __init__(self, record: RunRecord) -> None:
        super().__init__(f"interrupted after {len(record.epochs)} of {record.recipe.epochs} epochs")
        self.record = record


def train(  # noqa: PLR0913 - one thing each that a run is made of
    module: nn.Module,
    recipe: Recipe,
    dataset: Dataset,
    *,
    seed: int,
    device: torch.device,
    model_name: str,
    graph_digest: str,
    observer: Observer | None = None,
    checkpoint_dir: str | Path | None = None,
    resume: bool = True,
    engine: str | Engine = "eager",
    digest_every: int = DIGEST_EVERY,
    procedure: Procedure | None = None,
    watcher: Watcher | None = None,
    source: str = "",
    arguments: str = "",
) -> RunRecord:
    """Train a network and test it after each epoch.

    Args:
        module: (B, 1, 28, 28) float to (B, 10) logits or log-probabilities. It is trained in place, from the weights
            it has (see `initialise`), and left on ``device``.
        recipe: how to train.
        dataset: what to train and test on.
        seed: all randomness but the initial weights is derived from it. Torch's global state is as before afterwards.
        device: where to train.
        model_name: the network's name, for the record.
        graph_digest: digest of its captured graph, for the record and for telling checkpoints apart.
        observer: who is told how it goes.
        checkpoint_dir: where to put a checkpoint after each epoch; none are written without. The folder is this run's
            alone.
        resume: go on from a checkpoint found there, which gives the same bits as a run that was never stopped. False
            starts over and removes what is there.
        engine: how to compute the steps, by name or as `choose_engine` gave it for this network, which is then not tried
            again; ``auto`` takes the fastest in float32 that computes what the network says, and warns where that is not the
            one expected.
        digest_every: steps between two digests of the run's state in the record; each epoch's end has one in any case.
        procedure: batches and evaluation, where they are not the usual ones.
        watcher: who looks at every step from inside.
        source: what the user named the network by, for whoever replays the record.
        arguments: what it was built with, likewise.

    Returns:
        The record, ``complete`` or ``diverged``.

    Raises:
        TrainingInterrupted: a KeyboardInterrupt came; the last whole epoch is on disk and in the exception's record.
        InputError: the network's output has another shape, it has nothing to train, the seed is out of range, or a
            checkpoint cannot be written, the digests are asked for less than one step apart, or there is no such engine
            or it cannot train this network.
        RecipeError: the batch size leaves a single image over for a network with batch norm.
        CheckpointError: the folder holds the checkpoints of another run.
    """
    observer = observer or _Nobody()
    chosen, reason = choose_engine(engine, module, device) if isinstance(engine, str) else (engine, "")
    if reason:
        observer.on_warning(f"the engine {chosen.name} is used: {reason}")
    with preserved_randomness(device):
        run = _Run(
            module,
            recipe,
            dataset,
            seed=seed,
            device=device,
            model_name=model_name,
            graph_digest=graph_digest,
            observer=observer,
            engine=chosen,
            digest_every=digest_every,
            procedure=procedure or Procedure(),
            watcher=watcher or _Nobody(),
            source=source,
            arguments=arguments,
        )
        try:
            _drive(run.to_end(_checkpoints(run, checkpoint_dir, resume=resume)), run.compute())
            return run.record("complete")
        except _DivergedError:
            return run.record("diverged")
        except KeyboardInterrupt as stop:
            raise TrainingInterrupted(run.record_so_far()) from stop


@dataclass(frozen=True, kw_only=True, eq=False)
class Member:
    """One of the runs that are trained together; each field as for `train`."""

    module: nn.Module
    seed: int
    model_name: str
    graph_digest: str
    observer: Observer | None = None
    checkpoint_dir: str | Path | None = None


def train_group(  # noqa: PLR0913 - one thing each that the runs have in common
    members: Sequence[Member],
    recipe: Recipe,
    dataset: Dataset,
    *,
    device: torch.device,
    engine: str,
    on_end: Callable[[Member, RunRecord | Exception], None],
    resume: bool = True,
    digest_every: int = DIGEST_EVERY,
    source: str = "",
    arguments: str = "",
) -> None:
    """Train some runs of one recipe in step with one another, each with the bits that `train` gives it alone.

    A step of all of them is computed at once. One that ends, diverges or fails leaves the others as they are; those that a
    checkpoint brought farther end earlier.

    Args:
        members: the runs; their networks have one graph.
        recipe: how to train.
        dataset: what to train and test on.
        device: where to train.
        engine: one that computes many runs together.
        on_end: told of each run as soon as it ends: its record, ``complete`` or ``diverged``, or what it failed of, such as
            an engine that cannot train this network, or not many runs together.
        resume: go on from the checkpoints; False removes what there is of them.
        digest_every: steps between two digests in the records.
        source: what the user named the network by, for the records.
        arguments: what it was built with, likewise.

    Raises:
        KeyboardInterrupt: it came; ``on_end`` has been told the record so far of every run that had not ended.
    """
    data = dataset.to(device)
    pairs: list[_Pair] = []
    chosen: Engine | None = None
    with preserved_randomness(device):
        try:
            for member in members:
                try:
                    # The networks have one graph, so it is tried once.
                    chosen = chosen or choose_engine(engine, member.module, device)[0]
                    run = _Run(
                        member.module,
                        recipe,
                        data,
                        seed=member.seed,
                        device=device,
                        model_name=member.model_name,
                        graph_digest=member.graph_digest,
                        observer=member.observer or _Nobody(),
                        engine=chosen,
                        digest_every=digest_every,
                        procedure=Procedure(),
                        watcher=_Nobody(),
                        source=source,
                        arguments=arguments,
                    )
                    steps = run.to_end(_checkpoints(run, member.checkpoint_dir, resume=resume))
                except Exception as error:  # noqa: BLE001 - whatever it is, it costs this run only
                    on_end(member, error)
                else:
                    pairs.append(_Pair(member, run, steps, on_end))
            _drive_together([pair for pair in pairs if pair.go_on(None)])
        except KeyboardInterrupt:
            for pair in pairs:
                pair.end(pair.run.record_so_far())
            raise


class _Pair:
    """A run of a group and whoever waits for its end; ``batch`` is its next."""

    batch: Batch

    def __init__(
        self, member: Member, run: _Run, steps: Steps, on_end: Callable[[Member, RunRecord | Exception], None]
    ) -> None:
        self._member = member
        self.run = run
        self._steps = steps
        self._on_end = on_end
        self._ended = False

    def go_on(self, done: tuple[Tensor, Tensor] | None) -> bool:
        """Take what a step gave, None before the first; False if the run has ended by that."""
        try:
            self.batch = self._steps.send(done) if done else next(self._steps)
        except StopIteration:
            self.end(self.run.record("complete"))
        except _DivergedError:
            self.end(self.run.record("diverged"))
        except Exception as error:  # noqa: BLE001 - as above
            self.end(error)
        return not self._ended

    def end(self, result: RunRecord | Exception) -> None:
        """Tell how the run ended, if it had not before."""
        if not self._ended:
            self._ended = True
            self._on_end(self._member, result)


def _drive_together(going: list[_Pair]) -> None:
    """Compute the steps of some trainings. They have as many an epoch, so their batches are of one size in each round."""
    while going:
        together = going
        try:
            engine = going[0].run.engine
            compute = engine.together([pair.run.branch() for pair in together])
            while len(going) == len(together):
                done = compute([(pair.batch.images, pair.batch.labels) for pair in together])
                # A graph computes all its branches: one for fewer is made anew, since what has ended must not be changed.
                going = [pair for pair, its in zip(together, done, strict=True) if pair.go_on(its)]
        except torch.OutOfMemoryError as error:
            room = str(error).splitlines()[0]
            msg = f"expected memory for {len(together)} runs at a time, got too little: {room} Train fewer at a time (--jobs)."
            going = _failed(going, InputError(msg))
        except Exception as error:  # noqa: BLE001 - told as what each run failed of
            going = _failed(going, error)


def _failed(pairs: list[_Pair], error: Exception) -> list[_Pair]:
    """Tell that all of them failed of it; none is left."""
    for pair in pairs:
        pair.end(error)
    return []


def _checkpoints(run: _Run, folder: str | Path | None, *, resume: bool) -> Checkpoints | None:
    if folder is None:
        return None
    checkpoints = Checkpoints(Path(folder), run=run.identity())
    if not resume:
        checkpoints.clear()
    return checkpoints


def _drive(steps: Steps, compute: Compute) -> None:
    """Compute one training's steps."""
    batch = next(steps, None)
    while batch:
        done = compute(batch.images, batch.labels)
        try:
            batch = steps.send(done)
        except StopIteration:
            return


class _DivergedError(Exception):
    """A loss was no finite number."""


class _Nobody:
    def _look_away(self, *_: object, **__: object) -> None:
        pass

    on_start = on_step = on_epoch = on_warning = before_step = after_step = _look_away


class _Run:
    """A training under way: everything that changes from epoch to epoch, and the epochs so far."""

    def __init__(  # noqa: PLR0913 - what `train` was given
        self,
        module: nn.Module,
        recipe: Recipe,
        dataset: Dataset,
        *,
        seed: int,
        device: torch.device,
        model_name: str,
        graph_digest: str,
        observer: Observer,
        engine: Engine,
        digest_every: int,
        procedure: Procedure,
        watcher: Watcher,
        source: str,
        arguments: str,
    ) -> None:
        if digest_every < 1:
            msg = f"expected digests at least one step apart, got digest_every={digest_every}."
            raise InputError(msg)
        _check_last_batch(module, recipe, images=len(dataset.train_images))
        self._module = module.to(device)
        self._recipe = recipe
        self._data = dataset.to(device)
        self._seed = seed
        self._device = device
        self._model_name = model_name
        self._graph_digest = graph_digest
        self._observer = observer
        self._procedure = procedure
        self._watcher = watcher
        self._source = source
        self._arguments = arguments
        self._streams = RandomStreams(seed, device, own_dropout=engine.capturer is not None)
        self._steps = math.ceil(len(dataset.train_images) / recipe.batch_size)
        self._optimizer = build_optimizer(recipe.optimizer, module)
        self.engine = engine
        self._interval = recipe.schedule and recipe.schedule.interval
        self._scheduler = recipe.schedule and build_schedule(
            recipe.schedule, self._optimizer, epochs=recipe.epochs, steps=self._steps
        )
        self._digest_every = digest_every
        self._chain = DigestChain(device)
        self._digests = [self._chain.after(0, self._module, self._optimizer)]
        self.epochs: list[EpochResult] = []
        self._state_digest = state_digest(module.state_dict())
        self._started = datetime.now(UTC).isoformat(timespec="seconds")
        self._began = time.monotonic()

    def to_end(self, checkpoints: Checkpoints | None) -> Steps:
        """Go on from the newest checkpoint, if there is one, to the last declared epoch."""
        if checkpoints and (saved := checkpoints.load(warn=self._observer.on_warning)):
            self._restore(saved)
        self._observer.on_start(recipe=self._recipe, device=self._device, steps=self._steps, done=tuple(self.epochs))
        while len(self.epochs) < self._recipe.epochs:
            result = yield from self._next_epoch()
            if checkpoints:
                checkpoints.save(result.epoch, self._state())
            self._observer.on_epoch(result)

    def compute(self) -> Compute:
        """What computes this run's steps."""
        return self.engine.prepare(self._module, self._optimizer, self._streams.dropout)

    def branch(self) -> Branch:
        """This run's part in steps that are computed together with others'."""
        if self._streams.dropout is None:
            msg = f"expected an engine that computes many runs together, got engine={self.engine.name!r}. Use graph."
            raise InputError(msg)
        return self.engine.branch(self._module, self._optimizer, self._streams.dropout)

    def identity(self) -> dict[str, Any]:
        """What two runs must have in common for one to go on from the other's checkpoint."""
        return {
            "model": self._model_name,
            "graph_digest": self._graph_digest,
            "recipe": self._recipe.to_mapping(),
            "seed": self._seed,
            "engine": self.engine.name,
            "data_digest": self._data.digest,
            # A device's random state means nothing to another kind of device.
            "device": self._device.type,
        }

    def record(self, status: Literal["complete", "interrupted", "diverged"]) -> RunRecord:
        """The run so far."""
        return RunRecord(
            model=self._model_name,
            source=self._source,
            arguments=self._arguments,
            graph_digest=self._graph_digest,
            recipe=self._recipe,
            seed=self._seed,
            engine=self.engine.name,
            device=str(self._device),
            data_name=self._data.name,
            data_title=self._data.title,
            data_digest=self._data.digest,
            status=status,
            epochs=tuple(self.epochs),
            state_digest=self._state_digest,
            digest_every=self._digest_every,
            digests=self._digests_on_record(status),
            environment=environment(self._device),
            started=self._started,
            wall_seconds=round(self._seconds(), 3),
        )

    def record_so_far(self) -> RunRecord:
        """The record of a run that was stopped from outside."""
        # The last epoch may be booked already, when its checkpoint or its announcement was stopped.
        return self.record("complete" if len(self.epochs) == self._recipe.epochs else "interrupted")

    def _digests_on_record(self, status: str) -> tuple[StepDigests, ...]:
        """All of a diverged run, whose last steps are what matters; else nothing of an epoch that was not finished."""
        whole = len(self.epochs) * self._steps
        return tuple(digests for digests in self._digests if status == "diverged" or digests.step <= whole)

    def _seconds(self) -> float:
        """Wall time so far, over all sittings."""
        return time.monotonic() - self._began

    def _state(self) -> dict[str, Any]:
        """All that the rest of the run depends on, as plain data."""
        return {
            "module": self._module.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scheduler": self._scheduler and self._scheduler.state_dict(),
            "streams": self._streams.state(),
            "chain": self._chain.state(),
            "digests": [asdict(digests) for digests in self._digests],
            "epochs": [asdict(result) for result in self.epochs],
            "started": self._started,
            "seconds": self._seconds(),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        """Go on from where `state` was taken."""
        self._module.load_state_dict(state["module"])
        self._optimizer.load_state_dict(state["optimizer"])
        if self._scheduler:
            self._scheduler.load_state_dict(state["scheduler"])
        self._streams.restore(state["streams"])
        self._chain.restore(state["chain"])
        self._digests = [StepDigests(**digests) for digests in state["digests"]]
        self.epochs = [EpochResult(**result) for result in state["epochs"]]
        self._state_digest = state_digest(self._module.state_dict())
        self._started = state["started"]
        self._began -= state["seconds"]

    def _next_epoch(self) -> Generator[Batch, tuple[Tensor, Tensor], EpochResult]:
        """Train for one epoch and test."""
        began = time.monotonic()
        lr, tally = yield from self._train_epoch()
        tested = self._procedure.evaluate(self._module, self._data)
        if not math.isfinite(tested.loss):
            raise _DivergedError
        if isinstance(self._scheduler, lr_scheduler.ReduceLROnPlateau):
            self._scheduler.step(tested.loss)
        elif self._scheduler and self._interval == "epoch":
            self._scheduler.step()
        result = EpochResult(
            epoch=len(self.epochs) + 1,
            lr=lr,
            train_loss=tally.loss,
            train_correct=tally.correct,
            train_total=tally.seen,
            test_loss=tested.loss,
            test_correct=tested.correct,
            test_total=tested.total,
            seconds=round(time.monotonic() - began, 3),
        )
        self._state_digest = state_digest(self._module.state_dict())
        self.epochs.append(result)
        return result

    def _train_epoch(self) -> Generator[Batch, tuple[Tensor, Tensor], tuple[float, _Tally]]:
        """All training images once, in a new order. Returns the last step's learning rate and the answers."""
        group = self._optimizer.param_groups[0]
        tally, looked = _Tally(), time.monotonic()
        before = len(self.epochs) * self._steps
        batches = self._procedure.batches(self._data, self._recipe, self._streams, len(self.epochs) + 1)
        self._module.train()
        for number, batch in enumerate(batches, start=1):
            step = Step(number=before + number, batch=batch, module=self._module, optimizer=self._optimizer)
            with self._streams.before_step():
                self._watcher.before_step(step)
                self._chain.add(batch, self._optimizer)
            loss, correct = yield batch
            lr = float(group["lr"])
            if self._scheduler and self._interval == "step":
                self._scheduler.step()
            if number == self._steps or step.number % self._digest_every == 0:
                self._digests.append(self._chain.after(step.number, self._module, self._optimizer))
            self._watcher.after_step(step)
            tally.add(loss, correct, len(batch.labels))
            # Reading a figure makes the host wait for the device, so it is done by the clock and not at each step.
            if number == self._steps or time.monotonic() - looked > _SECONDS_BETWEEN_LOOKS:
                tally.settle()
                looked = time.monotonic()
                self._observer.on_step(
                    epoch=len(self.epochs) + 1,
                    step=number,
                    steps=self._steps,
                    loss=tally.loss,
                    correct=tally.correct,
                    seen=tally.seen,
                )
        return lr, tally


class _Tally:
    """Loss and right answers of an epoch so far; what the steps gave stays on the device until `settle`."""

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._corrects: list[Tensor] = []
        self._sizes: list[int] = []
        self._loss_sum = 0.0
        self.correct = 0
        self.seen = 0

    @property
    def loss(self) -> float:
        """Mean loss an image, of the settled steps."""
        return self._loss_sum / self.seen

    def add(self, loss: Tensor, correct: Tensor, size: int) -> None:
        self._losses.append(loss)
        self._corrects.append(correct)
        self._sizes.append(size)

    def settle(self) -> None:
        """Read the figures of the steps since the last time, in their order: when it is called changes no sum."""
        for loss, size in zip(torch.stack(self._losses).tolist(), self._sizes, strict=True):
            if not math.isfinite(loss):
                raise _DivergedError
            self._loss_sum += loss * size
        self.correct += int(torch.stack(self._corrects).sum())
        self.seen += sum(self._sizes)
        self._losses, self._corrects, self._sizes = [], [], []


def _check_last_batch(module: nn.Module, recipe: Recipe, *, images: int) -> None:
    left_over = images % recipe.batch_size or recipe.batch_size
    normalises = any(name.endswith("running_var") for name in module.state_dict())
    if left_over == 1 and normalises:
        msg = (
            f"recipe {recipe.name}: expected a batch size that leaves more than one image in the last batch, since "
            f"batch norm has no variance over one, got batch_size={recipe.batch_size} for {images} images. "
            "Use another batch size."
        )
        raise RecipeError(msg)
