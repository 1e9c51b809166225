"""Which captured models may be trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from harness.errors import CaptureError
from harness.graph import capture

Step = Callable[[Tensor], Tensor]


class Net(nn.Module):
    """A linear layer and a step on its scores."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)
        self.step = step

    def forward(self, images: Tensor) -> Tensor:
        """The step's result."""
        return self.step(self.fc(images.flatten(1)))


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (torch.sum, r"the model's output is float32 of shape \(\)"),
        (lambda scores: scores > 0, r"the model's output is bool of shape \(B, 3\)"),
        (lambda scores: scores.mean(0), r"the model's output is float32 of shape \(3\)"),
    ],
)
def test_what_gives_no_row_of_scores_is_not_trained(step: Step, words: str) -> None:
    """A loss needs floating-point numbers for each image."""
    with pytest.raises(CaptureError, match=words):
        capture(Net(step), (1, 2, 2), name="net", twice=False).require_trainable()


def test_what_differs_from_its_model_is_not_trained() -> None:
    """A difference, or a training step that fails, is the reason; a faithful capture is trained."""
    model = capture(Net(lambda scores: scores), (1, 2, 2), name="net", twice=False)
    model.require_trainable()
    for fact in ({"train_equal": False, "differences": ("it differs",)}, {"training_failure": "it fails"}):
        with pytest.raises(CaptureError, match=r"net cannot be trained: .* but .*it (differs|fails)"):
            replace(model, fidelity=replace(model.fidelity, **fact)).require_trainable()


class Counting(nn.Module):
    """Multiplies a tensor in each training step, directly or as the running mean of a batch norm."""

    def __init__(self, *, kind: str) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)
        self.norm = nn.BatchNorm1d(3)
        if kind == "running mean":
            self.norm.register_buffer("running_mean", torch.zeros(3), persistent=False)
        self.scale: Tensor
        self.register_buffer("scale", torch.ones(1), persistent=kind != "buffer")

    def forward(self, images: Tensor) -> Tensor:
        """Scores."""
        if self.training:
            self.scale.mul_(0.9)
        scores: Tensor = self.norm(self.fc(images.flatten(1))) * self.scale
        return scores


@pytest.mark.parametrize(("kind", "name"), [("buffer", "scale"), ("running mean", "norm.running_mean")])
def test_a_network_whose_state_dict_is_not_its_state_is_not_trained(kind: str, name: str) -> None:
    """Checkpoints and saved weights would not hold what training changed; a persistent buffer is trained."""
    capture(Counting(kind=""), (1, 2, 2), name="net", twice=False).require_trainable()
    with pytest.raises(CaptureError, match=f"training changes {name}, which the state_dict does not hold"):
        capture(Counting(kind=kind), (1, 2, 2), name="net", twice=False).require_trainable()
