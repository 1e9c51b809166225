"""Comparing a repeated run with its record: bit for bit in the recorded environment, statistically in any other."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from harness.findings import Finding, Status
from harness.reproducibility import Replay, SeedNoise
from harness.training import RunRecord
from tests.made_up import ENVIRONMENT, dataset, digests, record

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
    assert "bits: equal nevertheless" in finding.evidence


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
