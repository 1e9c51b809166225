"""Random streams: independent of each other, and without effect on the caller's random state."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

import pytest
import torch
from torch import nn
from torch.nn import functional

from harness.errors import InputError
from harness.training import (
    initialise,
    predict,
    state_digest,
    train,
)
from harness.training.randomness import RandomStreams, derived_seed, preserved_randomness
from tests.made_up import dataset, network, spec
from tests.training_runs import NOISY, run


def test_initialise_is_the_plain_seed() -> None:
    """Initial weights are those after torch.manual_seed with the same seed, and the caller's random state is restored."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        expected = network()
    before = torch.get_rng_state()
    assert state_digest(expected.state_dict()) == state_digest(initialise(network, seed=7).state_dict())
    assert torch.equal(before, torch.get_rng_state())


class Recorder(nn.Module):
    """Keeps its input images and the dropout masks that it draws."""

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
    """Turning augmentation off does not change the dropout masks; turning dropout off does not change the images."""
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
    """The random state of a device is part of the streams' state, and is restored like the CPU's."""
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
    """Draws random numbers in every forward pass, in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.net(functional.dropout(images, 0.1, training=True))  # type: ignore[no-any-return]


def test_evaluation_consumes_no_randomness() -> None:
    """Training with more test images gives the same bits, even for a model that draws in eval mode."""
    few, many = (run(initialise(DrawsInEval, seed=1), data=dataset(test=size)).state_digest for size in (10, 2_010))
    assert few == many


def test_training_leaves_the_callers_randomness() -> None:
    """The global random state of PyTorch is the same before and after a run."""
    before = torch.get_rng_state()
    run(recipe=NOISY)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_out_of_range_is_named(seed: int) -> None:
    """Seeds are 63-bit numbers, for the initial weights and for the run."""
    with pytest.raises(InputError, match=rf"expected a seed from 0 to 2\*\*63 - 1, got seed={seed}"):
        initialise(network, seed=seed)
    with pytest.raises(InputError, match=f"got seed={seed}"):
        run(network(), seed=seed)


@pytest.mark.parametrize(
    "work",
    [
        lambda: train(network(), spec(), dataset()),
        lambda: predict(network(), dataset()),
        lambda: initialise(network, seed=1),
    ],
    ids=["train", "predict", "initialise"],
)
def test_two_trainings_at_once_are_refused(work: Callable[[], object]) -> None:
    """Another thread would draw from the same random numbers; the same thread may nest, and another one may follow."""
    with (
        preserved_randomness(torch.device("cpu")),
        preserved_randomness(torch.device("cpu")),
        ThreadPoolExecutor(1) as thread,
    ):
        refused = thread.submit(work)
        with pytest.raises(InputError, match="one training or evaluation at a time"):
            refused.result()
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(work).result() is not None


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (lambda: torch.autocast("cpu", torch.bfloat16), r"torch\.autocast"),
        (torch.inference_mode, "inference_mode"),
        (torch.no_grad, "no_grad"),
        (lambda: torch.device("meta"), r"torch\.set_default_device"),
    ],
    ids=["autocast", "inference", "no_grad", "device"],
)
def test_a_training_with_other_arithmetic_is_refused(
    block: Callable[[], AbstractContextManager[object]], reason: str
) -> None:
    """What surrounds the call would change the results, which the record would not say."""
    module, data = network(), dataset()
    with block(), pytest.raises(InputError, match=reason):
        train(module, spec(), data)


def test_an_evaluation_with_other_arithmetic_is_refused() -> None:
    """Predictions under autocast are those of other numbers; without gradients, they are the same."""
    module, data = network(), dataset()
    expected = predict(module, data).loss
    with torch.inference_mode():
        assert expected == predict(module, data).loss
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(InputError, match=r"torch\.autocast"):
        predict(module, data)
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.raises(InputError, match=r"torch\.set_default_dtype"):
            predict(module, data)
    finally:
        torch.set_default_dtype(torch.float32)
