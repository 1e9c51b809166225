"""The digests of a training: each difference shows in its own column, from the step where it occurred."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from harness.data import Augmentation, Dataset
from harness.errors import InputError
from harness.training import (
    INPUTS,
    STATES,
    Batch,
    RandomStreams,
    Recipe,
    RunRecord,
    Step,
    TrainingHooks,
    TrainingInterrupted,
    initialise,
    shuffled_batches,
    train,
    training_tensors,
)
from harness.training.recipe import SGD
from tests.made_up import RECIPE, dataset, network, spec

DATA = dataset()
NOISY = dataclasses.replace(RECIPE, augmentation=Augmentation(rotation=7.0), optimizer=SGD(lr=0.1, momentum=0.9))


class Plant:
    """Calls a function just before one step."""

    def __init__(self, number: int, act: Callable[[Step], object]) -> None:
        self.number = number
        self.act = act

    def before_step(self, step: Step) -> None:
        if step.number == self.number:
            self.act(step)

    def after_step(self, step: Step) -> None:
        pass


def run(
    recipe: Recipe = NOISY,
    *,
    module: nn.Module | None = None,
    every: int = 1,
    seed: int = 1,
    plant: Plant | None = None,
    hooks: TrainingHooks | None = None,
    folder: Path | None = None,
) -> RunRecord:
    """Train a small network on the CPU: three epochs of three steps."""
    return train(
        module or initialise(lambda: network(dropout=0.2), seed=1),
        spec(recipe, seed=seed, digest_every=every),
        DATA,
        hooks=dataclasses.replace(hooks or TrainingHooks(), callbacks=(plant,) if plant else ()),
        checkpoint_dir=folder,
    )


def first_differences(one: RunRecord, other: RunRecord) -> dict[str, int]:
    """The first step at which each column differs, for the columns that do."""
    found: dict[str, int] = {}
    for left, right in zip(one.digests, other.digests, strict=True):
        for kind in (*INPUTS, *STATES):
            if getattr(left, kind) != getattr(right, kind):
                found.setdefault(kind, left.step)
    return found


def flip(step: Step) -> None:
    """Flip the highest bit of one weight's mantissa."""
    weight = next(step.module.parameters())
    weight.detach().view(torch.int32)[0, 0, 0, 0] ^= 1 << 22


def set_rate(step: Step) -> None:
    """Change the learning rate."""
    step.optimizer.param_groups[0]["lr"] = 0.05


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        (flip, {"parameters": 5, "buffers": 5, "optimizer": 5}),
        (set_rate, {"rate": 5, "parameters": 5, "buffers": 6, "optimizer": 6}),
        (lambda _: torch.rand(1), {"dropout": 5, "parameters": 5, "buffers": 6, "optimizer": 5}),
    ],
    ids=["weight", "rate", "dropout"],
)
def test_a_difference_shows_in_its_column(act: Callable[[Step], object], expected: dict[str, int]) -> None:
    """A change before step 5 shows first in the digests of step 5, in the column that it belongs to."""
    assert expected == first_differences(run(), run(plant=Plant(5, act)))


def test_equal_runs_have_equal_digests() -> None:
    """Equal runs have no difference, and there are digests before the first step and after each step."""
    record = run()
    assert {} == first_differences(record, run())
    assert list(range(10)) == [digests.step for digests in record.digests]


def test_another_initialisation_differs_before_the_first_step() -> None:
    """Other initial weights show in the parameters at step 0, and in no input of the steps."""
    found = first_differences(run(), run(module=initialise(lambda: network(dropout=0.2), seed=2)))
    assert {"parameters": 0, "buffers": 1, "optimizer": 1} == found


def test_another_seed_differs_in_every_stream() -> None:
    """The same weights under another seed: order, augmentation and dropout differ from the first step on."""
    found = first_differences(run(), run(seed=2))
    assert [1, 1, 1, None] == [found.get(kind) for kind in INPUTS]


def test_without_augmentation_the_order_is_the_same() -> None:
    """Of the inputs, only the augmentation differs."""
    found = first_differences(run(), run(dataclasses.replace(NOISY, augmentation=None)))
    assert ["augmentation"] == [kind for kind in INPUTS if kind in found]


def swapped(data: Dataset, recipe: Recipe, streams: RandomStreams, epoch: int) -> Iterator[Batch]:
    """The usual batches, with the first two of the second epoch swapped."""
    batches = list(shuffled_batches(data, recipe, streams))
    return iter([batches[1], batches[0], batches[2]] if epoch == 2 else batches)


def without_order(data: Dataset, recipe: Recipe, streams: RandomStreams, _epoch: int) -> Iterator[Batch]:
    """The usual batches, from a loader that does not report their order."""
    return (Batch(images=batch.images, labels=batch.labels) for batch in shuffled_batches(data, recipe, streams))


def test_swapped_batches_are_seen() -> None:
    """Order and augmentation differ from the first swapped batch on and stay different, since they are chained."""
    found = first_differences(run(), run(hooks=TrainingHooks(batches=swapped)))
    assert [4, 4, None, None] == [found.get(kind) for kind in INPUTS]


def test_the_images_stand_in_for_an_unknown_order() -> None:
    """If a loader does not report the order, the images are digested: equal for equal seeds, different for different ones."""
    one, again = (run(hooks=TrainingHooks(batches=without_order)) for _ in range(2))
    other = run(hooks=TrainingHooks(batches=without_order), seed=2)
    assert {} == first_differences(one, again)
    assert 1 == first_differences(one, other)["order"]


def test_the_distance_of_digests_changes_none() -> None:
    """Digests at every second step equal those of a run with digests at every step; each epoch's end has one."""
    every = {digests.step: digests for digests in run().digests}
    some = run(every=2).digests
    assert [0, 2, 3, 4, 6, 8, 9] == [digests.step for digests in some]
    assert [every[digests.step] for digests in some] == list(some)


def interrupt(_: Step) -> None:
    """Interrupts the run."""
    raise KeyboardInterrupt


def test_a_resumed_run_has_the_same_digests(tmp_path: Path) -> None:
    """The chain continues from the checkpoint; nothing of the interrupted epoch is kept."""
    with pytest.raises(TrainingInterrupted) as stopped:
        run(plant=Plant(5, interrupt), folder=tmp_path)
    assert [0, 1, 2, 3] == [digests.step for digests in stopped.value.record.digests]
    assert run().digests == run(folder=tmp_path).digests


def test_the_tensors_of_a_training_have_names() -> None:
    """Parameters, buffers and the optimizer's state of each parameter, in module order."""
    seen: list[dict[str, list[str]]] = []

    def look(step: Step) -> None:
        tensors = training_tensors(step.module, step.optimizer)
        seen.append({kind: list(tensors[kind]) for kind in STATES})

    run(plant=Plant(2, look))
    weights = ["0.weight", "0.bias", "1.weight", "1.bias", "5.weight", "5.bias"]
    assert weights == seen[0]["parameters"]
    assert ["1.running_mean", "1.running_var", "1.num_batches_tracked"] == seen[0]["buffers"]
    assert [f"{name}:momentum_buffer" for name in weights] == seen[0]["optimizer"]


def test_digests_less_than_a_step_apart_are_refused() -> None:
    """Digests are at least one step apart."""
    with pytest.raises(InputError, match=r"expected digest_every >= 1, got digest_every=0"):
        run(every=0)
