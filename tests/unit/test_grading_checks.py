"""The checks against cheating: each has a network that it must fail."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the usual name

from harness.contracts import Contract, examine
from harness.findings import Finding, Status
from harness.grading import checks
from harness.grading.checks import BatchIndependence, PureEvaluation, StateBudget, initial_weights, same_network
from tests.graded import built
from tests.made_up import network


class Wrapped(nn.Module):
    """The made-up network, with a change of the images or of the output."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network()

    def forward(self, images: Tensor) -> Tensor:
        return self.changed(self.network(images))

    def changed(self, output: Tensor) -> Tensor:
        return output


class Constants(Wrapped):
    """Eleven numbers in a constant, one in a buffer, one in an operation."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = torch.arange(10.0)
        self.register_buffer("one", torch.ones(1))

    def changed(self, output: Tensor) -> Tensor:
        return output * self.get_buffer("one") + self.numbers * 0.3


class Frozen(Wrapped):
    """Ten fixed numbers in a parameter that is not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.fixed = nn.Parameter(torch.arange(10.0), requires_grad=False)

    def changed(self, output: Tensor) -> Tensor:
        return output + self.fixed


class Centred(Wrapped):
    """The mean over the batch is subtracted."""

    def changed(self, output: Tensor) -> Tensor:
        return output - output.mean(0, keepdim=True)


class Counting(Wrapped):
    """A buffer changes in each pass."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))

    def changed(self, output: Tensor) -> Tensor:
        seen: Tensor = self.get_buffer("seen")
        seen += 1
        return output + seen


class Noisy(Wrapped):
    """Random numbers are added in each pass."""

    def changed(self, output: Tensor) -> Tensor:
        return output + torch.randn_like(output)


class Dropping(Wrapped):
    """Dropout is active in each pass."""

    def changed(self, output: Tensor) -> Tensor:
        return nn.functional.dropout(output, 0.5)


class Trained(Wrapped):
    """The last layer has the same weights whatever the seed."""

    def __init__(self) -> None:
        super().__init__()
        with torch.no_grad():
            self.network.get_parameter("5.weight").copy_(torch.arange(640.0).reshape(10, 64) / 640)


def decided(requirement: StateBudget | BatchIndependence | PureEvaluation, build: Callable[[], nn.Module]) -> Finding:
    """The finding of a requirement on a network."""
    (found,) = examine(built(1, build), Contract(name="one", requirements=(requirement,)))
    return found


@pytest.mark.parametrize("requirement", [StateBudget(most=0), BatchIndependence(), PureEvaluation()])
def test_an_honest_network_passes(requirement: StateBudget | BatchIndependence | PureEvaluation) -> None:
    """Batch norm's statistics and settings are no hidden numbers."""
    assert Status.PASS is decided(requirement, Wrapped).status


@pytest.mark.parametrize(("most", "status"), [(12, Status.PASS), (11, Status.FAIL)])
def test_state_in_constants_buffers_and_operations_counts(most: int, status: Status) -> None:
    """The limit is inclusive."""
    found = decided(StateBudget(most=most), Constants)
    assert (status, "12 numbers") == (found.status, found.observed)


def test_fixed_parameters_count_as_state() -> None:
    """A parameter that is frozen and the same under every seed holds numbers like a constant."""
    assert ("fixed",) == checks.fixed_parameters(built(1, Frozen), built(2, Frozen))
    assert "10 numbers" == decided(StateBudget(most=100, held={"fixed": 10}), Frozen).observed


@pytest.mark.parametrize(
    ("changed", "numbers"),
    [
        (lambda x: x * 0.5 * 0.5 * 0.5, 1),
        (lambda x: x * 2 * 3 * 2 * 2 * 0.3 * 0.3, 4),
        (lambda x: x * 1, 0),
        (lambda x: x + torch.full((1,), 2**60) // 256 ** torch.arange(3).sum(), 3),
        (lambda x: x + torch.stack([x[:, k] for k in (3, 1, 4, 1, 5)], 1).sum(), 3),
        (lambda x: torch.cat([F.leaky_relu(x, slope) for slope in (0.1, 0.2, 0.1)]), 2),
        (lambda x: x.view(-1, 5, 2).transpose(1, 2).flatten(1), 0),
        (lambda x: F.avg_pool2d(x[:, None], 1, divisor_override=7)[:, 0], 1),
    ],
)
def test_each_number_in_an_operation_counts(changed: Callable[[Tensor], Tensor], numbers: int) -> None:
    """Whole ones, too, and each time, unless all calls have the same; sizes and dimensions do not."""

    class Changed(Wrapped):
        def changed(self, output: Tensor) -> Tensor:
            return changed(output)

    assert f"{numbers} numbers" == decided(StateBudget(most=0), Changed).observed


def test_operations_without_end_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each could stand for a number, such as by a plus or minus."""
    monkeypatch.setattr(checks, "_MAX_OPERATIONS", 5)
    assert Status.FAIL is decided(StateBudget(most=0), Wrapped).status


def test_predictions_that_depend_on_the_batch_fail() -> None:
    """The mean over the batch couples the images."""
    assert Status.FAIL is decided(BatchIndependence(), Centred).status


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (Counting, "evaluation changes seen"),
        (Noisy, "evaluation draws random numbers"),
        (Dropping, "dropout is active in evaluation"),
    ],
)
def test_evaluation_that_is_not_pure_fails(build: Callable[[], nn.Module], words: str) -> None:
    """The finding says why."""
    found = decided(PureEvaluation(), build)
    assert Status.FAIL is found.status
    assert words in found.observed


def test_equal_builds_are_the_same_network() -> None:
    """Weights may differ."""
    found = same_network([built(1), built(1), built(2)])
    assert (Status.PASS, "the same network in 3 builds") == (found.status, found.observed)


def test_a_network_that_changes_from_build_to_build_fails() -> None:
    """With the same seed, or with another one."""
    other = built(1, Wrapped)
    assert "two builds with the same seed" in same_network([built(1), other, built(2)]).observed
    assert "another seed gives another network" in same_network([built(1), built(1), other]).observed


@pytest.mark.parametrize(
    ("limit", "most", "words"),
    [
        ("MAX_PARAMETERS", 700, "867 numbers, more than the 700"),
        ("MAX_MACS", 3_000, "3,776 multiply-accumulates per image, more than the 3,000"),
        ("MAX_ACTIVATION_BYTES", 1_000, "bytes of activations per image, more than the 1,000"),
    ],
)
def test_a_network_that_is_too_large_fails(limit: str, most: int, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Examining it would take too long, or too much memory."""
    monkeypatch.setattr(checks, limit, most)
    found = same_network([built(1), built(1), built(2)])
    assert Status.FAIL is found.status
    assert words in found.observed


def test_initial_weights_repeat_and_change_with_the_seed() -> None:
    """Ones and zeros of the batch norm need not change."""
    assert Status.PASS is initial_weights(built(1), built(1), built(2)).status
    assert "not repeated with the same seed: 0.weight" in initial_weights(built(1), built(2), built(2)).observed
    assert "the same whatever the seed: 0.weight" in initial_weights(built(1), built(1), built(1)).observed


def test_weights_of_an_earlier_training_fail() -> None:
    """They do not depend on the seed."""
    found = initial_weights(built(1, Trained), built(1, Trained), built(2, Trained))
    assert (Status.FAIL, "the same whatever the seed: network.5.weight") == (found.status, found.observed)


def test_names_are_those_of_the_findings() -> None:
    """Assignments give points by these names."""
    found = [StateBudget(most=0), BatchIndependence(), PureEvaluation()]
    names = [same_network([built(1)] * 3).requirement, initial_weights(built(1), built(1), built(2)).requirement]
    assert list(checks.CHECKS) == [*names, *(one.name for one in found)]
