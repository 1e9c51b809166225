"""Dropouts written by hand, and random numbers that make none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.graph import CapturedModel, capture
from harness.structure import Structure
from tests.made_up import decided

Step = Callable[[Tensor], Tensor]


class Masked(nn.Module):
    """A convolution, a step in training and one in evaluation, and the mean over the map."""

    def __init__(self, training: Step, evaluation: Step) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.steps = (evaluation, training)

    def forward(self, images: Tensor) -> Tensor:
        """Four numbers an image."""
        return self.steps[self.training](self.conv(images)).mean((2, 3))


def captured(training: Step, evaluation: Step = lambda x: x) -> CapturedModel:
    """The network with these steps on 1x10x10 images."""
    return capture(Masked(training, evaluation), (1, 10, 10), name="masked", twice=False)


def drawn_in_place(maps: Tensor) -> Tensor:
    """A mask made and scaled in place."""
    return maps * torch.empty_like(maps).bernoulli_(0.8).div_(0.8)


def in_blocks(maps: Tensor) -> Tensor:
    """Squares are dropped, and the rest scaled by what is left."""
    kept = 1 - functional.max_pool2d((torch.rand_like(maps) < 0.02).float(), 3, 1, 1)
    return maps * kept * (kept.numel() / kept.sum())


MASKS: dict[str, Step] = {
    "bernoulli": lambda x: x * torch.bernoulli(torch.full_like(x, 0.8)) / 0.8,
    "without scaling": lambda x: x * torch.bernoulli(torch.full_like(x, 0.8)),
    "comparison": lambda x: x * (torch.rand_like(x) > 0.2) / 0.8,
    "of a shape": lambda x: x * (torch.rand(x.shape) < 0.8).float().mul(1.25),
    "where": lambda x: torch.where(torch.rand_like(x) < 0.2, 0.0, x / 0.8),
    "masked fill": lambda x: x.masked_fill(torch.rand_like(x) < 0.2, 0.0) / 0.8,
    "rounded down": lambda x: x / 0.8 * torch.floor(torch.rand_like(x) + 0.8),
    "channels": lambda x: x * torch.bernoulli(torch.full((x.shape[0], 4, 1, 1), 0.8)) / 0.8,
    "in place": drawn_in_place,
    "blocks": in_blocks,
}
OTHERS: dict[str, tuple[Step, str]] = {
    "added noise": (lambda x: x + 0.1 * torch.randn_like(x), "randn_like"),
    "noise as a factor": (lambda x: x * (1 + 0.1 * torch.randn_like(x)), "randn_like"),
    "whole images": (lambda x: x * torch.bernoulli(torch.full((x.shape[0], 1, 1, 1), 0.8)), "bernoulli"),
    "drawn by the images": (lambda x: torch.bernoulli(torch.sigmoid(x)), "bernoulli"),
    "nothing below one": (lambda x: x * (1 + torch.bernoulli(torch.full_like(x, 0.5))), "bernoulli"),
}


@pytest.mark.parametrize("name", MASKS)
def test_a_dropout_by_hand_is_found(name: str) -> None:
    """With the probability that is measured, and active in training only."""
    model = captured(MASKS[name])
    (site,) = Structure(model.graph, model.state).dropouts

    assert pytest.approx(0.2, abs=0.05) == site.p
    assert (True, False, True) == (site.active_in_training, site.active_in_evaluation, site.live)


@pytest.mark.parametrize("name", OTHERS)
def test_random_numbers_that_make_no_dropout_are_named(name: str) -> None:
    """Neither presence nor absence is claimed."""
    step, drawn_by = OTHERS[name]
    model = captured(step)

    assert ((drawn_by,), ()) == Structure(model.graph, model.state).unknown_draws
    assert () == Structure(model.graph, model.state).dropouts


def test_what_is_drawn_decides_the_requirement() -> None:
    """A mask passes, unless evaluation draws it, too; noise leaves it open, except beside a dropout in training."""
    mask, noise = MASKS["comparison"], OTHERS["added noise"][0]
    unknown = "unknown: whether randn_like acts as a dropout in"

    def dropped(maps: Tensor) -> Tensor:
        return functional.dropout(maps, 0.1)

    findings = [
        decided(captured(*steps), "[dropout]\nrequired = true", "dropout")
        for steps in ((mask,), (mask, mask), (noise,), (dropped, noise), (lambda x: dropped(noise(x)),))
    ]

    assert ["pass", "fail", "unknown", "unknown", "pass"] == [finding.status for finding in findings]
    assert "ACTIVE in evaluation" in findings[1].evidence[0]
    assert [f"{unknown} training could not be determined", f"{unknown} evaluation could not be determined"] == [
        finding.observed for finding in findings[2:4]
    ]
