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


def test_dropout_shows_beside_a_far_larger_branch() -> None:
    """What dropout changes is lost in the output's rounding, and shows in what it gives itself."""
    large = experiments(lambda x: functional.dropout(x, 0.5, training=True) + 1e30)

    assert (False, True) == (large.training_passes_differ, large.dropouts_draw)
    assert not experiments(lambda x: x).dropouts_draw


class Counting(Stepping):
    """Counts its passes in a buffer, and scales by the count."""

    def __init__(self, *, in_evaluation: bool) -> None:
        super().__init__(lambda x: x)
        self.register_buffer("count", torch.zeros(1))
        self.in_evaluation = in_evaluation

    def forward(self, images: Tensor) -> Tensor:
        """Three numbers an image."""
        if self.training or self.in_evaluation:
            self.get_buffer("count").add_(1)
        return super().forward(images) * self.get_buffer("count")


def test_a_buffer_that_changes_is_not_random() -> None:
    """Training passes start from the same buffers; an evaluation that writes into one is named."""
    for in_evaluation in (False, True):
        captured = capture(Counting(in_evaluation=in_evaluation), (1, 6, 6), name="counting", twice=False)
        structure = Structure(captured.graph)
        found = Experiments(captured, structure)
        assert not found.training_passes_differ
        assert ((), True) == (structure.changed_in_evaluation, found.evaluation_repeats) or in_evaluation
    assert ("count",) == structure.changed_in_evaluation
    assert not found.evaluation_repeats


@pytest.mark.parametrize("change", [lambda x: x.sub_(0.1307).div_(0.3081), lambda x: x[:, :, :2].zero_()])
def test_images_changed_in_place_are_the_models_own(change: Callable[[Tensor], object]) -> None:
    """Each experiment gets the images that it asked for."""

    class Changing(Stepping):
        """Changes its images first."""

        def forward(self, images: Tensor) -> Tensor:
            """Three numbers an image."""
            change(images)
            return super().forward(images)

    captured = capture(Changing(lambda x: x), (1, 6, 6), name="changing", twice=False)
    images = torch.ones(2, 1, 6, 6)
    captured.to_module()(images)

    assert captured.fidelity.holds
    assert Experiments(captured, Structure(captured.graph)).evaluation_repeats
    assert torch.equal(torch.ones(2, 1, 6, 6), images)


UNUSUAL: dict[str, Step] = {
    "a scalar": lambda x: x.mean(),
    "one number an image": lambda x: x.mean(1),
    "no image": lambda x: x.mean(0),
    "half precision": lambda x: x.half(),
    "truth values": lambda x: x > 0,
    "whole numbers": lambda x: x.argmax(1),
    "NaN": lambda x: x * float("nan"),
    "infinity": lambda x: x / 0,
    "one class is impossible": lambda x: torch.cat([x[:, :2], torch.full_like(x[:, :1], float("-inf"))], 1),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_outputs_are_compared(name: str) -> None:
    """Every experiment has an answer for every output, and what is not finite is equal to itself."""
    found = experiments(UNUSUAL[name])

    assert found.evaluation_repeats
    assert (name not in ("NaN", "infinity")) == found.has_predictions
    assert (name in ("a scalar", "no image")) != found.permutation_equivariant
    assert (name == "a scalar") != found.batch_independent or name == "no image"
    assert found.predictions_vary in (True, False)
    assert not found.gradients.failure
    assert () == found.fields.disagreements


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
