"""Requirements at their boundaries, and their words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from harness.findings import Status
from harness.graph import CapturedModel, capture
from tests.made_up import decided

Shipped = Callable[[str], CapturedModel]


class Sized(nn.Module):
    """A linear layer on the mean of the image, with a given number of parameters and of numbers in hidden state."""

    def __init__(self, parameters: int, *, buffer: int = 0, plain: int = 0, unread: int = 0) -> None:
        super().__init__()
        self.fc = nn.Linear(1, 10)
        self.extra = nn.Parameter(torch.ones(parameters - 20 - unread))
        if buffer:
            self.register_buffer("table", torch.ones(buffer))
        self.plain = torch.ones(plain) if plain else None
        if unread:
            self.unread = nn.Parameter(torch.ones(unread))

    def forward(self, images: Tensor) -> Tensor:
        """Read every tensor but the unread parameter."""
        scores: Tensor = self.fc(images.mean((2, 3))) + self.extra.sum()
        if "table" in self._buffers:
            scores = scores + self.get_buffer("table").sum()
        return scores if self.plain is None else scores * self.plain.mean()


def sized(parameters: int, *, buffer: int = 0, plain: int = 0, unread: int = 0) -> CapturedModel:
    """A captured model of that size."""
    return capture(Sized(parameters, buffer=buffer, plain=plain, unread=unread), (1, 4, 4), name="sized", twice=False)


def test_a_budget_is_strict_or_inclusive() -> None:
    """8,000 parameters meet `max = 8000` and `min = 8000`, and fail `below = 8000`."""
    model = sized(8_000)
    below = decided(model, "[parameters]\nbelow = 8000", "parameters")
    assert (Status.FAIL, "fewer than 8,000 parameters", "8,000 parameters") == (
        below.status,
        below.expected,
        below.observed,
    )
    assert "remove at least 1 of the parameters" == below.hint
    assert Status.PASS == decided(model, "[parameters]\nbelow = 8001", "parameters").status
    assert Status.PASS == decided(model, "[parameters]\nmax = 8000", "parameters").status
    assert Status.FAIL == decided(model, "[parameters]\nmax = 7999", "parameters").status
    assert Status.PASS == decided(model, "[parameters]\nmin = 8000", "parameters").status
    small = decided(model, "[parameters]\nmin = 8001", "parameters")
    assert (Status.FAIL, "add parameters: the contract requires a larger model") == (small.status, small.hint)


def test_hidden_state_counts() -> None:
    """A buffer and a plain tensor count towards the budget, by name, unless the contract says otherwise."""
    model = sized(100, buffer=7, plain=5)
    counted = decided(model, "[parameters]\nmax = 111", "parameters")
    assert (Status.FAIL, "112 parameters, 12 of them in constants and buffers") == (counted.status, counted.observed)
    assert any("12 elements of constants and buffers, counted" in line for line in counted.evidence)
    assert any("table (7)" in line and "plain (5)" in line for line in counted.evidence)
    assert Status.PASS == decided(model, "[parameters]\nmax = 112", "parameters").status
    assert Status.PASS == decided(model, "[parameters]\nmax = 100\nhidden_state = false", "parameters").status


def test_unread_parameters_are_named() -> None:
    """Parameters that forward never reads count, are named, and the hint suggests removing them."""
    finding = decided(sized(100, unread=30), "[parameters]\nmax = 80", "parameters")
    assert Status.FAIL == finding.status
    assert any("30 parameters are never read by forward: unread" in line for line in finding.evidence)
    assert "removing the modules that forward never calls is enough" in finding.hint


def test_the_receptive_field_at_its_bounds(shipped: Shipped) -> None:
    """The field of `cloud_1` is 22 before its pooling and 32 with it; one more fails, in either direction."""
    model = shipped("cloud_1")
    for text, status in (
        ("min = 22", Status.PASS),
        ("min = 23", Status.FAIL),
        ("max = 22", Status.PASS),
        ("max = 21", Status.FAIL),
        ("min = 32\nincluding_pool = true", Status.PASS),
        ("min = 33\nincluding_pool = true", Status.FAIL),
    ):
        assert status == decided(model, f"[receptive_field]\n{text}", "receptive_field").status, text
    finding = decided(model, "[receptive_field]\nmin = 23", "receptive_field")
    assert "22 pixels (exact)" == finding.observed
    assert "add a convolution" in finding.hint


def test_a_field_that_is_not_exact_decides_little() -> None:
    """An upper bound of the field decides what it excludes; an unknown field decides nothing."""

    class Partial(nn.Module):
        """Some channels of two maps that see 3 and 5 pixels, or a product of the map with itself."""

        def __init__(self, *, product: bool) -> None:
            super().__init__()
            self.first = nn.Conv2d(1, 4, 3, padding=1)
            self.second = nn.Conv2d(4, 4, 3, padding=1)
            self.product = product

        def forward(self, images: Tensor) -> Tensor:
            """Pooled scores."""
            value: Tensor = self.first(images)
            both = torch.cat([value, self.second(value)], 1)[:, :6]
            return (value @ value if self.product else both).mean((2, 3))

    bound = capture(Partial(product=False), (1, 9, 9), name="bound")
    unknown = capture(Partial(product=True), (1, 9, 9), name="unknown")
    assert Status.FAIL == decided(bound, "[receptive_field]\nmin = 6", "receptive_field").status
    assert Status.UNKNOWN == decided(bound, "[receptive_field]\nmin = 5", "receptive_field").status
    assert Status.PASS == decided(bound, "[receptive_field]\nmax = 5", "receptive_field").status
    finding = decided(unknown, "[receptive_field]\nmin = 2", "receptive_field")
    assert Status.UNKNOWN == finding.status
    assert any("both operands of the product depend on the images" in line for line in finding.evidence)


def test_an_unfaithful_capture_fails(shipped: Shipped) -> None:
    """A graph that computes something else than its model fails, with the difference."""
    model = shipped("reference")
    broken = replace(model, fidelity=replace(model.fidelity, eval_equal=False, differences=("it differs",)))
    finding = decided(broken, "", "capture")
    assert (Status.FAIL, "it differs") == (finding.status, finding.observed)
    assert Status.PASS == decided(model, "", "capture").status


class Answering(nn.Module):
    """A linear layer, and a step on its ten scores."""

    def __init__(self, step: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.fc = nn.Linear(16, 10)
        self.step = step

    def forward(self, images: Tensor) -> Tensor:
        """The step's result."""
        return self.step(self.fc(images.flatten(1)))


@pytest.mark.parametrize(
    ("step", "observed"),
    [
        (torch.squeeze, "logits of shape (B, 10), but of shape (10) for one image"),
        (
            lambda scores: scores[0] if scores.size(0) == 1 else scores,
            "logits of shape (B, 10), but of shape (10) for one image",
        ),
        (
            lambda scores: scores / 0,
            "logits of shape (B, 10), but with NaN or infinity, both for normally distributed images",
        ),
        (torch.log, "logits of shape (B, 10), but with NaN or infinity"),
        (lambda scores: scores > 0, "logits of shape (B, 10), but integers or booleans"),
        (torch.sum, "logits of shape ()"),
    ],
)
def test_an_output_that_is_no_row_of_scores_for_each_image_fails(
    step: Callable[[Tensor], Tensor], observed: str
) -> None:
    """The answer for one image and what is not finite are part of the output; no finding is an internal error."""
    captured = capture(Answering(step), (1, 4, 4), name="answering", twice=False)
    contract = "classes = 10\n[dropout]\nforbidden = true\n[batch]\nindependent = true\n[gradients]\ncomplete = true"
    findings = {
        name: decided(captured, contract, name) for name in ("output", "capture", "dropout", "batch", "gradients")
    }

    assert Status.FAIL == findings["output"].status
    assert findings["output"].observed.startswith(observed), findings["output"].observed
    assert Status.ERROR not in {finding.status for finding in findings.values()}


def test_an_evaluation_that_writes_into_the_model_depends_on_earlier_passes() -> None:
    """The batch requirement fails, with the buffer, and the capture is no contradiction."""

    class Counting(Answering):
        """Counts its passes."""

        def __init__(self) -> None:
            super().__init__(lambda scores: scores)
            self.register_buffer("count", torch.zeros(1))

        def forward(self, images: Tensor) -> Tensor:
            """The scores, scaled."""
            self.get_buffer("count").add_(1)
            return super().forward(images) * self.get_buffer("count")

    captured = capture(Counting(), (1, 4, 4), name="counting", twice=False)
    finding = decided(captured, "[batch]\nindependent = true", "batch")

    assert (Status.FAIL, "a prediction depends on earlier passes: evaluation changes count") == (
        finding.status,
        finding.observed,
    )
    assert Status.PASS == decided(captured, "", "capture").status
