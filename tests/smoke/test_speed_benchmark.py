"""benchmarks/timed_training.py times the same work in each loop."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import timed_training
from harness.data import Dataset
from harness.training import DigestChain
from tests import made_up

pytestmark = pytest.mark.smoke


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """Two complete batches and a partial one."""
    return dataclasses.replace(made_up.dataset(train=300, test=40), name="mnist")


def test_operations_of_known_layers() -> None:
    """A training step costs three times the forward pass of a layer, two times for the first layer."""
    network = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.Conv2d(4, 10, 26, bias=False), nn.Flatten())
    first, second = 2 * 4 * 9 * 26 * 26, 2 * 10 * 4 * 26 * 26

    assert {"forward": first + second, "training": 2 * first + 3 * second} == timed_training.operations(
        network, torch.zeros(3, 1, 28, 28)
    )


def test_torchvision_reads_the_images_that_it_is_given(tmp_path: Path) -> None:
    """Without rotation, the images of the course code's loader equal the normalised data set."""
    dataset = made_up.dataset(train=4, test=3)
    _, loader = timed_training.course_loaders(dataset, tmp_path)
    image, label = loader.dataset[2]

    assert 1 == len(loader)
    assert int(dataset.test_labels[2]) == label
    assert torch.allclose(dataset.normalise(dataset.test_images[2]), image, rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_the_loops_take_the_same_steps(dataset: Dataset) -> None:
    """Course code and the engine compute each epoch in the same number of steps."""
    found = [timed_training.plain(dataset, 2), timed_training.single_seed(dataset, 2, "fast")]

    assert [3, 3] == [one["steps"] for one in found]
    assert [2, 2] == [len(one["epochs"]) for one in found]


@pytest.mark.filterwarnings("ignore")
def test_lightning_takes_the_same_steps(dataset: Dataset) -> None:
    """Lightning's trainer computes the same number of steps."""
    pytest.importorskip("lightning")
    found = timed_training.lightning(dataset, 2)

    assert (3, 2) == (found["steps"], len(found["epochs"]))


def test_every_part_around_the_steps_is_seen(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every part has a time, and the timed functions are patched during the measurement only."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    before = DigestChain.add
    found = timed_training.surroundings(dataset, 1)

    assert {"digests", "progress", "checkpoint, weights, record", "evaluation"} == set(found["parts"])
    assert 0 < min(found["parts"].values())
    assert before is DigestChain.add


def test_a_step_is_seen_whole(dataset: Dataset) -> None:
    """Each group of operations has a time, and their total is the time of the profiled steps."""
    found = timed_training.step(dataset)

    assert 0 < min(found["parts"][name] for name, _ in timed_training.GROUPS)
    assert found["seconds"] == pytest.approx(sum(found["parts"].values()), rel=0.05)
