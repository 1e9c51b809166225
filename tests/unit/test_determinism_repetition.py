from __future__ import annotations

import pytest
import torch
from torch import Tensor

from harness.determinism.model_under_test import ImportedModel
from harness.determinism.repetition import one_thread, other_algorithms
from harness.findings import Status
from harness.training import TrainingHooks
from tests.determinism_models import Net, disturbed, model_of, repeated

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

    assert repeated(model).evidence[0].startswith("cause: it keeps something from one run to the next in a global")


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
