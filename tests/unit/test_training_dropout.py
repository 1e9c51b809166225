"""Dropout that draws distances: the same distribution as the usual one, and the right gradients."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from scipy import stats
from torch import Tensor

from harness.training.dropout import (
    NothingDropped,
    dropped_positions,
    seeded_operations,
    sparse_dropout,
    sparse_relu_dropout,
)

FORMATS = (torch.contiguous_format, torch.channels_last)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(3)


def maps(memory_format: torch.memory_format) -> Tensor:
    """(4, 6, 5, 5) numbers, none of them 0."""
    return torch.randn(4, 6, 5, 5).contiguous(memory_format=memory_format)


@pytest.mark.parametrize("p", [0.001, 0.025, 0.1, 0.24])
def test_each_value_is_dropped_with_the_probability_that_was_asked_for(p: float) -> None:
    """The number dropped, over 200 draws, is binomial; and so it is in each tenth of the positions."""
    count, draws = 20_000, 200
    tenths = torch.zeros(10, dtype=torch.int64)
    numbers = []
    for _ in range(draws):
        positions = dropped_positions(count, p)
        numbers.append(len(positions))
        tenths += torch.bincount(positions * 10 // count, minlength=10)
    spread = math.sqrt(count * p * (1 - p))

    assert abs(sum(numbers) / draws - count * p) < 4 * spread / math.sqrt(draws)
    assert 0.8 < torch.tensor(numbers, dtype=torch.float64).std().item() / spread < 1.25
    assert stats.chisquare(tenths.numpy()).pvalue > 0.001


def test_the_distances_are_geometric() -> None:
    """Distances between dropped values against the geometric distribution: a chi-square test over 300,000 of them."""
    p = 0.1
    distances = dropped_positions(3_000_000, p).diff()
    seen = torch.bincount(distances.clamp(max=40))[1:].numpy()
    expected = [p * (1 - p) ** k for k in range(39)] + [(1 - p) ** 39]

    assert stats.chisquare(seen, [share * len(distances) for share in expected]).pvalue > 0.001


def test_neighbours_are_dropped_independently() -> None:
    """Of the values after a dropped one, p are dropped."""
    p = 0.2
    dropped = torch.zeros(1_000_001, dtype=torch.bool)
    dropped[dropped_positions(1_000_000, p)] = True
    after = dropped[1:][dropped[:-1]].double()

    assert abs(after.mean().item() - p) < 4 * math.sqrt(p * (1 - p) / len(after))


def test_positions_rise_and_lie_within_the_values() -> None:
    """No position comes twice, none is outside."""
    positions = dropped_positions(1000, 0.2)

    assert bool((positions.diff() > 0).all())
    assert 0 <= int(positions[0])
    assert int(positions[-1]) < 1000


def test_with_p_0_nothing_is_dropped_and_nothing_drawn() -> None:
    """The generator stays where it was."""
    before = torch.get_rng_state()

    assert dropped_positions(1000, 0.0).tolist() == []
    assert torch.equal(before, torch.get_rng_state())


def test_when_the_numbers_run_out_more_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """With only zeros drawn, everything is dropped: eighty times as many as were expected."""
    monkeypatch.setattr(torch, "rand", torch.zeros)

    assert dropped_positions(2000, 0.0125).tolist() == list(range(2000))


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("scaled", [False, True])
def test_values_and_gradients_are_those_of_a_mask(
    *, memory_format: torch.memory_format, in_place: bool, scaled: bool
) -> None:
    """What is kept is multiplied by the factor, what is dropped is 0, and so are their gradients."""
    given = maps(memory_format).requires_grad_()
    factor = 1.25 if scaled else 1.0
    result = sparse_dropout(given * 1.0, 0.2, factor, in_place=in_place)
    kept = (result.detach() != 0).float()
    weights = torch.randn(given.shape)
    torch.autograd.backward((result * weights).sum())

    assert 0.5 < kept.mean() < 0.95
    assert torch.equal(result.detach(), given.detach() * factor * kept)
    assert given.grad is not None
    assert torch.equal(given.grad, weights * factor * kept)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("scaled", [False, True])
def test_with_relu_values_and_gradients_are_those_of_relu_and_a_mask(
    *, memory_format: torch.memory_format, in_place: bool, scaled: bool
) -> None:
    """Values below 0 and dropped ones give 0 and take no gradient."""
    given = maps(memory_format).requires_grad_()
    factor = 1.25 if scaled else 1.0
    result = sparse_relu_dropout(given * 1.0, 0.2, factor, in_place=in_place)
    kept = (result.detach() != 0).float()
    weights = torch.randn(given.shape)
    torch.autograd.backward((result * weights).sum())

    assert 0.6 < kept.sum() / (given > 0).sum() < 0.95
    assert torch.equal(result.detach(), given.detach().relu() * factor * kept)
    assert given.grad is not None
    assert torch.equal(given.grad, weights * factor * kept)


def test_the_gradient_fits_values_that_lie_otherwise_in_memory() -> None:
    """A gradient with channels first, of maps with channels last, is dropped at the right places."""
    given = maps(torch.channels_last).requires_grad_()
    result = sparse_dropout(given, 0.2, 1.0, in_place=False)
    weights = torch.randn(4, 6, 5, 5)
    (gradient,) = torch.autograd.grad(result, given, grad_outputs=weights)

    assert torch.equal(gradient, weights * (result != 0))


@pytest.mark.parametrize("dropout", [sparse_dropout, sparse_relu_dropout])
def test_only_in_place_the_given_values_change(dropout: Callable[..., Tensor]) -> None:
    """In place the result is what was given; otherwise what was given stays."""
    given = maps(torch.contiguous_format)
    before = given.clone()

    apart = dropout(given, 0.2, 1.0, in_place=False)
    assert torch.equal(given, before)
    there = dropout(given, 0.2, 1.0, in_place=True)

    assert apart.data_ptr() != given.data_ptr()
    assert there.data_ptr() == given.data_ptr()


def test_values_with_gaps_in_memory_are_copied_first() -> None:
    """Every second column of a larger tensor: its neighbours stay, even in place."""
    larger = torch.ones(4, 6, 5, 10)

    result = sparse_dropout(larger[..., ::2], 0.2, 1.0, in_place=True)

    assert bool((larger == 1).all())
    assert 0 < int((result == 0).sum()) < result.numel()


NAMES = sorted(seeded_operations(None))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("p", "train"), [(0.3, True), (0.0, True), (1.0, True), (0.3, False)])
def test_dropout_is_that_of_aten(name: str, p: float, train: bool) -> None:  # noqa: FBT001
    """The same bits from the same random state, so the same distribution."""
    values = torch.randn(4, 6, 5, 5, generator=torch.Generator().manual_seed(1))
    theirs, ours = values.clone(), values.clone()
    torch.manual_seed(5)
    expected = getattr(torch.ops.aten, name.split(".")[1])(theirs, p, train)
    found = seeded_operations(torch.Generator().manual_seed(5))[name](ours, p, train)
    assert torch.equal(expected, found)
    assert torch.equal(theirs, ours)


@pytest.mark.parametrize("p", [0.001, 0.1, 0.5])
def test_with_nothing_dropped_every_value_is_scaled(p: float) -> None:
    """The usual, the sparse and the seeded dropout multiply all values by 1 / (1 - p), however many there are."""
    values = torch.rand(100_000) + 0.1
    with NothingDropped():  # type: ignore[no-untyped-call]
        found = [
            torch.dropout(values, p, train=True),
            sparse_dropout(values, p, 1 / (1 - p), in_place=False),
            sparse_relu_dropout(values, p, 1 / (1 - p), in_place=False),
            seeded_operations(torch.Generator())["aten.dropout.default"](values, p, True),  # noqa: FBT003 - ATen's signature
        ]

    for result in found:
        torch.testing.assert_close(values / (1 - p), result)
    assert bool((torch.dropout(values, p, train=True) == 0).any())
