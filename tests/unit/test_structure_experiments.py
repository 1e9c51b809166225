"""Experiments on networks whose predictions depend on what they should not depend on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.graph import capture
from harness.structure import Experiments, Structure

Step = Callable[[Tensor], Tensor]


class Stepping(nn.Module):
    """A convolution, its mean over the map, and a step on the scores; a parameter is trained in vain."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.vain = nn.Parameter(torch.ones(1))
        self.step = step

    def forward(self, images: Tensor) -> Tensor:
        """Three numbers an image."""
        return self.step(functional.relu(self.conv(images)).mean((2, 3)) + 0 * self.vain)


def experiments(step: Step) -> Experiments:
    """Experiments on the network with this step, on 1x6x6 images."""
    captured = capture(Stepping(step), (1, 6, 6), name="stepping", twice=False)
    return Experiments(captured, Structure(captured.graph))


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (lambda x: x, [True, True, True, True]),
        (lambda x: x - x.mean(0), [False, True, False, True]),
        (lambda x: x.roll(1, 0), [False, False, False, True]),
        (lambda x: 0 * x, [True, True, True, False]),
    ],
    ids=["independent", "centred over the batch", "of the image before", "constant"],
)
def test_dependence_on_the_batch_shows(step: Step, expected: list[bool]) -> None:
    """Batch-size invariance, permutation equivariance and batch independence each fail where they should."""
    found = experiments(step)

    assert expected == [
        found.batch_size_invariant,
        found.permutation_equivariant,
        found.batch_independent,
        found.predictions_vary,
    ]


def test_positions_gradients_and_modes() -> None:
    """The pooling ignores positions, a parameter times zero gets no gradient, dropout makes training passes differ."""
    plain, noisy = experiments(lambda x: x), experiments(lambda x: functional.dropout(x, 0.5, training=True))

    assert plain.pooling_ignores_positions
    assert (("vain",), (), False) == (
        plain.gradients.missing,
        plain.gradients.not_finite,
        plain.gradients.complete,
    )
    assert (False, True) == (plain.training_passes_differ, plain.evaluation_repeats)
    assert (True, False) == (noisy.training_passes_differ, noisy.evaluation_repeats)
    assert (None, ()) == (noisy.pooling_ignores_positions, plain.fields.disagreements)


def test_a_gradient_may_come_after_the_first_step() -> None:
    """Behind a layer that starts at zero it does; between two layers that are zero it never does."""

    def missing(*zero: int) -> tuple[str, ...]:
        net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4), nn.ReLU(), nn.Linear(4, 3))
        for index in zero:
            for parameter in net[index].parameters():
                nn.init.zeros_(parameter)
        captured = capture(net, (1, 6, 6), name="zero", twice=False)
        return Experiments(captured, Structure(captured.graph)).gradients.missing

    assert () == missing(5)
    assert ("0.weight", "0.bias", "3.weight", "3.bias", "5.weight") == missing(3, 5)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (lambda x: x, None),
        (lambda x: x - x.logsumexp(1, keepdim=True), "log-probabilities"),
        (lambda x: x.exp() / x.exp().sum(1, keepdim=True), "probabilities"),
        (torch.sigmoid, None),
    ],
    ids=["scores", "log-softmax by hand", "softmax by hand", "sigmoid"],
)
def test_the_numbers_of_a_distribution_show(step: Step, expected: str | None) -> None:
    """Rows of which all numbers, or all their exponentials, sum up to one."""
    assert expected == experiments(step).distribution
