"""Dropouts and batch normalisations in both modes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.graph import CapturedModel, capture
from harness.structure import Structure


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
    assert [("drop", 0.2, True, False, True), ("", 0.3, True, True, False), ("", 0.4, False, True, False)] == [
        (site.module, site.p, site.active_in_training, site.active_in_evaluation, site.live)
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
    assert ("randn_like",) == structure.random_operations
