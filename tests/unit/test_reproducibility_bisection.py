"""Bisecting two runs: planted differences are found to the step and the tensor, and what cannot be known is not claimed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from harness.data import Augmentation, Dataset
from harness.reproducibility import Bisection, Cause, Tracer, bisect
from harness.reproducibility.trace import Trace, TracedEnoughError
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
    """A training with a difference planted just before one step, seen from inside by a tracer, too."""

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

    def retrace(self, after: int, upto: int) -> Trace:
        """Train a stretch again, with what is planted in it."""
        self.tracer = Tracer(CPU, after=after, upto=upto)
        with pytest.raises(TracedEnoughError):
            self.train()
        return self.tracer.trace


@pytest.fixture(scope="module")
def clean() -> RunRecord:
    """The record of a training that nothing was planted in."""
    return Planted().train()


def found(clean: RunRecord, planted: Planted) -> Bisection:
    """A bisection with both runs at hand."""
    return bisect(clean, planted.train(), retrace_one=Planted().retrace, retrace_other=planted.retrace)


def flip(step: Step) -> None:
    """Flip the last bit of one weight of the last layer."""
    weight = step.module.get_parameter("5.weight")
    weight.detach().view(torch.int32)[3, 7] ^= 1


def set_rate(step: Step) -> None:
    """Train on with a rate a little lower."""
    step.optimizer.param_groups[0]["lr"] = 0.049


def swapped(data: Dataset, recipe: Recipe, streams: RandomStreams, epoch: int) -> Iterator[Batch]:
    """The usual batches, the twentieth and the one after it the other way round."""
    batches = list(shuffled_batches(data, recipe, streams))
    return iter([*batches[:19], batches[20], batches[19], *batches[21:]] if epoch == 1 else batches)


def test_equal_runs_do_not_part(clean: RunRecord) -> None:
    """Nothing is found where nothing was planted, and nothing is trained again for it."""
    result = bisect(clean, Planted().train())

    assert (None, 50, 50) == (result.difference, result.agreed, result.steps)
    assert result.words() == "bit-equal at all steps up to 50 that both records have digests of"


def test_one_flipped_bit_is_found(clean: RunRecord) -> None:
    """One bit of one weight flipped before step 12: that step, that tensor, that size."""
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
    assert result.words().startswith("differs before step 12 in tensor 5.weight by ")


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
    """What was changed in the input of one step is found at that step, with its cause."""
    result = found(clean, planted)

    assert result.difference is not None
    assert (step, kind, cause, True) == (
        result.difference.step,
        result.difference.kind,
        result.difference.cause,
        result.exact,
    )


def test_a_changed_rate_is_told(clean: RunRecord) -> None:
    """The two learning rates stand in the detail."""
    result = found(clean, Planted(before=37, act=set_rate))

    assert result.difference is not None
    assert "0.05 against 0.049" == result.difference.detail


def test_another_initialisation_is_found(clean: RunRecord) -> None:
    """Other initial weights are found before the first step, with the first tensor and its size."""
    result = found(clean, Planted(weights=2))

    assert result.difference is not None
    assert (0, "0.weight", Cause.INITIALISATION) == (
        result.difference.step,
        result.difference.tensor,
        result.difference.cause,
    )
    assert result.words().startswith("differs before the first step in tensor 0.weight by ")


def test_without_training_again_the_digests_tell_what_they_can(clean: RunRecord) -> None:
    """Between two digests neither step nor tensor is known, and the words say so."""
    result = bisect(clean, Planted(before=12, act=flip).train())

    assert not result.exact
    assert "differs after step 10 and by step 20 in the parameters; likely cause: arithmetic" == result.words()


def test_digests_of_every_step_are_exact_by_themselves() -> None:
    """Records with a digest after every step need no second training for the step."""
    clean, planted = Planted(digest_every=1), Planted(digest_every=1, before=37, act=set_rate)
    result = bisect(clean.train(), planted.train())

    assert result.difference is not None
    assert (37, "rate", True) == (result.difference.step, result.difference.kind, result.exact)


def test_digests_at_other_distances_are_compared_where_they_meet(clean: RunRecord) -> None:
    """A record of every tenth step and one of every fourth meet at step 20."""
    result = bisect(clean, Planted(digest_every=4, before=12, act=flip).train())

    assert (0, 20) == (result.agreed, result.difference and result.difference.step)


def test_what_the_record_does_not_hold_is_not_claimed(clean: RunRecord) -> None:
    """A run whose difference does not come again is known only between two digests, and a note says why."""
    planted = Planted(before=12, act=flip).train()
    result = bisect(clean, planted, retrace_one=Planted().retrace, retrace_other=Planted().retrace)

    assert not result.exact
    assert 1 == len(result.notes)
    assert "the second run takes another course than its record by step 20" in result.notes[0]


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"graph_digest": "h" * 64}, Cause.MODEL),
        ({"recipe": dataclasses.replace(RECIPE, batch_size=8, epochs=1)}, Cause.RECIPE),
        ({"data_digest": "e" * 64}, Cause.DATA),
        ({"device": "cuda:0"}, Cause.ENVIRONMENT),
        ({}, Cause.ARITHMETIC),
    ],
)
def test_what_is_declared_differently_is_the_cause(change: dict[str, Any], cause: Cause) -> None:
    """Equal inputs and another state: the cause is what the records declare differently, else arithmetic."""
    one = dataclasses.replace(record([9_900]), digests=(digests(0), digests(50)))
    other = dataclasses.replace(one, digests=(digests(0), digests(50, parameters="f" * 16)), **change)
    result = bisect(one, other)

    assert result.difference is not None
    assert cause == result.difference.cause
    assert len(change) == len(result.declared)


def test_a_result_is_plain_data() -> None:
    """The JSON holds step, tensor, size and cause; a size that is no number is text, since JSON has none."""

    def spoilt() -> Planted:
        bias = "0.bias"
        return Planted(
            before=12, act=lambda step: nn.init.constant_(step.module.get_parameter(bias), torch.nan), digest_every=1
        )

    sound = Planted(digest_every=1)
    result = bisect(sound.train(), spoilt().train(), retrace_one=sound.retrace, retrace_other=spoilt().retrace)
    content = result.to_json()

    assert [] == content["notes"]
    assert (12, "0.bias", "nan", "arithmetic") == tuple(
        content["difference"][key] for key in ("step", "tensor", "size", "cause")
    )
    assert content["exact"]
