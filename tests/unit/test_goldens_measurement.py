"""Measuring goldens: where outputs are taken, and which models cannot have a golden."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from harness.errors import InputError
from harness.goldens import measurement
from harness.goldens.golden import golden_bytes
from harness.goldens.measurement import depth_values, max_abs_difference, measure_golden, sample
from harness.graph import CapturedModel
from harness.structure import Structure
from tests.golden_models import captured, captured_net, net_golden, spec_of, with_state

pytestmark = pytest.mark.smoke  # it captures and trains


def test_a_model_that_does_not_repeat_has_no_golden(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither if the training differs between two runs, nor if an output does."""
    training = net_golden().bits[0].training
    runs = iter([training, training[:3]])
    monkeypatch.setattr(measurement, "train_briefly", lambda *_: next(runs))
    with pytest.raises(
        InputError, match=r"two runs of net on cpu, but the training ends after step 20, not after step 50\. Find"
    ):
        measure_golden(captured_net(), spec_of(captured_net()))
    outputs = iter([{"logits": torch.zeros(1)}, {"logits": torch.ones(1)}])
    monkeypatch.setattr(measurement, "depth_outputs", lambda *_: next(outputs))
    monkeypatch.setattr(measurement, "train_briefly", lambda *_: training)
    with pytest.raises(InputError, match="the outputs differ at logits"):
        measure_golden(captured_net(), spec_of(captured_net()))


def test_a_model_with_outputs_that_are_not_finite_has_no_golden(monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN differs from itself, so it could not be compared."""
    monkeypatch.setattr(measurement, "train_briefly", lambda *_: ())
    monkeypatch.setattr(measurement, "training_change", lambda *_: "")
    broken = with_state(captured_net(), "head.weight", lambda weight: weight * torch.nan)
    with pytest.raises(InputError, match="an infinity or NaN at logits"):
        measure_golden(broken, spec_of(broken))


class Converting(nn.Module):
    """A linear layer with a conversion to single precision before or after it."""

    def __init__(self, *, before: bool) -> None:
        super().__init__()
        self.before = before
        self.head = nn.Linear(784, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        logits: Tensor = self.head(x.float()) if self.before else self.head(x).float()
        return logits


@pytest.mark.parametrize(
    ("before", "reason"), [(True, "must have the same dtype"), (False, "an operation converts to another precision")]
)
def test_a_model_that_does_not_run_in_double_precision_has_no_golden(
    before: bool,  # noqa: FBT001 - a case
    reason: str,
) -> None:
    """The error of single precision cannot be measured; the message names the conversion to remove."""
    model = captured(lambda: Converting(before=before))
    with pytest.raises(InputError, match=rf"{reason}.*Remove conversions such as .float\(\) from"):
        measure_golden(model, spec_of(model))


def test_a_network_without_feature_maps_has_three_depths() -> None:
    """The features are the input of the last layer then."""
    linear = captured(lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 10), nn.LogSoftmax(1))).graph
    flat, logits, _ = (operation.name for operation in linear.evaluate.operations)
    assert {"features": flat, "before the head": flat, "logits": logits} == depth_values(linear)


@pytest.mark.parametrize("name", ["reference", "cloud_2"])
def test_features_are_the_map_before_the_pooling(name: str, shipped: Callable[[str], CapturedModel]) -> None:
    """The same map that the receptive field before the head is computed for."""
    graph = shipped(name).graph
    assert Structure(graph).field_before_head[0] == depth_values(graph)["features"]


def test_two_depths_can_be_the_same_value() -> None:
    """If the last layer reads the map itself, the golden stores it twice, in tensors that share no memory."""
    model = captured(lambda: nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Conv2d(1, 10, 4), nn.Flatten()))
    golden = measure_golden(model, spec_of(model))
    first, second, _ = golden.depths
    assert ("features", "before the head", first.value) == (first.name, second.name, second.value)
    assert b"" != golden_bytes(golden)


def test_the_output_of_a_network_without_weights_is_every_depth() -> None:
    """There is no last layer with weights, and no map."""

    class Sum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :10]

    graph = captured(Sum).graph
    assert {graph.evaluate.output} == set(depth_values(graph).values())


def test_a_sample_has_at_most_256_different_values() -> None:
    """All of them if there are no more, else always the same positions, spread over the whole tensor."""
    assert list(range(200)) == sample(torch.arange(200.0).reshape(10, 20)).tolist()
    positions = sample(torch.arange(5760)).tolist()
    assert 256 == len(set(positions))
    assert [0, 2_654_435_761 % 5760] == positions[:2]
    assert max(positions) > 5_600


def test_a_difference_is_the_largest_absolute_one() -> None:
    """NaN if one value is NaN, so that no tolerance accepts it."""
    assert 3.0 == max_abs_difference(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 5.0]))
    assert "nan" == str(max_abs_difference(torch.tensor([1.0, torch.nan]), torch.tensor([1.0, 1.0])))
