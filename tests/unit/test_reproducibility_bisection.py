"""Bisecting two runs: the exact step and tensor of a planted difference, or the range of steps if no more is known."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from harness.data import Augmentation, Dataset
from harness.reproducibility import Bisection, Cause, Tracer, bisect
from harness.reproducibility.trace import Trace, TraceCompleteError
from harness.training import (
    Batch,
    RandomStreams,
    Recipe,
    RunRecord,
    Step,
    TrainingHooks,
    initialise,
    shuffled_batches,
    train,
)
from harness.training.recipe import SGD
from tests.made_up import RECIPE, dataset, digests, network, record, spec

CPU = torch.device("cpu")
# Twenty-five steps an epoch, two epochs.
DATA = dataset(train=400)
NOISY = dataclasses.replace(
    RECIPE, epochs=2, augmentation=Augmentation(rotation=7.0), optimizer=SGD(lr=0.05, momentum=0.9)
)


class Planted:
    """A training with a difference planted before one step; also a step callback, which forwards to a tracer."""

    def __init__(
        self,
        *,
        before: int = 0,
        act: Callable[[Step], object] = lambda _: None,
        hooks: TrainingHooks = TrainingHooks(),  # noqa: B008 - frozen
        weights: int = 1,
        recipe: Recipe = NOISY,
        seed: int = 1,
        digest_every: int = 10,
    ) -> None:
        self.before = before
        self.act = act
        self.hooks = hooks
        self.weights = weights
        self.recipe = recipe
        self.seed = seed
        self.digest_every = digest_every
        self.tracer: Tracer | None = None

    def before_step(self, step: Step) -> None:
        if step.number == self.before:
            self.act(step)
        if self.tracer:
            self.tracer.before_step(step)

    def after_step(self, step: Step) -> None:
        if self.tracer:
            self.tracer.after_step(step)

    def train(self) -> RunRecord:
        """Train to the end."""
        return train(
            initialise(lambda: network(dropout=0.2), seed=self.weights),
            spec(self.recipe, seed=self.seed, digest_every=self.digest_every),
            DATA,
            hooks=dataclasses.replace(self.hooks, callbacks=(self,)),
        )

    def trace(self, after: int, upto: int) -> Trace:
        """Train again, with the planted difference, and trace the steps ``after + 1`` to ``upto``."""
        self.tracer = Tracer(CPU, after=after, upto=upto)
        with pytest.raises(TraceCompleteError):
            self.train()
        return self.tracer.trace


@pytest.fixture(scope="module")
def clean() -> RunRecord:
    """The record of a training without a planted difference."""
    return Planted().train()


def found(clean: RunRecord, planted: Planted) -> Bisection:
    """The bisection, with both runs trained again."""
    return bisect(clean, planted.train(), trace_steps=(Planted().trace, planted.trace))


def flip(step: Step) -> None:
    """Flip the last bit of one weight of the last layer."""
    weight = step.module.get_parameter("5.weight")
    weight.detach().view(torch.int32)[3, 7] ^= 1


def set_rate(step: Step) -> None:
    """Lower the learning rate a little, from this step on."""
    step.optimizer.param_groups[0]["lr"] = 0.049


def swapped(data: Dataset, recipe: Recipe, streams: RandomStreams, epoch: int) -> Iterator[Batch]:
    """The usual batches, with the twentieth and the next one swapped in the first epoch."""
    batches = list(shuffled_batches(data, recipe, streams))
    return iter([*batches[:19], batches[20], batches[19], *batches[21:]] if epoch == 1 else batches)


def test_equal_runs_have_no_difference(clean: RunRecord) -> None:
    """Nothing is found, and nothing is trained again."""

    def fail(after: int, upto: int) -> Trace:
        pytest.fail(f"trained again from step {after} to {upto}")

    result = bisect(clean, Planted().train(), trace_steps=(fail, fail))

    assert (None, 50, 50) == (result.difference, result.agreed, result.steps)
    assert "bit-equal at all steps up to 50 that both records have digests of" == result.describe()


def test_one_flipped_bit_is_found(clean: RunRecord) -> None:
    """One bit of one weight flipped before step 12: the step, the tensor and the size."""
    result = found(clean, Planted(before=12, act=flip))

    assert result.difference is not None
    assert (12, "5.weight", True, Cause.ARITHMETIC) == (
        result.difference.step,
        result.difference.tensor,
        result.difference.between_steps,
        result.difference.cause,
    )
    assert result.difference.size is not None
    assert 0 < result.difference.size < 1e-7
    assert (True, 10) == (result.exact, result.agreed)
    assert result.describe().startswith("differs before step 12 in tensor 5.weight by ")


@pytest.mark.parametrize(
    ("planted", "step", "kind", "cause"),
    [
        (Planted(before=37, act=set_rate), 37, "rate", Cause.RATE),
        (Planted(hooks=TrainingHooks(batches=swapped)), 20, "order", Cause.ORDER),
        (Planted(before=5, act=lambda _: torch.rand(1)), 5, "dropout", Cause.DROPOUT),
    ],
    ids=["rate", "swapped", "dropout"],
)
def test_a_planted_input_is_found(clean: RunRecord, planted: Planted, step: int, kind: str, cause: Cause) -> None:
    """A changed input of a step is found at that step, with its cause."""
    result = found(clean, planted)

    assert result.difference is not None
    assert (step, kind, cause, True) == (
        result.difference.step,
        result.difference.kind,
        result.difference.cause,
        result.exact,
    )


def test_a_changed_rate_is_listed(clean: RunRecord) -> None:
    """The detail has both learning rates."""
    result = found(clean, Planted(before=37, act=set_rate))

    assert result.difference is not None
    assert "0.05 -> 0.049" == result.difference.detail


def test_another_initialisation_is_found(clean: RunRecord) -> None:
    """Other initial weights are found before the first step, with the first tensor and its size."""
    result = found(clean, Planted(weights=2))

    assert result.difference is not None
    assert (0, "0.weight", Cause.INITIALISATION) == (
        result.difference.step,
        result.difference.tensor,
        result.difference.cause,
    )
    assert result.describe().startswith("differs before the first step in tensor 0.weight by ")


def test_without_training_again_a_range_of_steps_is_known(clean: RunRecord) -> None:
    """Between two digests neither the step nor the tensor is known, and the description says so."""
    result = bisect(clean, Planted(before=12, act=flip).train())

    assert not result.exact
    assert "differs after step 10 and by step 20 in the parameters; likely cause: arithmetic" == result.describe()


def test_digests_of_every_step_give_the_exact_step() -> None:
    """Records with digests after every step need no second training."""
    clean, planted = Planted(digest_every=1), Planted(digest_every=1, before=37, act=set_rate)
    result = bisect(clean.train(), planted.train())

    assert result.difference is not None
    assert (37, "rate", True) == (result.difference.step, result.difference.kind, result.exact)


def test_only_steps_with_digests_in_both_records_are_compared(clean: RunRecord) -> None:
    """One record has digests of every tenth step, the other of every fourth: both have step 20."""
    result = bisect(clean, Planted(digest_every=4, before=12, act=flip).train())

    assert (0, 20) == (result.agreed, result.difference and result.difference.step)


def test_a_difference_that_does_not_repeat_gives_no_exact_step(clean: RunRecord) -> None:
    """If a run, trained again, differs from its own record, only the range of steps is known, and a note says why."""
    planted = Planted(before=12, act=flip).train()
    result = bisect(clean, planted, trace_steps=(Planted().trace, Planted().trace))

    assert not result.exact
    assert 1 == len(result.notes)
    assert "the second run differs from its own record by step 20" in result.notes[0]


def test_declared_differences_are_the_cause_of_a_difference_in_the_state() -> None:
    """If all inputs are equal and the recipes differ, the recipe is the likely cause."""
    one = dataclasses.replace(record([9_900]), digests=(digests(0), digests(50)))
    recipe = dataclasses.replace(one.recipe, batch_size=8)
    other = dataclasses.replace(one, digests=(digests(0), digests(50, parameters="f" * 16)), recipe=recipe)
    result = bisect(one, other)

    assert result.difference is not None
    assert (Cause.RECIPE, ("recipe.batch_size: 16 -> 8",)) == (result.difference.cause, result.declared)


def test_a_result_is_written_as_json() -> None:
    """The document has step, tensor, size and cause; the size is text, since JSON has no NaN."""

    def with_nan() -> Planted:
        bias = "0.bias"
        return Planted(
            before=12, act=lambda step: nn.init.constant_(step.module.get_parameter(bias), torch.nan), digest_every=1
        )

    clean = Planted(digest_every=1)
    result = bisect(clean.train(), with_nan().train(), trace_steps=(clean.trace, with_nan().trace))
    content = result.to_json()

    assert [] == content["notes"]
    assert (12, "0.bias", "nan", "arithmetic") == tuple(
        content["difference"][key] for key in ("step", "tensor", "size", "cause")
    )
    assert content["exact"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"state_digest": "1" * 64}, "equal digests, but state_digest: "),
        ({"test_correct": 1}, "equal digests, but test_correct of epoch 2: "),
        ({"train_loss": 9.5}, "equal digests, but train_loss of epoch 2: "),
    ],
)
def test_other_figures_are_no_equal_runs(change: dict[str, Any], words: str) -> None:
    """Records with equal digests of their steps but another digest of the weights or another figure are not bit-equal."""
    one = record([9_900, 9_950])
    last = {name: value for name, value in change.items() if name != "state_digest"}
    other = dataclasses.replace(
        one,
        state_digest=change.get("state_digest", one.state_digest),
        epochs=(one.epochs[0], dataclasses.replace(one.epochs[1], **last)),
    )
    found = bisect(one, other)

    assert not found.equal
    assert found.describe().startswith(words)
