from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from harness.data import Dataset
from harness.determinism import variations
from harness.determinism.axes import Axis, compared
from harness.determinism.interventions import Interventions
from harness.determinism.model_under_test import ImportedModel, ModelUnderTest
from harness.determinism.variations import one_thread, other_algorithms, other_seeds, rebuilt_graph, resume, vary
from harness.findings import Finding, Status
from harness.graph import CapturedModel, Fidelity
from harness.training import Batch, RandomStreams, Recipe, TrainingHooks
from tests import made_up
from tests.determinism_models import (
    Buffered,
    Constant,
    Net,
    built,
    counts_training_passes,
    disturbed,
    model_of,
    repeated,
)

pytestmark = pytest.mark.usefixtures("one_thread", "known_environment")


@pytest.mark.smoke
def test_state_in_a_global_is_found() -> None:
    """A counter in a global survives a training; importing the file again resets it, which shows the cause."""
    calls: list[int] = []

    def count(_: Net, features: Tensor) -> Tensor:
        calls.append(1)
        return features * (1 + len(calls) / 100)

    def load() -> ImportedModel:
        calls.clear()
        return ImportedModel(build=lambda _: Net(count), hooks=TrainingHooks())

    model = model_of(load)

    assert repeated(model).evidence[0].startswith("cause: the code keeps a value from one run to the next in a global")


def test_an_unknown_cause_is_reported_as_unknown() -> None:
    """A difference that no intervention explains has no cause."""
    calls: list[int] = []

    def count(_: Net, features: Tensor) -> Tensor:
        calls.append(1)
        return features * (1 + len(calls) / 100)

    found = repeated(disturbed(count))

    assert Status.FAIL is found.status
    assert found.evidence[0].startswith("cause unknown: with random, numpy.random, time")


def test_a_difference_between_thread_counts_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A difference between one thread and several is reported with its size, and skipped."""
    numbers = [2]
    monkeypatch.setattr(torch, "get_num_threads", lambda: numbers[-1])
    monkeypatch.setattr(torch, "set_num_threads", numbers.append)
    model = disturbed(lambda _, features: features * (1 + torch.get_num_threads() / 100))
    found = one_thread(model, model.trace())

    assert ([2, 1, 2], Status.SKIP) == (numbers, found.status)
    assert found.observed.startswith("differs at step 1 in tensor conv.weight by ")
    assert found.observed.endswith("(not guaranteed)")


def test_threads_are_not_varied_on_an_accelerator() -> None:
    """If another device does the arithmetic, the axis is not applicable."""
    model = disturbed(lambda _, features: features)
    reference = model.trace()
    model.device = torch.device("meta")

    assert "not applicable: the arithmetic is done on meta" == one_thread(model, reference).observed


def test_a_difference_between_algorithms_is_no_failure() -> None:
    """A difference between algorithms is reported with its size, and skipped."""
    model = disturbed(lambda _, features: features * (1 + torch.are_deterministic_algorithms_enabled() / 100))
    found = other_algorithms(model, model.trace())

    assert Status.SKIP is found.status
    assert found.observed.startswith("differs at step 1 in tensor conv.weight by ")
    assert not torch.are_deterministic_algorithms_enabled()


def test_an_operation_without_a_deterministic_algorithm_is_named() -> None:
    """If torch refuses an operation, the finding says which."""

    def put(_: Net, features: Tensor) -> Tensor:
        return features * torch.ones(1).put_(torch.zeros(1, dtype=torch.int64), torch.ones(1))

    model = disturbed(put)
    found = other_algorithms(model, model.trace())

    assert Status.SKIP is found.status
    assert "torch refuses an operation: put_ " in found.observed


def test_another_error_is_raised() -> None:
    """An error that has nothing to do with determinism is not swallowed."""
    model = disturbed(lambda _, features: features)
    reference = model.trace()

    def fail(_: Net, __: Tensor) -> Tensor:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        other_algorithms(disturbed(fail), reference)


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
        f"cause: the code keeps state outside the state_dict, in {place}, which no checkpoint holds",
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
    assert "cause: the code depends on numpy's random state, which no checkpoint holds" == found.evidence[0]


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
    assert found.evidence[0].startswith("cause: the code keeps a value from one run to the next in a global")
    assert 2 == len(found.evidence)


def test_a_draw_at_import_is_not_attributed_to_resuming() -> None:
    """If importing the files again changes the training, the axis is not applicable, and the later axes use the first import."""

    def load() -> ImportedModel:
        scale = random.random()  # noqa: S311 - what is tested
        return ImportedModel(build=lambda _: Net(lambda _, features: features * scale), hooks=TrainingHooks())

    model = model_of(load)
    reference = model.trace()

    assert (
        "not applicable: the training differs when its files are imported again, even if it is not stopped"
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

    assert (Status.FAIL, "the training cannot be resumed: KeyError: 'conv'") == (found.status, found.observed)


@pytest.mark.smoke
def test_the_graph_trains_as_the_module(constant_graph: CapturedModel) -> None:
    """A rebuilt graph trains to the same bits as its module, and not as another module."""
    model, other = built(Constant), built(lambda: Constant(-1.0))

    assert Status.PASS is rebuilt_graph(model, model.trace(), constant_graph, "").status
    found = rebuilt_graph(other, other.trace(), constant_graph, "")
    assert (Status.FAIL, "differs at step 1 in tensor conv.weight by ") == (found.status, found.observed[:43])


def test_attributes_that_a_graph_freezes_are_named(constant_graph: CapturedModel) -> None:
    """If graph and module differ, the attributes that the module changes in training are named."""
    counting = disturbed(counts_training_passes)
    found = rebuilt_graph(counting, counting.trace(), constant_graph, "")

    assert (
        "the module changes attribute calls in training; a graph holds the value from the time of its capture"
        in found.evidence
    )


def seeds(model: ModelUnderTest) -> dict[str, Finding]:
    """The findings of other seeds, by axis."""
    return {finding.requirement: finding for finding in other_seeds(model)}


def test_a_constructor_with_a_seed_of_its_own_is_found() -> None:
    """Initial weights that are equal under every seed are a failure."""

    def build() -> Net:
        torch.manual_seed(0)
        return Net()

    found = seeds(built(build))[Axis.WEIGHTS]

    assert (Status.FAIL, "bit-equal under seed=1 and seed=2") == (found.status, found.observed)
    assert "cause: the seed is ignored: initial weights equal under all 8 seeds" == found.evidence[0]


def test_a_forward_pass_with_a_seed_of_its_own_is_found() -> None:
    """A network that seeds torch in its forward pass draws the same numbers under every seed."""

    def reseed(_: Net, features: Tensor) -> Tensor:
        torch.manual_seed(0)
        return nn.functional.dropout(features, 0.5)

    assert Status.FAIL is seeds(disturbed(reseed))[Axis.DROPOUT].status


def test_a_loader_may_refuse_a_seed() -> None:
    """A loader may raise an error for a seed that it cannot use, which is better than truncating the seed."""

    def batches(data: Dataset, _recipe: Recipe, streams: RandomStreams, _epoch: int) -> Iterator[Batch]:
        order = np.random.RandomState(streams.seed).permutation(48)
        chosen = torch.from_numpy(order[:16])
        for _ in range(3):
            yield Batch(images=data.normalise(data.train_images[chosen]), labels=data.train_labels[chosen])

    found = seeds(built(Net, batches=batches))

    assert (Status.PASS, "differs in all 21 pairs of 7 seeds") == (found[Axis.ORDER].status, found[Axis.ORDER].observed)
    assert (
        "seed=4294967297 is refused: ValueError: Seed must be between 0 and 2**32 - 1" == found[Axis.ORDER].evidence[0]
    )
    assert (
        "not applicable: the images of your own loader already include its random draws"
        == found[Axis.AUGMENTATION].observed
    )


def test_the_declared_seed_may_not_be_refused() -> None:
    """A loader that raises an error for the seed of the run ends the check."""

    def batches(*_: object) -> Iterator[Batch]:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        seeds(built(Net, batches=batches))


@pytest.mark.smoke
def test_a_deterministic_network_passes_on_every_axis() -> None:
    """Batch norm and dropout do not prevent equal bits; another seed gives other streams."""
    model = built(lambda: made_up.network(dropout=0.3))
    with Interventions() as interventions:
        found = list(vary(model, model.trace(), interventions, None, "no graph was asked for"))

    assert {
        Axis.REPEAT: "bit-equal",
        Axis.THREADS: "not applicable: torch computes on one thread here",
        Axis.EVALUATION: "bit-equal",
        Axis.RESUME: "bit-equal",
        Axis.GRAPH: "not applicable: no graph was asked for",
        Axis.DETERMINISTIC: "bit-equal",
        Axis.WEIGHTS: "differs in all 21 pairs of 7 seeds; only the lower 32 bits of a seed are used",
        Axis.ORDER: "differs in all 21 pairs of 7 seeds",
        Axis.AUGMENTATION: "not applicable: the recipe has no augmentation",
        Axis.DROPOUT: "differs in all 21 pairs of 7 seeds",
        Axis.PURE: "bit-equal, and all state unchanged",
    } == {finding.requirement: finding.observed for finding in found}
    assert {Status.PASS, Status.SKIP} == {finding.status for finding in found}


@pytest.mark.smoke
def test_a_network_that_does_not_repeat_is_not_compared_further() -> None:
    """If a repetition differs, the axes that compare with the first training are not applicable."""
    model = disturbed(lambda _, features: features * (1 + random.random()))  # noqa: S311 - what is tested
    with Interventions() as interventions:
        found = {one.requirement: one for one in vary(model, model.trace(), interventions, None, "")}

    assert found[Axis.REPEAT].status is Status.FAIL
    assert found[Axis.REPEAT].evidence[0].startswith("cause: the code draws from Python's random")
    assert {"not applicable: the training does not repeat itself"} == {
        found[axis].observed for axis in (Axis.THREADS, Axis.EVALUATION, Axis.RESUME, Axis.GRAPH, Axis.DETERMINISTIC)
    }


def test_a_frozen_draw_has_a_finding_of_its_own(constant_graph: CapturedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The differences that the capture found are reported besides the comparison of graph and module."""
    unfaithful = dataclasses.replace(
        constant_graph, fidelity=Fidelity(repeatable=False, differences=("two captures differ",))
    )
    for other in ("evaluation_between", "resume", "other_algorithms", "pure_evaluation"):
        monkeypatch.setattr(variations, other, lambda *_: compared(Axis.PURE, None))
    monkeypatch.setattr(variations, "other_seeds", lambda _: iter(()))
    model = built(Constant)
    with Interventions() as interventions:
        found = {one.requirement: one for one in vary(model, model.trace(), interventions, unfaithful, "")}

    assert (Status.FAIL, "two captures differ") == (found[Axis.FROZEN].status, found[Axis.FROZEN].observed)
    assert Status.PASS is found[Axis.GRAPH].status
