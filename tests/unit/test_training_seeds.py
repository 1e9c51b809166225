"""Training many seeds: each has the bits of a run of its own, and a failing seed does not affect the others."""

from __future__ import annotations

import dataclasses
import functools
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from harness.errors import InputError
from harness.graph import CapturedModel
from harness.training import (
    EpochResult,
    RunRecord,
    RunSpec,
    SeedOutcome,
    SeedsInterrupted,
    SeedsJob,
    load_weights,
    seed_folder,
    seeds_at_once,
    state_digest,
    train,
    train_seeds,
)
from tests.made_up import RECIPE
from tests.seeded import (
    FULL,
    REFUSED,
    load_and_write_pid,
    load_data,
    load_model,
    load_onto_a_full_disk,
    load_or_refuse,
    load_with_other_weights,
)

pytestmark = [pytest.mark.smoke, pytest.mark.usefixtures("one_thread")]  # each seed is a process


class RecordingObserver:
    """Keeps the arguments of its calls, and calls a function after a given epoch of a seed."""

    def __init__(self, at: tuple[int, int] | None = None, then: Callable[[], None] | None = None) -> None:
        self.begun: dict[int, int] = {}
        self.epochs: list[tuple[int, int]] = []
        self.ended: list[int] = []
        self.warnings: list[str] = []
        self._at, self._then = at, then

    def on_seed_start(self, seed: int, *, epochs: int, steps: int, done: int) -> None:
        assert (epochs, steps) == (RECIPE.epochs, 120)
        self.begun[seed] = done

    def on_seed_step(self, seed: int, *, epoch: int, step: int) -> None:
        assert 1 <= epoch <= RECIPE.epochs
        assert 1 <= step <= 120
        assert seed in self.begun

    def on_seed_epoch(self, seed: int, result: EpochResult) -> None:
        self.epochs.append((seed, result.epoch))
        if self._at == (seed, result.epoch) and self._then:
            self._then()

    def on_seed_warning(self, seed: int, message: str) -> None:
        self.warnings.append(f"{seed}: {message}")

    def on_seed_end(self, outcome: SeedOutcome) -> None:
        self.ended.append(outcome.seed)


def job(load: Callable[..., CapturedModel] = load_model, engine: str = "fast") -> SeedsJob:
    """What the seeds have in common."""
    captured = load_model(seed=0)
    return SeedsJob(load_model=load, load_data=load_data, spec=RunSpec.of(captured, RECIPE, seed=0, engine=engine))


def trained(
    seeds: Iterable[int],
    folder: Path,
    load: Callable[..., CapturedModel] = load_model,
    observer: RecordingObserver | None = None,
) -> tuple[SeedOutcome, ...]:
    """Train them, two at a time."""
    return train_seeds(job(load), seeds, folder, processes=2, observer=observer or RecordingObserver())


def bits(record: RunRecord | None) -> object:
    """The part of a record that must repeat."""
    assert record
    return record.status, record.seed, record.state_digest, record.digests, [r.test_loss for r in record.epochs]


@functools.cache
def solo(seed: int, engine: str = "fast") -> RunRecord:
    """A seed trained alone, in this process, on one thread."""
    captured = load_model(seed=seed)
    return train(captured.to_module(), RunSpec.of(captured, RECIPE, seed=seed, engine=engine), load_data())


@pytest.mark.parametrize("engine", ["eager", "fast", "bf16"])
def test_each_seed_is_bit_equal_to_its_solo_run(engine: str, tmp_path: Path) -> None:
    """With every engine; outcomes in the order of the seeds; record and weights in each folder."""
    outcomes = train_seeds(job(engine=engine), (5, 3, 4), tmp_path, processes=2, observer=RecordingObserver())

    assert [outcome.seed for outcome in outcomes] == [5, 3, 4]
    for outcome in outcomes:
        assert bits(outcome.record) == bits(solo(outcome.seed, engine))
        record = RunRecord.read(outcome.folder / "record.json")
        assert bits(record) == bits(outcome.record)
        assert (record.engine, record.environment.threads) == (engine, 1)
        module = load_model(seed=0).to_module()
        load_weights(module, outcome.folder / "weights.safetensors")
        assert state_digest(module.state_dict()) == record.state_digest


def test_a_killed_seed_affects_no_other_and_is_resumed(tmp_path: Path) -> None:
    """SIGKILL to one of four: the others have the bits of uninterrupted runs, and so does the killed one once resumed."""

    def kill() -> None:
        os.kill(int((tmp_path / "2.pid").read_text(encoding="utf-8")), signal.SIGKILL)

    load = functools.partial(load_and_write_pid, folder=tmp_path)
    outcomes = trained(range(4), tmp_path, load, RecordingObserver(at=(2, 1), then=kill))

    killed = outcomes[2]
    assert (killed.record, killed.problem) == (None, "the process that trained this seed was killed by SIGKILL")
    for outcome in (*outcomes[:2], outcomes[3]):
        assert bits(outcome.record) == bits(solo(outcome.seed))
    before = {seed: (seed_folder(tmp_path, seed) / "record.json").stat().st_mtime_ns for seed in (0, 1, 3)}
    observer = RecordingObserver()
    again = trained(range(4), tmp_path, load, observer)
    assert [bits(outcome.record) for outcome in again] == [bits(solo(seed)) for seed in range(4)]
    # Only the killed one was trained, from its checkpoint; the files of the others were not touched.
    assert observer.begun in ({2: 1}, {2: 2})
    assert sorted(observer.ended) == [0, 1, 2, 3]
    assert before == {seed: (seed_folder(tmp_path, seed) / "record.json").stat().st_mtime_ns for seed in before}


def test_an_interruption_keeps_finished_seeds(tmp_path: Path) -> None:
    """Finished seeds are kept, running ones write their state, and the same call again gives the bits of uninterrupted runs."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SeedsInterrupted) as stop:
        trained(range(4), tmp_path, observer=RecordingObserver(at=(2, 2), then=interrupt))

    assert 2 not in {outcome.seed for outcome in stop.value.outcomes}
    assert len(stop.value.outcomes) >= 1
    assert f"{len(stop.value.outcomes)} of 4 seeds are finished, and their results are kept" in str(stop.value)
    assert multiprocessing.active_children() == []
    assert RunRecord.read(seed_folder(tmp_path, 2) / "record.json").status in ("interrupted", "complete")
    observer = RecordingObserver()
    again = trained(range(4), tmp_path, observer=observer)
    assert [bits(outcome.record) for outcome in again] == [bits(solo(seed)) for seed in range(4)]
    assert not {outcome.seed for outcome in stop.value.outcomes} & set(observer.begun)


def test_a_seed_that_cannot_be_loaded_affects_no_other(tmp_path: Path) -> None:
    """Its outcome has the reason."""
    outcomes = trained((1, REFUSED, 3), tmp_path, load_or_refuse)

    assert [outcome.problem for outcome in outcomes] == ["", "expected another seed", ""]
    assert [bits(outcome.record) for outcome in outcomes if outcome.record] == [bits(solo(1)), bits(solo(3))]


def test_a_full_disk_affects_one_seed(tmp_path: Path) -> None:
    """The message names the file, finished seeds are kept, and the seed is trained once there is space."""
    outcomes = trained((0, FULL), tmp_path, load_onto_a_full_disk)

    assert "could not write '" in outcomes[1].problem
    assert "Free some space" in outcomes[1].problem
    assert bits(outcomes[0].record) == bits(solo(0))
    again = trained((0, FULL), tmp_path)
    assert [bits(outcome.record) for outcome in again] == [bits(solo(0)), bits(solo(FULL))]


def test_a_run_of_another_recipe_in_the_folder_is_refused(tmp_path: Path) -> None:
    """It counts neither as finished nor as a checkpoint: the outcome names the difference, and the files are kept."""
    trained((0,), tmp_path)
    before = (seed_folder(tmp_path, 0) / "record.json").read_bytes()
    other = dataclasses.replace(job(), spec=dataclasses.replace(job().spec, recipe=RECIPE.with_epochs(2)))

    (outcome,) = train_seeds(other, (0,), tmp_path, processes=1, observer=RecordingObserver())

    assert outcome.record is None
    assert "recipe" in outcome.problem
    assert (seed_folder(tmp_path, 0) / "record.json").read_bytes() == before


@pytest.mark.parametrize(
    ("engine", "device", "at_once"), [("fast", "cpu", 4), ("eager", "cuda:0", 1), ("graph", "cuda:0", 4)]
)
def test_only_a_cpu_and_the_engine_graph_train_several_seeds_at_once(engine: str, device: str, at_once: int) -> None:
    """The other engines train one seed after the other on a GPU."""
    assert at_once == seeds_at_once(dataclasses.replace(job().spec, engine=engine, device=device), 4)


def test_an_unknown_engine_is_refused() -> None:
    """Before any process is started; the message lists the engines."""
    with pytest.raises(InputError, match=r"engine='warp'.*eager, fast, bf16, graph"):
        job(engine="warp")


def test_other_initial_weights_are_another_training(tmp_path: Path) -> None:
    """The code that initialises the model was changed: no finished seed counts, and the outcomes say why."""
    trained((0, 1), tmp_path)
    outcomes = trained((0, 1), tmp_path, load_with_other_weights)

    assert [None, None] == [outcome.record for outcome in outcomes]
    assert all("initial_state_digest=" in outcome.problem for outcome in outcomes)


def test_an_interrupted_fresh_start_has_forgotten_all_earlier_runs(tmp_path: Path) -> None:
    """Ctrl-C in the first seed: neither it nor the second one, which was not begun, counts as finished by its old run."""
    trained((0, 1), tmp_path)

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SeedsInterrupted) as stop:
        train_seeds(
            job(), (0, 1), tmp_path, processes=1, observer=RecordingObserver(at=(0, 1), then=interrupt), fresh=True
        )
    observer = RecordingObserver()
    again = trained((0, 1), tmp_path, observer=observer)

    assert () == stop.value.outcomes
    assert {0, 1} == observer.begun.keys()
    assert [bits(solo(0)), bits(solo(1))] == [bits(outcome.record) for outcome in again]


def test_fresh_starts_over(tmp_path: Path) -> None:
    """Finished seeds are trained again; the earlier record is kept under another name."""
    trained((0,), tmp_path)
    observer = RecordingObserver()
    (outcome,) = train_seeds(job(), (0,), tmp_path, processes=1, observer=observer, fresh=True)

    assert bits(outcome.record) == bits(solo(0))
    assert observer.begun == {0: 0}
    assert len(list(seed_folder(tmp_path, 0).glob("record-*.json"))) == 1
