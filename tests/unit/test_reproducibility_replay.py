"""Replaying a record: bit for bit in its environment, statistically elsewhere, and never more than was shown."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.errors import InputError
from harness.findings import Finding, Status
from harness.graph import CapturedModel, capture
from harness.reproducibility import Replay, Rerun, SeedNoise, environment_differences, read_records, seed_noise
from harness.reproducibility.noise import training_key
from harness.training import RunRecord, RunSpec, initialise, train
from tests.made_up import ENVIRONMENT, RECIPE, dataset, digests, network, record

CPU = torch.device("cpu")
DATA = dataset()
MADE = record([9_900, 9_950])
NOISE = SeedNoise(counts={seed: (0, 9_950 + seed) for seed in range(2, 8)}, total=10_000)


def elsewhere(base: RunRecord, **changed: Any) -> RunRecord:  # noqa: ANN401 - any field
    """The same run in an environment with something changed."""
    return dataclasses.replace(base, environment=dataclasses.replace(ENVIRONMENT, **changed))


def with_count(base: RunRecord, count: int) -> RunRecord:
    """The same run with another last count."""
    last = dataclasses.replace(base.epochs[-1], test_correct=count)
    return dataclasses.replace(base, epochs=(*base.epochs[:-1], last))


def replayed(again: RunRecord, noise: SeedNoise | None = NOISE) -> Finding:
    """The verdict on a repetition of the made-up record."""
    return Replay(record=MADE, again=again, noise=noise).finding()


@pytest.fixture(scope="module")
def captured() -> CapturedModel:
    """A small network as a captured model."""
    return capture(initialise(lambda: network(dropout=0.2), seed=1), name="net", twice=False)


@pytest.fixture(scope="module")
def run(captured: CapturedModel) -> RunRecord:
    """A real record of it."""
    return train(captured.to_module(), RunSpec.of(captured, RECIPE, seed=1, digest_every=2), DATA)


def test_a_replay_here_is_bit_equal(captured: CapturedModel, run: RunRecord) -> None:
    """The same model, data and environment give the same digests and figures."""
    again = Rerun(record=run, captured=captured, dataset=DATA, device=CPU).train()
    finding = Replay(record=run, again=again, noise=None).finding()

    assert (Status.PASS, "bit-equal over 3 epochs, 9 steps") == (finding.status, finding.observed)


def test_an_unfinished_record_is_replayed_as_far_as_it_goes(captured: CapturedModel, run: RunRecord) -> None:
    """Of an interrupted run the whole epochs are done again and no more."""
    unfinished = dataclasses.replace(
        run,
        status="interrupted",
        epochs=run.epochs[:2],
        digests=tuple(found for found in run.digests if found.step <= 6),
    )
    again = Rerun(record=unfinished, captured=captured, dataset=DATA, device=CPU).train()

    assert 2 == len(again.epochs)
    assert Status.PASS == Replay(record=unfinished, again=again, noise=None).finding().status


def test_a_stretch_is_traced_again(captured: CapturedModel, run: RunRecord) -> None:
    """The steps asked for come with digests that are those on record; more steps than there are is an error."""
    rerun = Rerun(record=run, captured=captured, dataset=DATA, device=CPU)
    trace = rerun.retrace(2, 4)

    assert [3, 4] == [step.number for step in trace]
    assert trace[-1].end == next(found for found in run.digests if found.step == 4)
    with pytest.raises(InputError, match="expected a training of at least 10 steps, got one of 9"):
        rerun.retrace(8, 10)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"graph_digest": "h" * 64}, "it runs other operations now"), ({"data_digest": "e" * 64}, "--data")],
)
def test_another_model_or_other_data_are_refused(
    captured: CapturedModel, run: RunRecord, change: dict[str, Any], message: str
) -> None:
    """What is not on record is not trained in its place."""
    with pytest.raises(InputError, match=message):
        Rerun(record=dataclasses.replace(run, **change), captured=captured, dataset=DATA, device=CPU)


def test_other_bits_in_the_same_environment_fail() -> None:
    """The first digest that differs is named, with its cause."""
    again = dataclasses.replace(MADE, digests=(digests(0, parameters="f" * 16),))
    finding = replayed(again)

    assert (Status.FAIL, "differs before the first step in the parameters; likely cause: initialisation") == (
        finding.status,
        finding.observed,
    )


def test_a_figure_that_does_not_come_again_fails() -> None:
    """A record whose count was touched up is told by its epoch, though every digest agrees."""
    finding = replayed(with_count(MADE, 9_949))

    assert Status.FAIL == finding.status
    assert "the same state, but test_correct of epoch 2 is 9950 on record and 9949 now" == finding.observed


def test_fewer_epochs_than_on_record_fail() -> None:
    """A run that ends early did not repeat, whatever its digests."""
    again = dataclasses.replace(MADE, epochs=MADE.epochs[:1], status="diverged")
    assert "2 whole epochs on record, 1 now" == replayed(again).observed


@pytest.mark.parametrize("change", [{"torch": "2.9.0"}, {"threads": 4}, {"cpu_capability": "AVX512"}, {"cuda": "13"}])
def test_another_environment_is_compared_statistically(change: dict[str, Any]) -> None:
    """Even with equal bits no more is claimed than that the accuracy is within the noise, and what differs is named."""
    finding = replayed(elsewhere(MADE, **change))
    (name,) = change

    assert Status.UNKNOWN == finding.status
    assert finding.observed.startswith("another environment; 0 right answers apart, within the seed noise of")
    assert any(f"the environment differs: {name}: " in line for line in finding.evidence)
    assert "bits: the same, as it happens" in finding.evidence


def test_outside_the_noise_fails() -> None:
    """An accuracy that chance does not explain is a failure, in whatever environment."""
    finding = replayed(elsewhere(with_count(MADE, 9_900), threads=4))

    assert Status.FAIL == finding.status
    assert "outside the seed noise" in finding.observed


def test_without_noise_on_record_nothing_is_said() -> None:
    """Another environment and no runs of other seeds: undecided, with what to do."""
    finding = replayed(elsewhere(MADE, threads=4), noise=None)

    assert (Status.UNKNOWN, True) == (finding.status, "--seeds" in finding.hint)


def test_a_divergence_elsewhere_fails() -> None:
    """A loss that stops being a number in an epoch that is whole on record is no matter of noise."""
    again = dataclasses.replace(elsewhere(MADE, threads=4), epochs=MADE.epochs[:1], status="diverged")
    finding = replayed(again)

    assert (Status.FAIL, True) == (finding.status, "stopped being a number in epoch 2" in finding.observed)


def test_what_decides_no_bit_is_told_and_forgiven() -> None:
    """Another commit with equal bits passes; with other bits the comparison is a statistical one."""
    equal = replayed(elsewhere(MADE, commit="abc"))
    parted = replayed(dataclasses.replace(elsewhere(MADE, commit="abc"), digests=(digests(0, parameters="f" * 16),)))

    assert [Status.PASS, Status.UNKNOWN] == [equal.status, parted.status]
    assert "other than on record, but no bit depends on it: commit: None against abc" in equal.evidence
    assert "the environment differs: commit: None against abc" in parted.evidence


def test_another_kind_of_device_decides() -> None:
    """A record from a GPU is not replayed bit for bit on a CPU."""
    finding = replayed(dataclasses.replace(MADE, device="cuda:0"))

    assert Status.UNKNOWN == finding.status
    assert "the environment differs: device: cpu against cuda:0" in finding.evidence


def test_differences_of_environments_are_sorted() -> None:
    """What decides the last bits comes apart from what does not."""
    other = dataclasses.replace(ENVIRONMENT, threads=4, python="3.12.0")
    assert (("threads: 2 against 4",), ("python: 3.11.7 against 3.12.0",)) == environment_differences(
        ENVIRONMENT, other
    )


def test_the_bound_is_students() -> None:
    """Two draws of a normal distribution exceed the bound from six others in about one of a hundred cases."""
    from scipy import stats  # noqa: PLC0415 - a second to import

    generator = torch.Generator().manual_seed(1)
    draws = (9_000 + 20 * torch.randn(20_000, 8, generator=generator)).round().int().tolist()
    exceeded = sum(
        abs(one - other) > SeedNoise(counts=dict(enumerate((count,) for count in six)), total=10_000).bound(1)
        for one, other, *six in draws[:2_000]
    )
    low, high = stats.binom.interval(0.9999, 2_000, 0.01)
    assert low <= exceeded <= high


def others(number: int, **changed: Any) -> list[RunRecord]:  # noqa: ANN401 - any field
    """So many other seeds of the made-up record."""
    return [dataclasses.replace(MADE, seed=seed, **changed) for seed in range(2, 2 + number)]


def test_noise_comes_from_the_same_training_only() -> None:
    """Runs of another recipe, the run itself, and fewer than five seeds are no noise."""
    other_recipe = dataclasses.replace(RECIPE, batch_size=8, epochs=2)

    assert {2, 3, 4, 5, 6} == set(getattr(seed_noise(MADE, [MADE, *others(5)]), "counts", ()))
    assert seed_noise(MADE, others(4)) is None
    assert seed_noise(MADE, others(9, recipe=other_recipe)) is None
    assert training_key(MADE) != training_key(dataclasses.replace(MADE, recipe=other_recipe))


def test_shipped_noise_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without records of the user's the shipped figures count."""
    shipped = {training_key(MADE): {seed: (9_900, 9_940 + seed) for seed in range(1, 8)}}
    monkeypatch.setattr("harness.reproducibility.noise._shipped", lambda: shipped)
    noise = seed_noise(MADE)

    assert noise is not None
    assert {2, 3, 4, 5, 6, 7} == set(noise.counts)


def test_records_are_read_from_a_folder(tmp_path: Path) -> None:
    """Records lie in it or in folders of it, among other files; a folder with none is an error."""
    (tmp_path / "a").mkdir()
    MADE.write(tmp_path / "a" / "record.json")
    (tmp_path / "other.json").write_text("{}")

    assert (MADE,) == read_records(tmp_path)
    with pytest.raises(InputError, match="which holds none"):
        read_records(tmp_path / "nowhere")
