"""Repeating the training that a record declares."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from harness.errors import InputError
from harness.findings import Status
from harness.graph import CapturedModel, capture
from harness.reproducibility import Replay, Rerun
from harness.training import RunRecord, RunSpec, initialise, train
from tests.made_up import RECIPE, dataset, network

CPU = torch.device("cpu")
DATA = dataset()


@pytest.fixture(scope="module")
def captured() -> CapturedModel:
    """A small network as a captured model."""
    return capture(initialise(lambda: network(dropout=0.2), seed=1), name="net", twice=False)


@pytest.fixture(scope="module")
def run(captured: CapturedModel) -> RunRecord:
    """The record of a training of it."""
    return train(captured.to_module(), RunSpec.of(captured, RECIPE, seed=1, digest_every=2), DATA)


def test_a_rerun_is_bit_equal(captured: CapturedModel, run: RunRecord) -> None:
    """The same model, data and environment give the same digests and figures."""
    repeated = Rerun(record=run, captured=captured, dataset=DATA, device=CPU).train()
    finding = Replay(record=run, repeated=repeated, noise=None).finding()

    assert (Status.PASS, "bit-equal over 3 epochs, 9 steps") == (finding.status, finding.observed)


def test_a_rerun_uses_the_threads_on_record(captured: CapturedModel, run: RunRecord) -> None:
    """A run is repeated on as many threads as its record names, and this process keeps its own number."""
    threads = torch.get_num_threads()
    environment = dataclasses.replace(run.environment, threads=threads + 1)
    record = dataclasses.replace(run, environment=environment)
    repeated = Rerun(record=record, captured=captured, dataset=DATA, device=CPU).train()

    assert threads + 1 == repeated.environment.threads
    assert threads == torch.get_num_threads()


def test_an_interrupted_run_is_repeated_to_its_last_completed_epoch(captured: CapturedModel, run: RunRecord) -> None:
    """The rerun has the completed epochs and no others."""
    interrupted = dataclasses.replace(
        run,
        status="interrupted",
        epochs=run.epochs[:2],
        digests=tuple(found for found in run.digests if found.step <= 6),
    )
    repeated = Rerun(record=interrupted, captured=captured, dataset=DATA, device=CPU).train()
    # Of the run after two epochs, which the made-up record lacks.
    interrupted = dataclasses.replace(interrupted, state_digest=repeated.state_digest)

    assert 2 == len(repeated.epochs)
    assert Status.PASS == Replay(record=interrupted, repeated=repeated, noise=None).finding().status


def test_a_range_of_steps_is_traced(captured: CapturedModel, run: RunRecord) -> None:
    """The digests equal the recorded ones; a range beyond the last step is an error."""
    rerun = Rerun(record=run, captured=captured, dataset=DATA, device=CPU)
    trace = rerun.trace(2, 4)

    assert [3, 4] == [step.number for step in trace]
    assert trace[-1].end == next(found for found in run.digests if found.step == 4)
    with pytest.raises(InputError, match="expected a training of at least 10 steps, got 9"):
        rerun.trace(8, 10)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"graph_digest": "h" * 64}, "whose operations differ"), ({"data_digest": "e" * 64}, "--data")],
)
def test_another_model_or_other_data_are_refused(
    captured: CapturedModel, run: RunRecord, change: dict[str, Any], message: str
) -> None:
    """The message names what differs from the record."""
    with pytest.raises(InputError, match=message):
        Rerun(record=dataclasses.replace(run, **change), captured=captured, dataset=DATA, device=CPU)
