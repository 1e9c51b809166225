"""Features that a contract requires or forbids."""

from __future__ import annotations

from collections.abc import Callable

from harness.findings import Status
from harness.graph import CapturedModel
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
    assert (Status.FAIL, "none of them") == (finding.status, finding.observed)
    assert "nn.AdaptiveAvgPool2d(1)" in finding.hint
