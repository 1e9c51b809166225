"""What an output is, by the operations that give it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.graph import capture
from harness.structure import Structure

LINEAR = "Linear fc"
# The first of two: the last one is taken for the output's.
LOG_SOFTMAX = ("LogSoftmax",)


class Scores(nn.Module):
    """A linear layer on the mean of the image, and a last step."""

    def __init__(self, step: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.fc = nn.Linear(1, 3)
        self.step = step

    def forward(self, images: Tensor) -> Tensor:
        """Three numbers an image."""
        return self.step(self.fc(images.mean((2, 3))))


@pytest.mark.parametrize(
    ("step", "kind", "after"),
    [
        (lambda x: x, "logits", ()),
        (lambda x: functional.log_softmax(x, 1), "log-probabilities", ()),
        (lambda x: functional.softmax(x, -1).log().clone(), "log-probabilities", ()),
        (lambda x: functional.log_softmax(x, 1).exp(), "probabilities", ()),
        (lambda x: functional.log_softmax(x, 1).log(), "changed log-probabilities", ()),
        (lambda x: functional.log_softmax(x, 1).clamp(min=-100), "changed log-probabilities", ("clamp",)),
        (lambda x: functional.log_softmax(x, 1).clamp(max=0).double() * 1, "log-probabilities", ("clamp",)),
        (lambda x: (functional.softmax(x, 1) + 1e-8).log(), "changed probabilities", ()),
        (lambda x: functional.softmax(x, 1).log10(), "changed probabilities", ()),
        (
            lambda x: functional.log_softmax(x, 1) - functional.log_softmax(-x, 1),
            "changed log-probabilities",
            LOG_SOFTMAX,
        ),
        (lambda x: x * functional.softmax(x, 1), "logits", ()),
        (lambda x: functional.softmax(x, 0), "softmax over another dimension than the classes", ()),
        (lambda x: torch.sigmoid(functional.layer_norm(x, (3,))), "probabilities", ("LayerNorm", "Sigmoid")),
        (lambda x: functional.log_softmax(functional.softmax(x, 1), 1), "log-probabilities", ("Softmax",)),
        (functional.relu, "logits", ("ReLU",)),
        (lambda x: functional.glu(x.repeat(1, 2)), "logits", ("glu",)),
    ],
)
def test_the_output_and_what_changes_the_scores(
    step: Callable[[Tensor], Tensor], kind: str, after: tuple[str, ...]
) -> None:
    """A softmax that gives the output changes no scores; every other activation or normalisation does."""
    head = Structure(capture(Scores(step), (1, 2, 2), name="scores", twice=False).graph).head

    assert (kind, 3, ("B", 3), LINEAR, after) == (head.kind, head.classes, head.shape, head.last_weighted, head.after)


def test_what_changes_the_softmax_is_named() -> None:
    """In order, from the softmax on."""
    scores = Scores(lambda x: functional.log_softmax(x, 1).clamp(min=-100).mul(2).view(-1, 3))

    assert ("clamp", "mul") == Structure(capture(scores, (1, 2, 2), name="scores", twice=False).graph).head.changes
