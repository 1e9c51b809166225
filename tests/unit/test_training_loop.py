"""The training loop against plain PyTorch, its checkpoints, its random streams and its ends."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from harness.data import Augmentation, Dataset
from harness.errors import CheckpointError, InputError, RecipeError
from harness.training import (
    EpochResult,
    Recipe,
    RunRecord,
    TrainingInterrupted,
    initialise,
    predict,
    state_digest,
    train,
)
from harness.training.randomness import RandomStreams, derived_seed, preserved_randomness
from harness.training.recipe import SGD, ReduceLROnPlateau, Schedule, StepLR, WarmupCosine
from tests.made_up import RECIPE, dataset, network, spec

CPU = torch.device("cpu")
DATA = dataset()
NOISY = dataclasses.replace(
    RECIPE,
    optimizer=SGD(lr=0.1, momentum=0.9),
    schedule=WarmupCosine(warmup=0.2, until=0.8, floor=0.1),
    augmentation=Augmentation(rotation=10.0, shift=0.1),
)


class Witness:
    """An observer that keeps what it sees, and stops the run after an epoch when told to."""

    def __init__(self, *, stop_in: int | None = None) -> None:
        self.started: list[dict[str, Any]] = []
        self.steps: list[dict[str, Any]] = []
        self.epochs: list[EpochResult] = []
        self.warnings: list[str] = []
        self._stop_in = stop_in

    def on_start(self, **seen: Any) -> None:  # noqa: ANN401 - kept as it comes
        self.started.append(seen)

    def on_step(self, **seen: Any) -> None:  # noqa: ANN401 - kept as it comes
        self.steps.append(seen)
        if seen["epoch"] == self._stop_in:
            raise KeyboardInterrupt

    def on_epoch(self, result: EpochResult) -> None:
        self.epochs.append(result)

    def on_warning(self, message: str) -> None:
        self.warnings.append(message)


def run(
    module: nn.Module | None = None,
    recipe: Recipe = RECIPE,
    data: Dataset = DATA,
    *,
    seed: int = 1,
    **options: Any,  # noqa: ANN401 - passed to train
) -> RunRecord:
    """Train the made-up network on the CPU."""
    if module is None:
        module = initialise(lambda: network(dropout=0.2), seed=seed)
    return train(module, spec(recipe, seed=seed), data, **options)


def bits(record: RunRecord) -> tuple[Any, ...]:
    """All of a record that must repeat; times need not."""
    return record.state_digest, record.status, [dataclasses.replace(each, seconds=0.0) for each in record.epochs]


def plain_loop(module: nn.Module, data: Dataset, *, seed: int, epochs: int) -> tuple[float, int, float, int]:
    """An epoch as anyone would write it, for the oracle test. Returns the last epoch's figures."""
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
    """Two epochs without augmentation and dropout end in the bits of a hand-written loop, partial batch included."""
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
    """A network that ends in log_softmax learns what the same network without it learns, up to rounding."""
    logits = initialise(network, seed=5)
    log_probabilities = nn.Sequential(initialise(network, seed=5), nn.LogSoftmax(dim=1))
    one, other = (run(module).epochs[-1] for module in (logits, log_probabilities))
    assert pytest.approx(one.test_loss, rel=1e-3) == other.test_loss


def test_it_learns() -> None:
    """The made-up bars are learnt within some epochs; with shuffled labels they are not."""
    recipe = RECIPE.with_epochs(8)
    labels = DATA.train_labels[torch.randperm(48, generator=torch.Generator().manual_seed(0))]
    learnt = run(recipe=recipe).epochs[-1].test_correct
    unlearnt = run(recipe=recipe, data=dataclasses.replace(DATA, train_labels=labels)).epochs[-1].test_correct
    assert learnt >= 36
    assert unlearnt <= 20


def test_the_same_seed_repeats_and_another_differs() -> None:
    """A seed gives the same bits each time; another seed gives others, from the same weights as well."""
    weights = initialise(lambda: network(dropout=0.2), seed=1)
    first, again = (bits(run(recipe=NOISY)) for _ in range(2))
    assert first == again
    same_weights = initialise(lambda: network(dropout=0.2), seed=1)
    assert state_digest(weights.state_dict()) == state_digest(same_weights.state_dict())
    assert first[0] != run(same_weights, NOISY, seed=2).state_digest


def test_initialise_is_the_plain_seed() -> None:
    """Initial weights are those of torch.manual_seed with the seed itself, and the caller's random state is kept."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        expected = network()
    before = torch.get_rng_state()
    assert state_digest(expected.state_dict()) == state_digest(initialise(network, seed=7).state_dict())
    assert torch.equal(before, torch.get_rng_state())


class Recorder(nn.Module):
    """Keeps the images that pass, and the dropout masks drawn."""

    def __init__(self, *, dropout: float) -> None:
        super().__init__()
        self.net = network()
        self.dropout = dropout
        self.images: list[torch.Tensor] = []
        self.masks: list[torch.Tensor] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.images.append(images)
            self.masks.append(functional.dropout(torch.ones(8), self.dropout))
        return self.net(images)  # type: ignore[no-any-return]


def test_streams_do_not_shift_each_other() -> None:
    """Without augmentation dropout is as before, without dropout the images and their order are."""
    whole, no_dropout, no_augmentation = Recorder(dropout=0.5), Recorder(dropout=0.0), Recorder(dropout=0.5)
    run(whole, NOISY)
    run(no_dropout, NOISY)
    run(no_augmentation, dataclasses.replace(NOISY, augmentation=None))
    assert torch.equal(torch.cat(whole.images), torch.cat(no_dropout.images))
    assert torch.equal(torch.cat(whole.masks), torch.cat(no_augmentation.masks))
    assert not torch.equal(torch.cat(whole.images), torch.cat(no_augmentation.images))
    assert not torch.equal(torch.cat(whole.masks), torch.cat(no_dropout.masks))
    assert (
        len({derived_seed(1, name) for name in ("order", "augmentation", "dropout")} | {derived_seed(2, "order")}) == 4
    )


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_a_devices_own_randomness_is_kept(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device's random state belongs to the streams' state, and is put back like the CPU's."""
    state = {"now": torch.tensor([1])}
    room = getattr(torch, kind)
    monkeypatch.setattr(room, "get_rng_state", lambda *_: state["now"])
    monkeypatch.setattr(room, "set_rng_state", lambda new, *_: state.update(now=new))
    with preserved_randomness(torch.device(kind)):
        streams = RandomStreams(1, torch.device(kind))
        saved = streams.state()
        state["now"] = torch.tensor([2])
        streams.restore(saved)
        restored = state["now"]
        state["now"] = torch.tensor([3])
    assert [1, 1] == [restored.item(), state["now"].item()]


class DrawsInEval(nn.Module):
    """Draws random numbers whenever it runs, in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.net(functional.dropout(images, 0.1, training=True))  # type: ignore[no-any-return]


def test_evaluation_consumes_no_randomness() -> None:
    """Training with more test images ends in the same bits, even for a network that draws in eval mode."""
    few, many = (run(initialise(DrawsInEval, seed=1), data=dataset(test=size)).state_digest for size in (10, 2_010))
    assert few == many


def test_training_leaves_the_callers_randomness() -> None:
    """Torch's global random state is the same before and after a run."""
    before = torch.get_rng_state()
    run(recipe=NOISY)
    assert torch.equal(before, torch.get_rng_state())


def test_evaluation_counts_exactly() -> None:
    """Batches of any size give the same counts, and the network's mode is put back."""
    module = initialise(network, seed=1)
    results = [predict(module, DATA, batch_size=size).evaluation() for size in (1, 7, 1000)]
    assert [results[0].correct] * 3 == [result.correct for result in results]
    assert [40] * 3 == [result.total for result in results]
    assert pytest.approx([results[0].loss] * 3) == [result.loss for result in results]
    assert module.training


class Answers(nn.Module):
    """Answers the same to every image, whatever it is trained to."""

    def __init__(self, row: list[float]) -> None:
        super().__init__()
        self.row = torch.tensor(row)
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.row.expand(len(images), -1) + 0 * self.weight


def test_a_nan_is_never_right() -> None:
    """Torch takes a NaN for the highest answer, so class 3 would be right for a tenth of the images."""
    spoilt = [0.0] * 10
    spoilt[3] = math.nan
    right = [0.0] * 10
    right[3] = 1.0
    assert [4, 0] == [predict(Answers(row), DATA).evaluation().correct for row in (right, spoilt)]


class InTuple(nn.Module):
    """Gives its answers in a tuple."""

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
    """Anything but ten answers an image is an error with both shapes."""
    with pytest.raises(
        InputError, match=r"expected the model's output to have shape=\(16, 10\) for 16 images, " + found
    ):
        run(module)


def test_a_diverging_run_stops() -> None:
    """A rate far too high ends the run in its first epoch, with the weights it began with on record."""
    module = initialise(network, seed=1)
    before = state_digest(module.state_dict())
    record = run(module, dataclasses.replace(RECIPE, optimizer=SGD(lr=1e30)))
    assert ("diverged", (), before) == (record.status, record.epochs, record.state_digest)


class NanInStep5(nn.Module):
    """Learns until the fifth training batch, for which it answers NaN."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()
        self.batches = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.batches += self.training
        output: torch.Tensor = self.net(images)
        return output * math.nan if self.training and self.batches == 5 else output


def test_a_late_divergence_keeps_the_whole_epochs() -> None:
    """A loss that is no number in the second epoch leaves the first one, and its state, in the record."""
    record = run(initialise(NanInStep5, seed=1))
    one_epoch = run(initialise(NanInStep5, seed=1), RECIPE.with_epochs(1))
    assert ("diverged", one_epoch.state_digest) == (record.status, record.state_digest)
    assert [1] == [result.epoch for result in record.epochs]


class NanInEval(nn.Module):
    """Learns, and answers NaN when tested."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.net(images)
        return output if self.training else output * math.nan


def test_a_test_loss_that_is_no_number_diverges() -> None:
    """A network that trains and cannot be tested has diverged in the first epoch."""
    record = run(NanInEval())
    assert ("diverged", ()) == (record.status, record.epochs)


@pytest.mark.parametrize(("images", "batch"), [(33, 16), (48, 1)])
def test_a_single_image_left_over_is_refused(images: int, batch: int) -> None:
    """Batch norm has no variance over one image; without batch norm one image is a batch like any other."""
    data, recipe = dataset(train=images), dataclasses.replace(RECIPE, batch_size=batch, epochs=1)
    with pytest.raises(RecipeError, match=rf"recipe made-up: .* got batch_size={batch} for {images} images"):
        run(recipe=recipe, data=data)
    assert run(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), recipe, data).epochs[0].train_total == images


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_out_of_range_is_named(seed: int) -> None:
    """Seeds are 63-bit numbers, for the weights and for the run."""
    with pytest.raises(InputError, match=rf"expected a seed from 0 to 2\*\*63 - 1, got seed={seed}"):
        initialise(network, seed=seed)
    with pytest.raises(InputError, match=f"got seed={seed}"):
        run(network(), seed=seed)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (None, [0.1, 0.1, 0.1]),
        (StepLR(step_size=1, gamma=0.5), [0.1, 0.05, 0.025]),
        (WarmupCosine(warmup=0.5, until=0.6, floor=0.5), [0.075, 0.05, 0.05]),
        (ReduceLROnPlateau(factor=0.5, patience=0), [0.1, 0.1, 0.05]),
    ],
)
def test_the_schedule_moves_the_rate(schedule: Schedule | None, expected: list[float]) -> None:
    """The recorded rate is that of each epoch's last step: 3 steps an epoch, with a test loss that never falls."""
    record = run(Answers([0.0] * 10), dataclasses.replace(RECIPE, schedule=schedule))
    assert pytest.approx(expected) == [result.lr for result in record.epochs]


def test_the_observer_sees_the_run() -> None:
    """Start, the last step of each epoch, and each epoch's result are told, with figures that agree."""
    witness = Witness()
    record = run(observer=witness)
    assert [{"spec": record.spec, "steps": 3, "done": ()}] == witness.started
    assert list(record.epochs) == witness.epochs
    last_steps = [seen for seen in witness.steps if seen["step"] == seen["steps"]]
    assert [
        {"epoch": r.epoch, "step": 3, "steps": 3, "loss": r.train_loss, "correct": r.train_correct, "seen": 48}
        for r in record.epochs
    ] == last_steps


def test_looking_often_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading the figures after every step gives the same bits as reading them once an epoch."""
    seldom = bits(run(recipe=NOISY))
    monkeypatch.setattr("harness.training.loop._SECONDS_BETWEEN_REPORTS", -1.0)
    witness = Witness()
    assert seldom == bits(run(recipe=NOISY, observer=witness))
    assert len(witness.steps) == 9


def test_the_record_names_what_ran() -> None:
    """Model, recipe, seed, data, device and machine stand in the record."""
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


@pytest.mark.parametrize(
    "schedule", [NOISY.schedule, ReduceLROnPlateau(factor=0.5, patience=0), StepLR(step_size=1, gamma=0.5), None]
)
def test_a_resumed_run_has_the_same_bits(schedule: Schedule | None, tmp_path: Path) -> None:
    """Interrupted in its second and third epoch and resumed, a run ends as if it had never been stopped."""
    recipe = dataclasses.replace(NOISY, schedule=schedule, epochs=4)
    for epoch in (2, 3):
        with pytest.raises(TrainingInterrupted) as stopped:
            run(recipe=recipe, checkpoint_dir=tmp_path, observer=Witness(stop_in=epoch))
        assert ("interrupted", epoch - 1) == (stopped.value.record.status, len(stopped.value.record.epochs))
    witness = Witness()
    resumed = run(recipe=recipe, checkpoint_dir=tmp_path, observer=witness)
    assert bits(run(recipe=recipe)) == bits(resumed)
    assert list(resumed.epochs) == [*witness.started[0]["done"], *witness.epochs]
    assert len(witness.epochs) == 2


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    """Resuming a complete run gives its record and trains nothing; starting over trains all."""
    first, again, over = Witness(), Witness(), Witness()
    record = run(checkpoint_dir=tmp_path, observer=first)
    assert bits(record) == bits(run(checkpoint_dir=tmp_path, observer=again))
    assert bits(record) == bits(run(checkpoint_dir=tmp_path, observer=over, resume=False))
    assert [3, 0, 3] == [len(witness.epochs) for witness in (first, again, over)]


def test_two_checkpoints_are_kept(tmp_path: Path) -> None:
    """The newest and the one before stay; nothing else is in the folder."""
    run(checkpoint_dir=tmp_path)
    assert ["epoch-0002", "epoch-0003"] == sorted(path.stem[:10] for path in tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_damaged_checkpoint_is_passed_over(damage: str, tmp_path: Path) -> None:
    """With the newest checkpoint damaged, the one before is used, with a warning, and the bits are the same."""
    whole = bits(run(checkpoint_dir=tmp_path))
    newest = max(tmp_path.iterdir())
    content = newest.read_bytes()
    flipped = content[:2000] + bytes([content[2000] ^ 1]) + content[2001:]
    newest.write_bytes({"truncated": content[:-100], "flipped": flipped, "empty": b""}[damage])
    witness = Witness()
    assert whole == bits(run(checkpoint_dir=tmp_path, observer=witness))
    assert [3] == [result.epoch for result in witness.epochs]
    (warning,) = witness.warnings
    assert newest.name in warning
    assert ["epoch-0002", "epoch-0003"] == sorted(path.stem[:10] for path in tmp_path.iterdir())


def test_with_all_checkpoints_damaged_the_run_starts_over(tmp_path: Path) -> None:
    """Nothing usable left means the run begins anew, and says so once a file."""
    whole = bits(run(checkpoint_dir=tmp_path))
    for path in tmp_path.iterdir():
        path.write_bytes(b"")
    witness = Witness()
    assert whole == bits(run(checkpoint_dir=tmp_path, observer=witness))
    assert (3, 2) == (len(witness.epochs), len(witness.warnings))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 2}, "seed=1 instead of 2"),
        ({"recipe": RECIPE.with_epochs(4)}, "recipe="),
        ({"data": dataclasses.replace(DATA, digest="e" * 64)}, "data_digest='ddd"),
    ],
)
def test_another_runs_checkpoint_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    """A folder with the checkpoints of another run is an error that says what differs; starting over removes them."""
    run(checkpoint_dir=tmp_path)
    with pytest.raises(CheckpointError, match="expected a checkpoint of this run") as caught:
        run(checkpoint_dir=tmp_path, **change)
    assert message in str(caught.value)
    assert run(checkpoint_dir=tmp_path, resume=False, **change).status == "complete"


def test_an_interrupt_without_checkpoints_has_its_record() -> None:
    """The exception carries the whole epochs, and the state after the last of them."""
    with pytest.raises(KeyboardInterrupt) as stopped:
        run(observer=Witness(stop_in=2))
    assert isinstance(stopped.value, TrainingInterrupted)
    assert run(recipe=RECIPE.with_epochs(1)).state_digest == stopped.value.record.state_digest


def test_an_unusable_checkpoint_folder_is_named(tmp_path: Path) -> None:
    """A file in the folder's place is an error with the path."""
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match=r"expected a folder for checkpoints, got .*taken"):
        run(checkpoint_dir=tmp_path / "taken")
