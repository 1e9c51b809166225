"""What benchmarks/timed_training.py times is the same work in each loop."""

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
    """Two whole batches and a part of one."""
    return dataclasses.replace(made_up.dataset(train=300, test=40), name="mnist")


def test_operations_of_known_layers() -> None:
    """A layer's training takes three times its forward pass, the first layer's two."""
    network = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.Conv2d(4, 10, 26, bias=False), nn.Flatten())
    first, second = 2 * 4 * 9 * 26 * 26, 2 * 10 * 4 * 26 * 26

    assert {"forward": first + second, "training": 2 * first + 3 * second} == timed_training.operations(
        network, torch.zeros(3, 1, 28, 28)
    )


def test_torchvision_reads_the_images_that_it_is_given(tmp_path: Path) -> None:
    """Without rotation the course loader's images are the data set's, normalised."""
    dataset = made_up.dataset(train=4, test=3)
    _, loader = timed_training.course_loaders(dataset, tmp_path)
    image, label = loader.dataset[2]

    assert 1 == len(loader)
    assert int(dataset.test_labels[2]) == label
    assert torch.allclose(dataset.normalise(dataset.test_images[2]), image, rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_the_loops_take_the_same_steps(dataset: Dataset) -> None:
    """Course code and our engine compute each epoch in as many steps."""
    found = [timed_training.plain(dataset, 2), timed_training.alone(dataset, 2, "fast")]

    assert [3, 3] == [one["steps"] for one in found]
    assert [2, 2] == [len(one["epochs"]) for one in found]


@pytest.mark.filterwarnings("ignore")
def test_lightning_takes_the_same_steps(dataset: Dataset) -> None:
    """So does Lightning's trainer, where it is installed."""
    pytest.importorskip("lightning")
    found = timed_training.lightning(dataset, 2)

    assert (3, 2) == (found["steps"], len(found["epochs"]))


def test_every_part_around_the_steps_is_seen(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part whose function got another name would be 0 or missing; it is patched for the measurement only."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    before = DigestChain.add
    found = timed_training.surroundings(dataset, 1)

    assert {"digests", "progress", "checkpoint, weights, record", "evaluation"} == set(found["parts"])
    assert 0 < min(found["parts"].values())
    assert before is DigestChain.add


def test_a_step_is_seen_whole(dataset: Dataset) -> None:
    """Each group of operations has time, and all of them together are the profiled steps' seconds."""
    found = timed_training.step(dataset)

    assert 0 < min(found["parts"][name] for name, _ in timed_training.GROUPS)
    assert found["seconds"] == pytest.approx(sum(found["parts"].values()), rel=0.05)
