"""The examiner's trainings: accuracy rule and certificate, permuted labels, time limit, and a submission's own recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from harness.certification import FixedDesign, SequentialDesign
from harness.errors import RecipeError
from harness.findings import Status
from harness.grading import Assignment
from harness.grading.initial import with_drawn_weights
from harness.grading.trainings import TooSlowError, Trainer, recipe_of
from harness.graph import CapturedModel
from tests.graded import TEXT, assignment, built
from tests.made_up import RECIPE, dataset

pytestmark = pytest.mark.usefixtures("one_thread")
OWN = "[own_recipe]\nmax_epochs = 4\nmin_batch_size = 16\naugmentation = false\n"
RECIPE_TEXT = 'batch_size = 16\nepochs = 3\n[optimizer]\nname = "sgd"\nlr = 0.1\n'


def trainer(chosen: Assignment | None = None) -> Trainer:
    """A trainer on the made-up bars."""
    chosen = chosen or assignment()
    return Trainer(assignment=chosen, data=dataset(), seeds=chosen.seeds(""), device=torch.device("cpu"))


def drawn(seed: int) -> CapturedModel:
    """The made-up network with the examiner's weights."""
    return with_drawn_weights(built(1), seed)


class Blind(nn.Module):
    """An output that does not depend on the image."""

    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Parameter(torch.zeros(10))

    def forward(self, images: Tensor) -> Tensor:
        return self.output + 0 * images.mean((1, 2, 3))[:, None]


class Sees(Blind):
    """Knows the bars without training: the class is the row of the bar."""

    def forward(self, images: Tensor) -> Tensor:
        return self.output + 100 * images[:, 0, 4:24:2].mean(2)


class Square(nn.Module):
    """One matrix for each image instead of one row."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(28, 10)

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.layer(images)
        return scores


def test_one_run_is_judged_by_the_rule() -> None:
    """The findings are those of the accuracy rule."""
    found, training = trainer().judge(drawn, RECIPE)
    assert [("epochs", Status.PASS), ("accuracy", Status.PASS)] == [(one.requirement, one.status) for one in found]
    assert training is not None
    assert trainer().seeds[:1] == tuple(run.seed for run in training.runs)


def test_a_network_that_learns_nothing_fails() -> None:
    """With a hint."""
    found, _ = trainer().judge(lambda _: built(1, Blind), RECIPE)
    assert (Status.FAIL, True) == (found[1].status, bool(found[1].hint))


def test_a_network_that_cannot_be_trained_fails() -> None:
    """Both requirements say why."""
    found, training = trainer().judge(lambda _: built(1, Square), RECIPE)
    assert ([Status.FAIL] * 2, None) == ([one.status for one in found], training)
    assert "shape=" in found[1].observed


@pytest.mark.parametrize(
    ("design", "build", "status", "runs"),
    [
        (SequentialDesign(p0=0.1, p1=0.9, alpha=0.2, beta=0.2, runs=9), None, Status.PASS, 1),
        (SequentialDesign(p0=0.1, p1=0.9, alpha=0.2, beta=0.2, runs=9), Blind, Status.FAIL, 1),
        (FixedDesign(p0=0.4, p1=0.5, alpha=0.1, beta=0.1, runs=2), None, Status.UNKNOWN, 2),
    ],
)
def test_a_certificate_is_the_test_over_seeds(
    design: SequentialDesign | FixedDesign, build: Callable[[], nn.Module] | None, status: Status, runs: int
) -> None:
    """It ends as soon as the verdict is certain."""
    chosen = dataclasses.replace(assignment(), certificate=design)

    def weights(seed: int) -> CapturedModel:
        return built(1, build) if build else drawn(seed)

    found, training = trainer(chosen).judge(weights, RECIPE)
    assert training is not None
    assert (status, runs) == (found[1].status, len(training.runs))
    assert runs == len(found[1].evidence)


def test_a_training_that_takes_too_long_is_undecided() -> None:
    """How it counts, the assignment says."""
    slow = trainer(dataclasses.replace(assignment(), train_seconds=1e-9))
    with pytest.raises(TooSlowError, match="took more than") as caught:
        slow.judge(drawn, RECIPE)
    assert [Status.UNKNOWN] * 2 == [one.status for one in slow.undecided(caught.value)]


def test_permuted_labels_teach_an_honest_network_nothing() -> None:
    """Guessing is allowed."""
    assert Status.PASS is trainer().permuted_labels(drawn(1)).status


def test_a_network_that_knows_the_classes_fails_on_permuted_labels() -> None:
    """It predicts the test images although its training labels say otherwise."""
    found = trainer().permuted_labels(built(1, Sees))
    assert (Status.FAIL, "40 of 40 correct (100.00 %)") == (found.status, found.observed)


def test_a_submission_may_bring_its_recipe(tmp_path: Path) -> None:
    """Only if the assignment says so, and the file is there."""
    (tmp_path / "recipe.toml").write_text(RECIPE_TEXT.replace("0.1", "0.2"))
    own = assignment(TEXT + OWN)
    found = [recipe_of(assignment(), tmp_path), recipe_of(own, tmp_path), recipe_of(own, tmp_path / "empty")]
    assert [0.1, 0.2, 0.1] == [one.optimizer.lr for one in found]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("epochs = 3", "epochs = 5"), "got epochs=5"),
        (("batch_size = 16", "batch_size = 8"), "got batch_size=8"),
        (("lr = 0.1", "lr = 0.1\n[augmentation]\nrotation = 5"), "got a section"),
        (("lr = 0.1", "lr = fast"), "not valid TOML"),
    ],
)
def test_a_recipe_out_of_bounds_is_refused(tmp_path: Path, change: tuple[str, str], words: str) -> None:
    """The message says what is allowed."""
    (tmp_path / "recipe.toml").write_text(RECIPE_TEXT.replace(*change))
    with pytest.raises(RecipeError) as caught:
        recipe_of(assignment(TEXT + OWN), tmp_path)
    assert words in str(caught.value)


def test_a_batch_that_does_not_fit_into_memory_fails_before_it_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The finding says how much it is, and what to do."""
    monkeypatch.setattr("harness.grading.trainings.train", None)
    monkeypatch.setattr("harness.grading.trainings._MAX_STEP_BYTES", 2**18)
    found, training = trainer().judge(drawn, dataclasses.replace(RECIPE, batch_size=1_000))
    assert ([Status.FAIL] * 2, None) == ([one.status for one in found], training)
    assert "with batch_size=1000. Use smaller batches" in found[0].observed


def test_a_product_of_all_pairs_of_images_counts_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its size grows with the square of the batch."""

    class Pairs(Blind):
        def forward(self, images: Tensor) -> Tensor:
            flat = images.flatten(1)
            return self.output + (flat @ flat.T).mean(1, keepdim=True)

    monkeypatch.setattr("harness.grading.trainings.train", None)
    found, _ = trainer().judge(lambda _: built(1, Pairs), dataclasses.replace(RECIPE, batch_size=60_000))
    assert "bytes of activations, got 14," in found[0].observed


def test_a_link_is_no_recipe(tmp_path: Path) -> None:
    """It could lead anywhere."""
    (tmp_path / "elsewhere.toml").write_text(RECIPE_TEXT.replace("0.1", "0.2"))
    (tmp_path / "recipe.toml").symlink_to(tmp_path / "elsewhere.toml")
    assert assignment().recipe == recipe_of(assignment(TEXT + OWN), tmp_path)
