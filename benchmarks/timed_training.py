"""Times one training of `five_step_4`, or a part of such a training, in a new process and prints the result as JSON.

    python benchmarks/timed_training.py plain|lightning|eager|fast|bf16 [--data mnist] [--images N] [--epochs N]
    python benchmarks/timed_training.py eager|fast|bf16 --seeds 2
    python benchmarks/timed_training.py sgemm|operations|surroundings|step

`training_speed.py` runs this script for each measurement. An epoch is one pass over all training images and a test on
all test images. The time of an epoch excludes work that is done once per process: imports, reading the data, building
the network.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import json
import statistics
import struct
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from harness.cli.progress import SeedsProgress, TrainingProgress
from harness.data import Dataset, load_dataset
from harness.errors import HarnessError, InputError
from harness.sources import load_model
from harness.training import (
    ENGINES,
    Batch,
    DigestChain,
    EpochResult,
    RandomStreams,
    Recipe,
    RunRecord,
    RunSpec,
    SeedsJob,
    Step,
    TrainingHooks,
    choose_engine,
    evaluate,
    keep_freed_memory,
    shuffled_batches,
    train,
    train_into,
    train_seeds,
)
from mnist_models import create_model

MODEL = "five_step_4"
SEED = 1
LR, MOMENTUM, ROTATION, BATCH = 0.01, 0.9, 7, 128
RECIPE = Recipe.from_mapping(
    {
        "batch_size": BATCH,
        "epochs": 1,
        "optimizer": {"name": "sgd", "lr": LR, "momentum": MOMENTUM},
        "augmentation": {"rotation": float(ROTATION)},
    },
    name="speed",
)
WORKERS = 2
MATRIX = 1024
MATRIX_ROUNDS = 30
FIRST_PROFILED, PROFILED = 11, 20
_CPU = torch.device("cpu")
_BATCHES = "batches"
# Each group of operations with words; an operation belongs to the first group with a word in the name of the operation or of an
# enclosing operation, outermost first.
GROUPS = (
    ("order, augmentation, normalising", (_BATCHES,)),
    ("optimizer", ("Optimizer.",)),
    ("convolution, backward", ("ConvolutionBackward", "convolution_backward")),
    ("convolution, forward", ("conv",)),
    ("batch norm", ("batch_norm", "BatchNorm")),
    ("ReLU and dropout", ("relu", "Relu", "dropout", "Dropout", "Threshold")),
    ("pooling", ("pool", "Pool", "aten::mean", "MeanBackward")),
)
REST = "other operations"
BETWEEN = "between operations: Python, digests, progress"


def load_part(choice: str, images: int | None) -> Dataset:
    """Load MNIST, or only the first ``images`` training images of MNIST with all test images.

    Raises:
        InputError: the data set is not MNIST, or ``images`` is smaller than the batch size or larger than the training
            set.
    """
    whole = load_dataset(choice)
    if whole.name != "mnist":
        msg = f"expected MNIST, got --data {choice}: {whole.title}. Name a folder with the MNIST files."
        raise InputError(msg)
    if images is None:
        return whole
    if not BATCH <= images <= len(whole.train_images):
        msg = f"expected from {BATCH} to {len(whole.train_images)} training images, got --images {images}."
        raise InputError(msg)
    return dataclasses.replace(
        whole,
        title=f"the first {images:,} training images of {whole.title}",
        train_images=whole.train_images[:images].clone(),
        train_labels=whole.train_labels[:images].clone(),
        digest=f"{whole.digest[:32]}/{images}",
    )


def course_loaders(dataset: Dataset, root: Path) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Return training and test data loaders as in course code: torchvision's MNIST, PIL images, transforms, two workers."""
    from torchvision import datasets, transforms  # noqa: PLC0415 - slow to import, and only these loops need it

    _write_torchvision_files(dataset, root / "MNIST" / "raw")
    as_tensor = [transforms.ToTensor(), transforms.Normalize((dataset.mean,), (dataset.std,))]
    varied = transforms.Compose([transforms.RandomRotation(ROTATION), *as_tensor])
    train_set = datasets.MNIST(root, train=True, transform=varied)
    test_set = datasets.MNIST(root, train=False, transform=transforms.Compose(as_tensor))
    return (
        DataLoader(train_set, batch_size=BATCH, shuffle=True, num_workers=WORKERS),
        DataLoader(test_set, batch_size=BATCH, shuffle=False, num_workers=WORKERS),
    )


def _write_torchvision_files(dataset: Dataset, folder: Path) -> None:
    """Write the images and labels as files in the idx format, which torchvision reads."""
    folder.mkdir(parents=True)
    for part, images, labels in (
        ("train", dataset.train_images, dataset.train_labels),
        ("t10k", dataset.test_images, dataset.test_labels),
    ):
        header = struct.pack(">IIII", 0x803, len(images), *images.shape[2:])
        (folder / f"{part}-images-idx3-ubyte").write_bytes(header + images.numpy().tobytes())
        header = struct.pack(">II", 0x801, len(labels))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(header + labels.to(torch.uint8).numpy().tobytes())


def plain(dataset: Dataset, epochs: int) -> dict[str, Any]:
    """Time the usual training loop of PyTorch course code."""
    with tempfile.TemporaryDirectory() as folder:
        train_loader, test_loader = course_loaders(dataset, Path(folder))
        torch.manual_seed(SEED)
        model = create_model(MODEL)
        optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM)
        seconds, steps, correct = [], 0, 0
        for _ in range(epochs):
            began = time.monotonic()
            loss_sum, train_correct = 0.0, 0
            model.train()
            for images, labels in train_loader:
                optimizer.zero_grad()
                output = model(images)
                loss = functional.nll_loss(output, labels)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                loss_sum += loss.item()
                train_correct += output.argmax(dim=1).eq(labels).sum().item()
                steps += 1
            test_loss, correct = 0.0, 0
            model.eval()
            with torch.no_grad():
                for images, labels in test_loader:
                    output = model(images)
                    test_loss += functional.nll_loss(output, labels, reduction="sum").item()
                    correct += int(output.argmax(dim=1).eq(labels).sum().item())
            seconds.append(time.monotonic() - began)
    return {"epochs": seconds, "steps": steps // epochs, "test_correct": correct, "threads": torch.get_num_threads()}


def lightning(dataset: Dataset, epochs: int) -> dict[str, Any]:
    """Time PyTorch Lightning's trainer with the data loaders of course code; logging and checkpoints are disabled."""
    import lightning.pytorch as pl  # noqa: PLC0415 - an optional dependency

    class Lit(pl.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = create_model(MODEL)
            self.steps = self.correct = 0
            self.seconds: list[float] = []

        def on_train_epoch_start(self) -> None:
            self.began = time.monotonic()

        def training_step(self, batch: list[Tensor], _: int) -> Tensor:
            images, labels = batch
            self.steps += 1
            return functional.nll_loss(self.model(images), labels)

        def on_validation_epoch_start(self) -> None:
            self.correct = 0

        def validation_step(self, batch: list[Tensor], _: int) -> None:
            images, labels = batch
            self.correct += int((self.model(images).argmax(dim=1) == labels).sum())

        def on_train_epoch_end(self) -> None:
            # Lightning's epoch includes the test.
            self.seconds.append(time.monotonic() - self.began)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=LR, momentum=MOMENTUM)

    with tempfile.TemporaryDirectory() as folder:
        train_loader, test_loader = course_loaders(dataset, Path(folder))
        pl.seed_everything(SEED)
        lit = Lit()
        trainer = pl.Trainer(
            accelerator="cpu",
            max_epochs=epochs,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            default_root_dir=folder,
        )
        trainer.fit(lit, train_loader, test_loader)
    return {
        "epochs": lit.seconds,
        "steps": lit.steps // epochs,
        "test_correct": lit.correct,
        "threads": torch.get_num_threads(),
    }


def single_seed(dataset: Dataset, epochs: int, engine: str, hooks: TrainingHooks | None = None) -> dict[str, Any]:
    """Time the training of one seed with an engine, as in `harness train`: with record, digests, weights and checkpoints."""
    keep_freed_memory()
    captured = load_model(MODEL, seed=SEED)
    with tempfile.TemporaryDirectory() as folder, TrainingProgress() as progress:
        record = train_into(
            Path(folder),
            captured.to_module(),
            RunSpec.of(captured, RECIPE.with_epochs(epochs), seed=SEED, engine=engine),
            dataset,
            observer=progress,
            hooks=hooks,
        )
    return {
        "epochs": [result.seconds for result in record.epochs],
        "steps": -(-len(dataset.train_images) // BATCH),
        "test_correct": record.epochs[-1].test_correct,
        "threads": record.environment.threads,
    }


class _TimedProgress(SeedsProgress):
    """Records when the first seed started training and when the last epoch ended."""

    began = ended = 0.0

    def on_seed_start(self, seed: int, *, epochs: int, steps: int, done: int) -> None:
        self.began = self.began or time.monotonic()
        super().on_seed_start(seed, epochs=epochs, steps=steps, done=done)

    def on_seed_epoch(self, seed: int, result: EpochResult) -> None:
        self.ended = time.monotonic()
        super().on_seed_epoch(seed, result)


def concurrent_seeds(data: str, images: int | None, epochs: int, engine: str, seeds: int) -> dict[str, Any]:
    """Time the training of several seeds at the same time, as in `harness train --seeds`."""
    # As in the command; the memory of the model and the check of the engine is part of the measurement.
    captured = load_model(MODEL, seed=SEED)
    choose_engine(engine, captured.to_module(), _CPU)
    job = SeedsJob(
        load_model=functools.partial(load_model, MODEL),
        load_data=functools.partial(load_part, data, images),
        spec=RunSpec.of(captured, RECIPE.with_epochs(epochs), seed=SEED, engine=engine),
    )
    with tempfile.TemporaryDirectory() as folder, _TimedProgress(seeds) as progress:
        outcomes = train_seeds(job, range(1, seeds + 1), Path(folder), processes=seeds, observer=progress)
    records = [outcome.record for outcome in outcomes if outcome.record]
    if len(records) < seeds:
        msg = f"expected {seeds} seeds to finish, got: {'; '.join(outcome.problem for outcome in outcomes)}."
        raise InputError(msg)
    slowest = [max(record.epochs[at].seconds for record in records) for at in range(epochs)]
    return {
        "epochs": [seconds / seeds for seconds in slowest],
        "span_an_epoch_and_seed": (progress.ended - progress.began) / (epochs * seeds),
        "seeds": seeds,
        "test_correct": [record.epochs[-1].test_correct for record in records],
        "threads": [record.environment.threads for record in records],
    }


def sgemm() -> dict[str, Any]:
    """Measure the floating-point operations per second of float32 matrix multiplication, by number of threads."""
    one, other = torch.randn(2, MATRIX, MATRIX)
    reached = {}
    for threads in dict.fromkeys((torch.get_num_threads(), 1)):
        torch.set_num_threads(threads)
        rounds = []
        for _ in range(MATRIX_ROUNDS):
            began = time.perf_counter()
            one @ other
            rounds.append(time.perf_counter() - began)
        reached[str(threads)] = 2 * MATRIX**3 / statistics.median(rounds)
    return {"flop_per_second": reached, "matrix": MATRIX}


def operations(network: nn.Module, images: Tensor) -> dict[str, int]:
    """Count the floating-point operations of convolutions and matrix products per image, for a forward pass and a step."""
    labels = torch.zeros(len(images), dtype=torch.int64)
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        network(images)
    with FlopCounterMode(display=False) as step:
        torch.autograd.backward(functional.cross_entropy(network(images), labels))
    return {
        "forward": forward.get_total_flops() // len(images),
        "training": step.get_total_flops() // len(images),
    }


def surroundings(dataset: Dataset, epochs: int) -> dict[str, Any]:
    """Measure the time of a training with the engine `fast`, and of the parts that are not steps, such as digests."""
    # The training loop imports some of these functions by name, so they are replaced in the module of the loop.
    from rich.live import Live  # noqa: PLC0415

    from harness.training import loop, run_folder  # noqa: PLC0415
    from harness.training.checkpoint import Checkpoints  # noqa: PLC0415

    parts: dict[str, float] = defaultdict(float)

    def timed(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - passed through unchanged
            began = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                parts[part] += time.perf_counter() - began

        return call

    watched: tuple[tuple[str, Any, tuple[str, ...]], ...] = (
        ("digests", DigestChain, ("add", "after")),
        ("digests", loop, ("state_digest",)),
        ("progress", TrainingProgress, ("on_start", "on_step", "on_epoch")),
        ("progress", Live, ("refresh",)),
        ("checkpoint, weights, record", Checkpoints, ("restore", "save")),
        ("checkpoint, weights, record", run_folder, ("save_weights",)),
        ("checkpoint, weights, record", RunRecord, ("write",)),
    )
    with contextlib.ExitStack() as stack:
        for part, owner, names in watched:
            for name in names:
                stack.enter_context(mock.patch.object(owner, name, timed(part, getattr(owner, name))))
        trained = single_seed(dataset, epochs, "fast", TrainingHooks(evaluate=timed("evaluation", evaluate)))
    return {"seconds": sum(trained["epochs"]), "parts": dict(parts)}


class _ProfiledSteps:
    """Profiles consecutive steps of a training, with the computation of the batches for these steps."""

    def __init__(self) -> None:
        self.profile = profile(activities=[ProfilerActivity.CPU])
        self.seconds = 0.0

    def before_step(self, step: Step) -> None:
        """Do nothing: the profile is started and stopped after steps."""

    def after_step(self, step: Step) -> None:
        if step.number == FIRST_PROFILED - 1:
            self.profile.start()
            self.seconds = -time.perf_counter()
        elif step.number == FIRST_PROFILED - 1 + PROFILED:
            self.seconds += time.perf_counter()
            self.profile.stop()


def step(dataset: Dataset) -> dict[str, Any]:
    """Measure the time of steps with the engine `fast`, by group of operations."""

    def named_batches(data: Dataset, recipe: Recipe, streams: RandomStreams, epoch: int) -> Iterator[Batch]:
        batches = shuffled_batches(data, recipe, streams, epoch)
        while True:
            with record_function(_BATCHES):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    keep_freed_memory()
    needed = torch.arange((FIRST_PROFILED + PROFILED) * BATCH) % len(dataset.train_images)
    part = dataclasses.replace(
        dataset, train_images=dataset.train_images[needed], train_labels=dataset.train_labels[needed]
    )
    captured, window = load_model(MODEL, seed=SEED), _ProfiledSteps()
    train(
        captured.to_module(),
        RunSpec.of(captured, RECIPE, seed=SEED, engine="fast"),
        part,
        hooks=TrainingHooks(batches=named_batches, callbacks=(window,)),
    )
    parts = dict.fromkeys((*(name for name, _ in GROUPS), REST), 0.0)
    for event in window.profile.events() or ():  # type: ignore[no-untyped-call]
        names, around = [event.name], event.cpu_parent
        while around is not None:
            names.append(around.name)
            around = around.cpu_parent
        parts[group_of(reversed(names))] += event.self_cpu_time_total / 1e6
    parts[BETWEEN] = max(0.0, window.seconds - sum(parts.values()))
    return {"seconds": window.seconds, "steps": PROFILED, "parts": parts}


def group_of(names: Iterator[str]) -> str:
    """Return the group of an operation, given the names of enclosing operations, outermost first, and of the operation."""
    for name in names:
        for group, marks in GROUPS:
            if any(mark in name for mark in marks):
                return group
    return REST


def measure(name: str, *, data: str, images: int | None, epochs: int, seeds: int | None) -> dict[str, Any]:
    """Run the measurement called ``name`` and return the result."""
    if name == "sgemm":
        return sgemm()
    if name == "operations":
        return operations(create_model(MODEL).train(), torch.randn(BATCH, 1, 28, 28))
    dataset = load_part(data, images)
    if seeds:
        return concurrent_seeds(data, images, epochs, name, seeds)
    match name:
        case "plain":
            return plain(dataset, epochs)
        case "lightning":
            return lightning(dataset, epochs)
        case "surroundings":
            return surroundings(dataset, epochs)
        case "step":
            return step(dataset)
    return single_seed(dataset, epochs, name)


def main() -> int:
    """Run the measurement, print the result as JSON and return the exit code."""
    parser = argparse.ArgumentParser(description="Time one training, or one part of it.")
    others = ("plain", "lightning", "sgemm", "operations", "surroundings", "step")
    parser.add_argument("name", choices=(*ENGINES, *others))
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--images", type=int)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seeds", type=int)
    options = vars(parser.parse_args())
    try:
        print(json.dumps(measure(**options)))
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
