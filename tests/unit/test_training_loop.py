"""The training loop against plain PyTorch: its results, its records and how a run can end."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from harness.data import Dataset
from harness.errors import InputError, RecipeError
from harness.training import (
    RunRecord,
    TrainingInterrupted,
    initialise,
    state_digest,
)
from harness.training.randomness import derived_seed
from harness.training.recipe import SGD, ReduceLROnPlateau, Schedule, StepLR, WarmupCosine
from tests.made_up import RECIPE, dataset, network
from tests.training_runs import DATA, NOISY, ConstantOutput, RecordingObserver, bits, run


def plain_loop(module: nn.Module, data: Dataset, *, seed: int, epochs: int) -> tuple[float, int, float, int]:
    """A plain training loop, as the oracle. Returns losses and counts of the last epoch."""
    generator = torch.Generator().manual_seed(derived_seed(seed, "order"))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    for _ in range(epochs):
        module.train()
        train_loss, train_correct = 0.0, 0
        for chosen in torch.randperm(len(data.train_images), generator=generator).split(16):  # type: ignore[no-untyped-call]
            images = (data.train_images[chosen].float() / 255 - data.mean) / data.std
            output = module(images)
            loss = functional.cross_entropy(output, data.train_labels[chosen])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            train_loss += loss.item() * len(chosen)
            train_correct += int((output.argmax(1) == data.train_labels[chosen]).sum())
    module.eval()
    with torch.no_grad():
        output = module((data.test_images.float() / 255 - data.mean) / data.std)
    test_loss = functional.cross_entropy(output, data.test_labels).item()
    correct = int((output.argmax(1) == data.test_labels).sum())
    return train_loss / len(data.train_images), train_correct, test_loss, correct


@pytest.mark.parametrize("images", [48, 43])
def test_the_loop_equals_plain_pytorch(images: int) -> None:
    """Two epochs without augmentation and dropout give the bits of a plain loop, partial batch included."""
    data = dataset(train=images)
    ours, plain = (initialise(network, seed=5) for _ in range(2))
    recipe = dataclasses.replace(RECIPE, epochs=2, optimizer=SGD(lr=0.1, momentum=0.9))
    record = run(ours, recipe, data, seed=5)
    train_loss, train_correct, test_loss, test_correct = plain_loop(plain, data, seed=5, epochs=2)
    assert state_digest(plain.state_dict()) == state_digest(ours.state_dict()) == record.state_digest
    last = record.epochs[-1]
    assert (train_correct, images, test_correct, 40) == (
        last.train_correct,
        last.train_total,
        last.test_correct,
        last.test_total,
    )
    assert pytest.approx((train_loss, test_loss)) == (last.train_loss, last.test_loss)


def test_logits_and_log_probabilities_train_alike() -> None:
    """A model that ends in log_softmax is trained like the same model without it, up to rounding."""
    logits = initialise(network, seed=5)
    log_probabilities = nn.Sequential(initialise(network, seed=5), nn.LogSoftmax(dim=1))
    one, other = (run(module).epochs[-1] for module in (logits, log_probabilities))
    assert pytest.approx(one.test_loss, rel=1e-3) == other.test_loss


def test_it_learns() -> None:
    """The made-up images are learned within a few epochs; with shuffled labels they are not."""
    recipe = RECIPE.with_epochs(8)
    labels = DATA.train_labels[torch.randperm(48, generator=torch.Generator().manual_seed(0))]
    learned = run(recipe=recipe).epochs[-1].test_correct
    unlearned = run(recipe=recipe, data=dataclasses.replace(DATA, train_labels=labels)).epochs[-1].test_correct
    assert learned >= 36
    assert unlearned <= 20


def test_the_same_seed_repeats_and_another_differs() -> None:
    """The same seed gives the same bits; another seed gives other bits, even from the same weights."""
    weights = initialise(lambda: network(dropout=0.2), seed=1)
    first, again = (bits(run(recipe=NOISY)) for _ in range(2))
    assert first == again
    same_weights = initialise(lambda: network(dropout=0.2), seed=1)
    assert state_digest(weights.state_dict()) == state_digest(same_weights.state_dict())
    assert first[0] != run(same_weights, NOISY, seed=2).state_digest


class InTuple(nn.Module):
    """Returns its output in a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.net(images),)


@pytest.mark.parametrize(
    ("module", "found"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(784, 16)), r"got shape=\(16, 16\)"),
        (nn.Conv2d(1, 10, 28), r"got shape=\(16, 10, 1, 1\)"),
        (InTuple(), "got a tuple"),
    ],
)
def test_a_wrong_output_shape_is_named(module: nn.Module, found: str) -> None:
    """An output that is not (B, 10) is an error that names both shapes."""
    with pytest.raises(
        InputError, match=r"expected the model's output to have shape=\(16, 10\) for 16 images, " + found
    ):
        run(module)


def test_a_diverging_run_stops() -> None:
    """A learning rate far too high ends the run in its first epoch; the record has the digest of the initial weights."""
    module = initialise(network, seed=1)
    before = state_digest(module.state_dict())
    record = run(module, dataclasses.replace(RECIPE, optimizer=SGD(lr=1e30)))
    assert ("diverged", (), before) == (record.status, record.epochs, record.state_digest)


class NanInStep5(nn.Module):
    """Trains normally until the fifth batch, for which it returns NaN."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()
        self.batches = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.batches += self.training
        output: torch.Tensor = self.net(images)
        return output * math.nan if self.training and self.batches == 5 else output


@pytest.mark.parametrize(("digest_every", "steps"), [(1, [0, 1, 2, 3, 4, 5]), (4, [0, 3, 4, 6])])
def test_the_digests_of_a_diverged_run_include_the_divergence(
    digest_every: int, steps: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often the losses are read: to the first digest after the fifth step, whose loss is NaN."""
    for seconds in (-1.0, 1e9):
        monkeypatch.setattr("harness.training.loop._SECONDS_BETWEEN_REPORTS", seconds)
        record = run(initialise(NanInStep5, seed=1), digest_every=digest_every)
        assert steps == [digests.step for digests in record.digests]


def test_a_late_divergence_keeps_the_completed_epochs() -> None:
    """With a NaN loss in the second epoch, the record has the first epoch and the state after it."""
    record = run(initialise(NanInStep5, seed=1))
    one_epoch = run(initialise(NanInStep5, seed=1), RECIPE.with_epochs(1))
    assert ("diverged", one_epoch.state_digest) == (record.status, record.state_digest)
    assert [1] == [result.epoch for result in record.epochs]


class NanInEval(nn.Module):
    """Trains normally, and returns NaN in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.net(images)
        return output if self.training else output * math.nan


def test_a_nan_test_loss_is_a_divergence() -> None:
    """A run whose first evaluation gives NaN has diverged in the first epoch."""
    record = run(NanInEval())
    assert ("diverged", ()) == (record.status, record.epochs)


@pytest.mark.parametrize(("images", "batch"), [(33, 16), (48, 1)])
def test_a_single_image_left_over_is_refused(images: int, batch: int) -> None:
    """A last batch of one image is refused for a model with batch norm, and accepted without batch norm."""
    data, recipe = dataset(train=images), dataclasses.replace(RECIPE, batch_size=batch, epochs=1)
    with pytest.raises(RecipeError, match=rf"recipe made-up: .* got batch_size={batch} for {images} images"):
        run(recipe=recipe, data=data)
    assert run(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), recipe, data).epochs[0].train_total == images


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (None, [0.1, 0.1, 0.1]),
        (StepLR(step_size=1, gamma=0.5), [0.1, 0.05, 0.025]),
        (WarmupCosine(warmup=0.5, until=0.6, floor=0.5), [0.075, 0.05, 0.05]),
        (ReduceLROnPlateau(factor=0.5, patience=0), [0.1, 0.1, 0.05]),
    ],
)
def test_the_schedule_sets_the_learning_rate(schedule: Schedule | None, expected: list[float]) -> None:
    """The recorded learning rate is that of each epoch's last step; the test loss never decreases here."""
    record = run(ConstantOutput([0.0] * 10), dataclasses.replace(RECIPE, schedule=schedule))
    assert pytest.approx(expected) == [result.lr for result in record.epochs]


def test_the_observer_is_called() -> None:
    """At the start, at the last step of each epoch and after each epoch, with values that agree with the record."""
    observer = RecordingObserver()
    record = run(observer=observer)
    assert [{"spec": record.spec, "steps": 3, "done": ()}] == observer.started
    assert list(record.epochs) == observer.epochs
    last_steps = [seen for seen in observer.steps if seen["step"] == seen["steps"]]
    assert [
        {"epoch": r.epoch, "step": 3, "steps": 3, "loss": r.train_loss, "correct": r.train_correct, "seen": 48}
        for r in record.epochs
    ] == last_steps


def test_frequent_reports_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reporting after every step gives the same bits as reporting once per epoch."""
    expected = bits(run(recipe=NOISY))
    monkeypatch.setattr("harness.training.loop._SECONDS_BETWEEN_REPORTS", -1.0)
    observer = RecordingObserver()
    assert expected == bits(run(recipe=NOISY, observer=observer))
    assert len(observer.steps) == 9


def test_the_record_names_what_ran() -> None:
    """The record names model, recipe, seed, data, device and environment."""
    record = run(seed=3)
    assert ("net", "g" * 64, RECIPE, 3, "cpu", "digits", "made-up bars", "d" * 64, "complete") == (
        record.model,
        record.graph_digest,
        record.recipe,
        record.seed,
        record.device,
        record.data_name,
        record.data_title,
        record.data_digest,
        record.status,
    )
    assert record.environment.torch == str(torch.__version__)
    assert record == RunRecord.from_json(record.to_json())


def test_an_interrupt_without_checkpoints_carries_its_record() -> None:
    """The exception has the record of the completed epochs and the state after the last of them."""
    with pytest.raises(KeyboardInterrupt) as stopped:
        run(observer=RecordingObserver(stop_in=2))
    assert isinstance(stopped.value, TrainingInterrupted)
    assert run(recipe=RECIPE.with_epochs(1)).state_digest == stopped.value.record.state_digest
