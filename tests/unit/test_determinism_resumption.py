from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.data import Dataset
from harness.determinism.model_under_test import ImportedModel
from harness.determinism.repetition import other_algorithms
from harness.determinism.resumption import resume
from harness.findings import Status
from harness.training import Batch, RandomStreams, Recipe, TrainingHooks
from tests.determinism_models import Buffered, Net, built, counts_training_passes, model_of, repeated

pytestmark = pytest.mark.usefixtures("one_thread", "known_environment")


def _remembering(net: Net, features: Tensor) -> Tensor:
    net.memory["mean"] = features.detach().mean().view(1) + sum(net.memory.values())
    return features + net.memory["mean"]


def _noisy(net: Net, features: Tensor) -> Tensor:
    return features + torch.rand(1, generator=net.noise)


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("build", "place"),
    [
        (lambda: Net(counts_training_passes), "attribute calls"),
        (lambda: Net(_remembering), "attribute memory"),
        (lambda: Net(_noisy), "attribute noise"),
        (Buffered, "buffer count"),
    ],
)
def test_state_outside_the_state_dict_is_lost(build: Callable[[], Net], place: str) -> None:
    """State that a checkpoint does not hold is named: a plain attribute, a generator, a buffer that is not persistent."""
    model = built(build)
    found = resume(model, model.trace())

    assert (
        Status.FAIL,
        f"cause: it keeps state outside its state_dict, in its {place}, which no checkpoint holds",
    ) == (
        found.status,
        found.evidence[0],
    )
    assert found.observed.startswith(("differs at step 4 ", "differs before step 4 "))
    assert Status.PASS is repeated(model).status


def test_the_random_state_of_numpy_is_lost() -> None:
    """A loader that seeds numpy.random only in the first epoch cannot be resumed."""

    def batches(data: Dataset, _recipe: Recipe, streams: RandomStreams, epoch: int) -> Iterator[Batch]:
        if epoch == 1:
            np.random.seed(streams.seed % 2**32)  # noqa: NPY002 - what is tested
        for _ in range(3):
            chosen = torch.from_numpy(np.random.permutation(48)[:16])  # noqa: NPY002 - what is tested
            yield Batch(images=data.normalise(data.train_images[chosen]), labels=data.train_labels[chosen])

    model = built(Net, batches=batches)
    found = resume(model, model.trace())

    assert (Status.FAIL, "differs at step 4 in the order of the images") == (found.status, found.observed)
    assert "cause: it continues with numpy's random state, which no checkpoint holds" == found.evidence[0]


def test_a_global_generator_is_lost() -> None:
    """A global generator that is seeded only in the first epoch is the cause, which carrying it over shows."""

    def load() -> ImportedModel:
        generator = torch.Generator()

        def batches(data: Dataset, _recipe: Recipe, streams: RandomStreams, epoch: int) -> Iterator[Batch]:
            if epoch == 1:
                generator.manual_seed(streams.seed % 2**32)
            for _ in range(3):
                chosen = torch.randperm(48, generator=generator)[:16]
                yield Batch(images=data.normalise(data.train_images[chosen]), labels=data.train_labels[chosen])

        return ImportedModel(build=lambda _: Net(), hooks=TrainingHooks(batches=batches))

    model = model_of(load)
    found = resume(model, model.trace())

    assert (Status.FAIL, "differs at step 4 in the order of the images") == (found.status, found.observed)
    assert found.evidence[0].startswith("cause: it keeps something from one run to the next in a global")
    assert 2 == len(found.evidence)


def test_a_draw_at_import_is_not_attributed_to_resuming() -> None:
    """If importing the files again changes the training, the axis is not applicable, and the later axes use the first import."""

    def load() -> ImportedModel:
        scale = random.random()  # noqa: S311 - what is tested
        return ImportedModel(build=lambda _: Net(lambda _, features: features * scale), hooks=TrainingHooks())

    model = model_of(load)
    reference = model.trace()

    assert (
        "not applicable: the training differs when its files are imported again, stopped or not"
        == resume(model, reference).observed
    )
    assert Status.PASS is repeated(model).status
    assert Status.PASS is other_algorithms(model, reference).status


def test_an_error_in_load_state_dict_is_a_finding() -> None:
    """A module that does not accept its own state cannot be resumed; the check continues."""

    class Refusing(Net):
        def load_state_dict(self, *_: Any, **__: Any) -> Any:  # noqa: ANN401 - torch's signature
            raise KeyError("conv")

    model = built(Refusing)
    found = resume(model, model.trace())

    assert (Status.FAIL, "cannot be resumed: KeyError: 'conv'") == (found.status, found.observed)
