"""What a network holds, and what of it runs: parameters, unused modules, dropouts and batch norms in both modes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.findings import Status
from harness.graph import CapturedModel, capture
from harness.structure import Structure
from tests.made_up import decided


class TwoModes(nn.Module):
    """Dropouts of every kind of activity in one forward, one batch norm of each kind, and noise."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.always = nn.BatchNorm2d(4, track_running_stats=False)
        self.drop = nn.Dropout(0.2)

    def forward(self, images: Tensor) -> Tensor:
        """Four numbers an image."""
        maps = self.always(self.norm(self.drop(self.conv(images))))
        maps = functional.dropout(maps, 0.3, training=True)
        maps = functional.dropout2d(maps, 0.4, not self.training)
        maps = functional.dropout(maps, 0.5 if self.training else 0.0)
        maps = functional.dropout(maps, 0.0 if self.training else 0.6)
        if self.training:
            maps = maps + 0.1 * torch.randn_like(maps)
        result: Tensor = maps.mean((2, 3))
        return result


@pytest.fixture(scope="module")
def structure() -> Structure:
    """What is found in the network, on 1x5x5 images."""
    captured: CapturedModel = capture(TwoModes(), (1, 5, 5), name="modes", twice=False)
    return Structure(captured.graph)


def test_dropouts_are_known_in_both_modes(structure: Structure) -> None:
    """The n-th dropout of a module in training is its n-th in evaluation; only one that drops in training alone is live."""
    assert [
        ("drop", 0.2, 0.0, True, False, True),
        ("", 0.3, 0.3, True, True, False),
        ("", 0.4, 0.4, False, True, False),
        ("", 0.5, 0.0, True, False, True),
        ("", 0.0, 0.6, True, True, False),
    ] == [
        (site.module, site.p, site.p_in_evaluation, site.active_in_training, site.active_in_evaluation, site.live)
        for site in structure.dropouts
    ]
    assert {4 * 9} == {site.elements for site in structure.dropouts}


def test_batch_norms_are_known_in_both_modes(structure: Structure) -> None:
    """Without running statistics the batch's are used in evaluation, which is not ordinary."""
    assert [("norm", True, False, True), ("always", True, True, False)] == [
        (site.module, site.batch_statistics_in_training, site.batch_statistics_in_evaluation, site.ordinary)
        for site in structure.batch_norms
    ]


def test_other_draws_of_random_numbers_are_listed(structure: Structure) -> None:
    """Dropouts are not among them."""
    assert ("randn_like",) == structure.random_operations(structure.graph.train)


class Holding(nn.Module):
    """Parameters that are shared, frozen, and not used; a buffer with weights; a batch norm with its statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.frozen = nn.Linear(4, 4, bias=False).requires_grad_(requires_grad=False)
        self.tied = nn.Linear(4, 4, bias=False)
        self.tied.weight = self.frozen.weight
        self.unused = nn.Linear(5, 1)
        self.register_buffer("scale", torch.full((4,), 2.0))
        self.register_buffer("not_read", torch.zeros(7))

    def forward(self, images: Tensor) -> Tensor:
        """Four numbers an image."""
        scores: Tensor = self.tied(self.frozen(self.norm(self.conv(images)).mean((2, 3)))) * self.scale
        return scores


@pytest.fixture(scope="module")
def holding() -> CapturedModel:
    """The network, captured on 1x5x5 images."""
    return capture(Holding(), (1, 5, 5), name="holding", twice=False)


def test_parameters_and_hidden_state_are_counted_once(holding: CapturedModel) -> None:
    """Shared tensors count once, frozen ones are not trainable, buffers that are read are hidden state or statistics."""
    count = Structure(holding.graph).parameters

    assert (36 + 8 + 16 + 6, 36 + 8 + 6) == (count.total, count.trainable)
    assert (["unused.weight", "unused.bias"], 6) == ([spec.name for spec in count.unreached], count.unreached_elements)
    assert (["scale"], 4) == ([spec.name for spec in count.hidden], count.hidden_elements)
    assert 4 + 4 + 1 == count.statistics


def test_modules_that_are_never_called_are_listed(holding: CapturedModel) -> None:
    """A module whose tensor another one uses is no such module."""
    assert [("unused", "Linear")] == [(m.path, m.type) for m in Structure(holding.graph).never_called]


class Normed(nn.Module):
    """A batch norm whose statistics are kept in one of many ways."""

    def __init__(self, norm: nn.BatchNorm2d, change: Callable[[nn.BatchNorm2d], None] = lambda _: None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = norm
        self.change = change

    def forward(self, images: Tensor) -> Tensor:
        """Four numbers an image."""
        self.change(self.norm)
        result: Tensor = self.norm(self.conv(images)).mean((2, 3))
        return result


class ByHand(Normed):
    """The function on its own, with statistics that the forward moves, or on copies of the buffers, which it does not."""

    def __init__(self, *, moves: bool) -> None:
        super().__init__(nn.BatchNorm2d(4))
        self.moves = moves

    def forward(self, images: Tensor) -> Tensor:
        """Four numbers an image."""
        maps = self.conv(images)
        mean, variance = self.norm.get_buffer("running_mean"), self.norm.get_buffer("running_var")
        if self.training and self.moves:
            mean.mul_(0.9).add_(0.1 * maps.detach().mean((0, 2, 3)))
        return functional.batch_norm(maps, mean.clone(), variance.clone(), training=self.training).mean((2, 3))


def switched_off(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    """The norm after its tracking was switched off."""
    norm.track_running_stats = False
    return norm


@pytest.mark.parametrize(
    ("net", "moves"),
    [
        (Normed(nn.BatchNorm2d(4)), True),
        (Normed(nn.BatchNorm2d(4, momentum=1e-6)), True),
        (Normed(switched_off(nn.BatchNorm2d(4))), False),
        (Normed(nn.BatchNorm2d(4, momentum=0.0)), False),
        (Normed(nn.BatchNorm2d(4), lambda norm: norm.reset_running_stats()), False),
        (ByHand(moves=True), True),
        (ByHand(moves=False), False),
    ],
    ids=["usual", "slowly", "switched off", "no momentum", "reset in each pass", "by hand", "on copies"],
)
def test_statistics_move_in_a_training_step_or_never(net: nn.Module, *, moves: bool) -> None:
    """Where the operations do not show it, a training pass does; statistics that never move are no running statistics."""
    model = capture(net, (1, 6, 6), name="normed", twice=False)
    (site,) = Structure(model.graph, model.state).batch_norms
    finding = decided(model, "[batch_norm]\nrequired = true", "batch_norm")

    assert (moves, moves, not moves) == (site.statistics_move, site.ordinary, site.stuck)
    assert moves == (finding.status is Status.PASS)
    assert moves != ("FIXED statistics in evaluation" in finding.evidence[0])
