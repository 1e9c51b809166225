"""Repeating the training that a record declares, and comparing the repetition with it: bit for bit, or statistically."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from harness.errors import InputError
from harness.findings import Finding, Status
from harness.graph import CapturedModel, capture
from harness.reproducibility import Replay, Rerun, SeedNoise
from harness.training import RunRecord, RunSpec, TrainingInterrupted, initialise, train
from harness.training.recipe import SGD
from tests.made_up import ENVIRONMENT, RECIPE, dataset, digests, network, record
from tests.training_runs import RecordingObserver

CPU = torch.device("cpu")
DATA = dataset()
RECORD = record([9_900, 9_950])
NOISE = SeedNoise(counts={seed: (0, 9_950 + seed) for seed in range(2, 8)}, total=10_000)


def in_environment(base: RunRecord, **changed: Any) -> RunRecord:  # noqa: ANN401 - any field
    """The same run in another environment."""
    return dataclasses.replace(base, environment=dataclasses.replace(ENVIRONMENT, **changed))


def with_count(base: RunRecord, count: int) -> RunRecord:
    """The same run with another number of correct predictions after the last epoch."""
    last = dataclasses.replace(base.epochs[-1], test_correct=count)
    return dataclasses.replace(base, epochs=(*base.epochs[:-1], last))


def replayed(repeated: RunRecord, noise: SeedNoise | None = NOISE) -> Finding:
    """The finding for a repetition of the made-up record."""
    return Replay(record=RECORD, repeated=repeated, noise=noise).finding()


def test_other_bits_in_the_same_environment_fail() -> None:
    """The first differing digest is named, with its likely cause."""
    repeated = dataclasses.replace(RECORD, digests=(digests(0, parameters="f" * 16),))
    finding = replayed(repeated)

    assert (Status.FAIL, "differs before the first step in the parameters; likely cause: initialisation") == (
        finding.status,
        finding.observed,
    )


def test_a_figure_that_differs_fails() -> None:
    """A count that was edited in the record is found, although all digests are equal."""
    finding = replayed(with_count(RECORD, 9_949))

    assert Status.FAIL == finding.status
    assert "equal digests, but test_correct of epoch 2: 9950 -> 9949" == finding.observed


def test_fewer_epochs_than_recorded_fail() -> None:
    """A run that ends early is no repetition, even with equal digests."""
    repeated = dataclasses.replace(RECORD, epochs=RECORD.epochs[:1], status="diverged")
    assert "completed epochs: recorded 2, now 1" == replayed(repeated).observed


@pytest.mark.parametrize("change", [{"torch": "2.9.0"}, {"threads": 4}, {"cpu_capability": "AVX512"}, {"cuda": "13"}])
def test_another_environment_is_compared_statistically(change: dict[str, Any]) -> None:
    """Even with equal bits the result is unknown, and the evidence names what differs."""
    finding = replayed(in_environment(RECORD, **change))
    (name,) = change

    assert Status.UNKNOWN == finding.status
    assert finding.observed.startswith(
        "another environment; correct predictions differ by 0, within the seed noise: at most"
    )
    assert any(f"the environment differs: {name}: " in line for line in finding.evidence)
    assert "comparison of the bits: all equal" in finding.evidence


def test_an_accuracy_outside_the_noise_fails() -> None:
    """A difference that chance does not explain is a failure in every environment."""
    finding = replayed(in_environment(with_count(RECORD, 9_900), threads=4))

    assert Status.FAIL == finding.status
    assert "outside the seed noise" in finding.observed


def test_without_seed_noise_another_environment_is_unknown() -> None:
    """The hint names the option that provides runs of other seeds."""
    finding = replayed(in_environment(RECORD, threads=4), noise=None)

    assert (Status.UNKNOWN, True) == (finding.status, "--seeds" in finding.hint)


def test_a_divergence_in_another_environment_fails() -> None:
    """Seed noise does not explain an infinite or NaN loss in an epoch that the record completed."""
    repeated = dataclasses.replace(in_environment(RECORD, threads=4), epochs=RECORD.epochs[:1], status="diverged")
    finding = replayed(repeated)

    assert (Status.FAIL, True) == (finding.status, "the loss became infinite or NaN in epoch 2" in finding.observed)


def test_differences_without_effect_on_the_bits_are_listed() -> None:
    """Another commit with equal bits passes; with other bits the accuracy is compared."""
    equal = replayed(in_environment(RECORD, commit="abc"))
    different = replayed(
        dataclasses.replace(in_environment(RECORD, commit="abc"), digests=(digests(0, parameters="f" * 16),))
    )

    assert [Status.PASS, Status.UNKNOWN] == [equal.status, different.status]
    assert "differs from the record, without effect on the bits: commit: None -> abc" in equal.evidence
    assert "the environment differs: commit: None -> abc" in different.evidence


def test_another_kind_of_device_is_another_environment() -> None:
    """Runs on a GPU and on a CPU are not compared bit for bit."""
    finding = replayed(dataclasses.replace(RECORD, device="cuda:0"))

    assert Status.UNKNOWN == finding.status
    assert "the environment differs: device: cpu -> cuda:0" in finding.evidence


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


@pytest.mark.parametrize("digest_every", [1, 100])
def test_a_diverged_run_is_repeated(captured: CapturedModel, digest_every: int) -> None:
    """With digests of its steps and without: it diverges again, with equal digests."""
    recipe = dataclasses.replace(RECIPE, optimizer=SGD(lr=1e30))
    record = train(captured.to_module(), RunSpec.of(captured, recipe, seed=1, digest_every=digest_every), DATA)
    repeated = Rerun(record=record, captured=captured, dataset=DATA, device=CPU).train()

    assert "diverged" == record.status == repeated.status
    assert Status.PASS == Replay(record=record, repeated=repeated, noise=None).finding().status


def test_a_run_that_diverges_no_more_is_no_repetition(captured: CapturedModel, run: RunRecord) -> None:
    """The epoch in which the recorded run diverged is repeated whole, and completed."""
    diverged = dataclasses.replace(
        run, status="diverged", epochs=run.epochs[:1], digests=tuple(one for one in run.digests if one.step <= 4)
    )
    repeated = Rerun(record=diverged, captured=captured, dataset=DATA, device=CPU).train()
    finding = Replay(record=diverged, repeated=repeated, noise=None).finding()

    assert (Status.FAIL, "completed epochs: recorded 1, now 2") == (finding.status, finding.observed)


def test_the_users_interruption_of_a_repetition_is_passed_on(captured: CapturedModel, run: RunRecord) -> None:
    """Also if as many epochs are complete as in the record."""
    diverged = dataclasses.replace(run, status="diverged", epochs=(), digests=run.digests[:1])
    with pytest.raises(TrainingInterrupted):
        Rerun(record=diverged, captured=captured, dataset=DATA, device=CPU).train(observer=RecordingObserver(stop_in=1))


def test_a_range_of_steps_is_traced(captured: CapturedModel, run: RunRecord) -> None:
    """The digests equal the recorded ones; a range beyond the last step is an error."""
    rerun = Rerun(record=run, captured=captured, dataset=DATA, device=CPU)
    trace = rerun.trace(2, 4)

    assert [3, 4] == [step.number for step in trace]
    assert trace[-1].end == next(found for found in run.digests if found.step == 4)
    with pytest.raises(InputError, match="expected a training of at least 10 steps, got one of 9 steps"):
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
