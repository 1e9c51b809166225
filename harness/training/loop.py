"""The training loop: a network, a recipe, data and a seed in, a run record out.

What is computed: the loss is the mean cross entropy of the network's output, that is the negative log-likelihood of
``log_softmax(output)``. For logits this is the usual loss; for log-probabilities, whose ``log_softmax`` is themselves,
it is the plain negative log-likelihood up to rounding. So both kinds of network train alike and none has to say which
it is.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import lr_scheduler

from harness.data import Dataset
from harness.errors import InputError, RecipeError
from harness.training.checkpoint import Checkpoints
from harness.training.machine import environment
from harness.training.randomness import RandomStreams, preserved_randomness
from harness.training.recipe import Recipe, build_optimizer, build_schedule
from harness.training.record import EpochResult, RunRecord, state_digest

CLASSES = 10
_SECONDS_BETWEEN_LOOKS = 0.1


class Observer(Protocol):
    """Whoever wants to see a run as it goes. The calls come from the training loop, so they should be quick."""

    def on_start(self, *, recipe: Recipe, device: torch.device, steps: int, done: tuple[EpochResult, ...]) -> None:
        """The run begins: ``steps`` an epoch; ``done`` are the epochs that a checkpoint brought."""

    def on_step(  # noqa: PLR0913 - one figure each
        self, *, epoch: int, step: int, steps: int, loss: float, correct: int, seen: int
    ) -> None:
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


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A network's answers to the test images: mean cross entropy, right answers, images."""

    loss: float
    correct: int
    total: int


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

    Returns:
        The record, ``complete`` or ``diverged``.

    Raises:
        TrainingInterrupted: a KeyboardInterrupt came; the last whole epoch is on disk and in the exception's record.
        InputError: the network's output has another shape, it has nothing to train, the seed is out of range, or a
            checkpoint cannot be written.
        RecipeError: the batch size leaves a single image over for a network with batch norm.
        CheckpointError: the folder holds the checkpoints of another run.
    """
    with preserved_randomness(device):
        run = _Run(
            module,
            recipe,
            dataset,
            seed=seed,
            device=device,
            model_name=model_name,
            graph_digest=graph_digest,
            observer=observer or _Nobody(),
        )
        checkpoints = Checkpoints(Path(checkpoint_dir), run=run.identity()) if checkpoint_dir is not None else None
        if checkpoints and not resume:
            checkpoints.clear()
        try:
            return run.to_end(checkpoints)
        except _DivergedError:
            return run.record("diverged")
        except KeyboardInterrupt as stop:
            # The last epoch may be booked already, when its checkpoint or its announcement was stopped.
            whole = len(run.epochs) == recipe.epochs
            raise TrainingInterrupted(run.record("complete" if whole else "interrupted")) from stop


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


def one_epoch(data: Dataset, recipe: Recipe, streams: RandomStreams) -> Iterator[tuple[Tensor, Tensor]]:
    """All training images once, in a new order: normalised (B, 1, 28, 28) float batches with their (B,) labels."""
    order = torch.randperm(len(data.train_images), generator=streams.order).to(data.train_images.device)
    for chosen in torch.split(order, recipe.batch_size):
        images = data.train_images[chosen]
        if recipe.augmentation:
            draws = recipe.augmentation.draw(len(chosen), generator=streams.augmentation)
            images = recipe.augmentation.apply(images, draws)
        yield data.normalise(images), data.train_labels[chosen]


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


class _DivergedError(Exception):
    """A loss was no finite number."""


class _Nobody:
    def _look_away(self, *_: object, **__: object) -> None:
        pass

    on_start = on_step = on_epoch = on_warning = _look_away


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
    ) -> None:
        _check_last_batch(module, recipe, images=len(dataset.train_images))
        self._module = module.to(device)
        self._recipe = recipe
        self._data = dataset.to(device)
        self._seed = seed
        self._device = device
        self._model_name = model_name
        self._graph_digest = graph_digest
        self._observer = observer
        self._streams = RandomStreams(seed, device)
        self._steps = math.ceil(len(dataset.train_images) / recipe.batch_size)
        self._optimizer = build_optimizer(recipe.optimizer, module)
        self._moves = recipe.schedule and recipe.schedule.moves
        self._scheduler = recipe.schedule and build_schedule(
            recipe.schedule, self._optimizer, epochs=recipe.epochs, steps=self._steps
        )
        self.epochs: list[EpochResult] = []
        self._state_digest = state_digest(module.state_dict())
        self._started = datetime.now(UTC).isoformat(timespec="seconds")
        self._began = time.monotonic()

    def to_end(self, checkpoints: Checkpoints | None) -> RunRecord:
        """Go on from the newest checkpoint, if there is one, to the last declared epoch."""
        if checkpoints and (saved := checkpoints.load(warn=self._observer.on_warning)):
            self._restore(saved)
        self._observer.on_start(recipe=self._recipe, device=self._device, steps=self._steps, done=tuple(self.epochs))
        while len(self.epochs) < self._recipe.epochs:
            result = self._next_epoch()
            if checkpoints:
                checkpoints.save(result.epoch, self._state())
            self._observer.on_epoch(result)
        return self.record("complete")

    def identity(self) -> dict[str, Any]:
        """What two runs must have in common for one to go on from the other's checkpoint."""
        return {
            "model": self._model_name,
            "graph_digest": self._graph_digest,
            "recipe": self._recipe.to_mapping(),
            "seed": self._seed,
            "data_digest": self._data.digest,
            # A device's random state means nothing to another kind of device.
            "device": self._device.type,
        }

    def record(self, status: Literal["complete", "interrupted", "diverged"]) -> RunRecord:
        """The run so far."""
        return RunRecord(
            model=self._model_name,
            graph_digest=self._graph_digest,
            recipe=self._recipe,
            seed=self._seed,
            device=str(self._device),
            data_name=self._data.name,
            data_title=self._data.title,
            data_digest=self._data.digest,
            status=status,
            epochs=tuple(self.epochs),
            state_digest=self._state_digest,
            environment=environment(self._device),
            started=self._started,
            wall_seconds=round(self._seconds(), 3),
        )

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
        self.epochs = [EpochResult(**result) for result in state["epochs"]]
        self._state_digest = state_digest(self._module.state_dict())
        self._started = state["started"]
        self._began -= state["seconds"]

    def _next_epoch(self) -> EpochResult:
        """Train for one epoch and test."""
        began = time.monotonic()
        lr, tally = self._train_epoch()
        tested = evaluate(self._module, self._data)
        if not math.isfinite(tested.loss):
            raise _DivergedError
        if isinstance(self._scheduler, lr_scheduler.ReduceLROnPlateau):
            self._scheduler.step(tested.loss)
        elif self._scheduler and self._moves == "epoch":
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

    def _train_epoch(self) -> tuple[float, _Tally]:
        """All training images once, in a new order. Returns the last step's learning rate and the answers."""
        group = self._optimizer.param_groups[0]
        tally, looked = _Tally(), time.monotonic()
        batches = one_epoch(self._data, self._recipe, self._streams)
        self._module.train()
        for step, (images, labels) in enumerate(batches, start=1):
            loss, correct = train_step(self._module, self._optimizer, images, labels)
            lr = float(group["lr"])
            if self._scheduler and self._moves == "step":
                self._scheduler.step()
            tally.add(loss, correct, len(labels))
            # Reading a figure makes the host wait for the device, so it is done by the clock and not at each step.
            if step == self._steps or time.monotonic() - looked > _SECONDS_BETWEEN_LOOKS:
                tally.settle()
                looked = time.monotonic()
                self._observer.on_step(
                    epoch=len(self.epochs) + 1,
                    step=step,
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
