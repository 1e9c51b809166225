"""Features that a contract requires or forbids."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from harness.findings import Status
from harness.graph import CapturedModel, capture
from tests.made_up import decided

Shipped = Callable[[str], CapturedModel]


def test_features_required_and_forbidden(shipped: Shipped) -> None:
    """A feature of the model passes where it is required and fails where it is forbidden, with its place as evidence."""
    model = shipped("five_step_2")
    for feature, present in (("gap", False), ("dropout", True), ("batch_norm", True), ("linear", True)):
        required = decided(model, f"[{feature}]\nrequired = true", feature)
        forbidden = decided(model, f"[{feature}]\nforbidden = true", feature)
        assert (present, not present) == (required.status is Status.PASS, forbidden.status is Status.PASS)
        assert present != bool(required.hint)
    finding = decided(model, "[linear]\nforbidden = true", "linear")
    assert "convolution over the whole map" in finding.observed
    assert finding.hint.startswith("remove it: ")


def test_one_of_several(shipped: Shipped) -> None:
    """One of the features is enough; without any the requirement fails."""
    model = shipped("five_step_2")
    assert Status.PASS == decided(model, 'any_of = ["gap", "linear"]', "any_of").status
    finding = decided(model, 'any_of = ["gap"]', "any_of")
    assert (Status.FAIL, "none of these features") == (finding.status, finding.observed)
    assert "nn.AdaptiveAvgPool2d(1)" in finding.hint


class Pooling(nn.Sequential):
    """A convolution to 8x8 maps, a pooling and a linear layer."""

    def __init__(self, *pooling: nn.Module, left: int = 4) -> None:
        super().__init__(nn.Conv2d(1, 4, 3), *pooling, nn.Flatten(), nn.Linear(left, 3))


class Excited(nn.Module):
    """A squeeze-and-excitation on the way to the head's average."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.squeeze = nn.AdaptiveAvgPool2d(1)
        self.gate = nn.Conv2d(4, 4, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, images: Tensor) -> Tensor:
        """Four numbers an image."""
        maps = self.conv(images)
        pooled: Tensor = self.pool(maps * torch.sigmoid(self.gate(self.squeeze(maps))))
        return pooled.flatten(1)


@pytest.mark.parametrize(
    ("net", "reason"),
    [
        (Pooling(nn.AvgPool2d(5)), "AvgPool2d 1 averages only 5x5 positions of a map of 8x8"),
        (Pooling(nn.AvgPool2d((8, 5))), "AvgPool2d 1 averages only 8x5 positions of a map of 8x8"),
        (Pooling(nn.AvgPool2d(4), left=16), "AvgPool2d 1 returns a map of 2x2, not one value per channel"),
        (
            Pooling(nn.MaxPool2d(8), nn.AdaptiveAvgPool2d(1)),
            "AdaptiveAvgPool2d 2 averages a map of 1x1, which already has one value per channel",
        ),
    ],
    ids=["part", "part of the rows", "several", "one position"],
)
def test_an_average_that_is_not_global_says_why(net: nn.Module, reason: str) -> None:
    """The window and the map it lies in, or what it gives."""
    finding = decided(capture(net, (1, 10, 10), name="net", twice=False), "[gap]\nrequired = true", "gap")

    assert (Status.FAIL, (reason,)) == (finding.status, finding.evidence)


def test_the_pooling_of_the_head_comes_first() -> None:
    """The one on a side branch follows it."""
    finding = decided(capture(Excited(), (1, 10, 10), name="net", twice=False), "[gap]\nrequired = true", "gap")

    assert (
        "present: adaptive_avg_pool2d_1 in pool averages the whole 8x8 map, on every path to the output"
        == finding.observed
    )
    assert finding.evidence[1].endswith(", on a side branch only")


def test_a_dropout_of_nothing_names_the_constructor_s_arguments() -> None:
    """P = 0 may be a constructor's default, which `--args` overrides."""
    net = nn.Sequential(nn.Dropout(0.0), nn.Flatten(), nn.Linear(4, 3))
    finding = decided(capture(net, (1, 2, 2), name="net", twice=False), "[dropout]\nrequired = true", "dropout")

    assert Status.FAIL == finding.status
    assert '--args "dropout=0.1"' in finding.hint
