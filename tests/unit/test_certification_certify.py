"""Certifications: declared order, interruptions, killed workers, two at once: the same seeds and verdict as undisturbed."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import shutil
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from harness.certification import Certificate, ConsistencyRule, Declaration, FixedDesign, SequentialDesign, certify
from harness.errors import InputError
from harness.graph import CapturedModel, computing_threads
from harness.sandbox.layers import unavailable_layers
from harness.training import (
    PREDICTIONS_FILE,
    EpochResult,
    RunRecord,
    RunSpec,
    SeedOutcome,
    SeedsInterrupted,
    SeedsJob,
    opened,
    seed_folder,
)
from tests.made_up import RECIPE
from tests.seeded import load_and_write_pid, load_another_network, load_data, load_model, load_or_refuse

pytestmark = [pytest.mark.smoke, pytest.mark.usefixtures("one_thread")]  # each seed is a process

# The made-up network learns all of the 40 test images: every run passes. 39 of 40 is 97.5 %.
EASY = ConsistencyRule(target=Decimal("97.5"), rule="last", last=2, max_epochs=3)
# The recipe declares three epochs.
IMPOSSIBLE = dataclasses.replace(EASY, max_epochs=2)
# Four passes in a row pass, and two failures fail.
DESIGN = SequentialDesign(p0=0.4, p1=0.9, alpha=0.1, beta=0.1, runs=6)


class Quiet:
    """An observer that calls a function after a given number of ended seeds, or after each epoch."""

    def __init__(
        self, on_end: Callable[[int], None] | None = None, on_epoch: Callable[[int], None] | None = None
    ) -> None:
        self.ended: list[int] = []
        self._on_end, self._on_epoch = on_end, on_epoch

    def on_seed_start(self, seed: int, *, epochs: int, steps: int, done: int) -> None:
        """Nothing."""

    def on_seed_step(self, seed: int, *, epoch: int, step: int) -> None:
        """Nothing."""

    def on_seed_epoch(self, seed: int, result: EpochResult) -> None:
        """Call the function."""
        if self._on_epoch and result.epoch == 1:
            self._on_epoch(seed)

    def on_seed_warning(self, seed: int, message: str) -> None:
        """Nothing."""

    def on_seed_end(self, outcome: SeedOutcome) -> None:
        """Call the function."""
        self.ended.append(outcome.seed)
        if self._on_end:
            self._on_end(len(self.ended))


def job(load: Callable[..., CapturedModel] = load_model) -> SeedsJob:
    """How the made-up network is trained."""
    spec = RunSpec.of(load_model(seed=0), RECIPE, seed=0, engine="fast")
    spec = dataclasses.replace(spec, sandbox=unavailable_layers())
    return SeedsJob(load_model=load, load_data=load_data, spec=spec)


def declaration(rule: ConsistencyRule = EASY, design: SequentialDesign | FixedDesign = DESIGN) -> Declaration:
    """What is certified about the made-up network."""
    spec = job().spec
    data = load_data()
    return Declaration(
        model="net",
        source="",
        arguments="",
        graph_digest=spec.graph_digest,
        contract="mine",
        rule=rule,
        recipe=RECIPE,
        data_name=data.name,
        data_title=data.title,
        data_digest=data.digest,
        engine="fast",
        device="cpu",
        design=design,
        salt="1",
    )


def certified(
    folder: Path, observer: Quiet | None = None, load: Callable[..., CapturedModel] = load_model
) -> Certificate:
    """Certify the made-up network, two seeds at a time."""
    return certify(declaration(), job(load), folder, processes=2, observer=observer or Quiet())


def results(certificate: Certificate) -> object:
    """The part of a certificate that must repeat."""
    return certificate.verdict, [(run.seed, run.results_digest) for run in certificate.runs]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Certificate, Path]:
    """A certification that nothing disturbed, and its folder."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with computing_threads(1):
        return certified(folder), folder


def test_it_ends_as_soon_as_it_is_decided(undisturbed: tuple[Certificate, Path]) -> None:
    """Declared first, in declared order, no more runs than it takes; the file says what was returned; labelled by its data."""
    certificate, folder = undisturbed
    seeds = declaration().seeds

    assert "pass" == certificate.verdict
    assert 1 < len(certificate.runs) < DESIGN.runs
    assert list(seeds[: len(certificate.runs)]) == [run.seed for run in certificate.runs]
    assert certificate == Certificate.read(folder / "certificate.json")
    record = RunRecord.read(seed_folder(folder, seeds[0]) / "record.json")
    assert unavailable_layers() == certificate.sandbox == record.sandbox
    assert all(len(run.wrong) == run.total - run.correct[-1] for run in certificate.runs)
    assert "made-up bars" == certificate.declaration.data_title


def test_failures_are_not_repeated(tmp_path: Path) -> None:
    """A rule that no run meets: it fails after the first runs, and the same command again trains nothing."""
    declared = declaration(IMPOSSIBLE)
    observer, again = Quiet(), Quiet()
    first = certify(declared, job(), tmp_path, processes=2, observer=observer)
    second = certify(declared, job(), tmp_path, processes=2, observer=again)

    assert "fail" == first.verdict
    assert first == second
    assert len(set(observer.ended)) == len(observer.ended)
    assert [] == again.ended


def test_a_run_without_its_predictions_is_finished_again(undisturbed: tuple[Certificate, Path], tmp_path: Path) -> None:
    """A record whose predictions could not be written is not counted; the checkpoint gives the same result."""
    first, second = declaration().seeds[:2]
    for seed in (first, second):
        shutil.copytree(seed_folder(undisturbed[1], seed), seed_folder(tmp_path, seed))
        (seed_folder(tmp_path, seed) / PREDICTIONS_FILE).unlink()

    assert results(undisturbed[0]) == results(certified(tmp_path))


def test_an_interruption_continues_to_the_same_verdict(undisturbed: tuple[Certificate, Path], tmp_path: Path) -> None:
    """Ctrl-C after the first seed: the certificate so far is kept, and the same call goes on with the others."""

    def interrupt(ended: int) -> None:
        if ended == 1:
            raise KeyboardInterrupt

    with pytest.raises(SeedsInterrupted):
        certified(tmp_path, Quiet(on_end=interrupt))
    assert results(undisturbed[0]) == results(certified(tmp_path))


def test_a_killed_worker_is_trained_again_and_listed(undisturbed: tuple[Certificate, Path], tmp_path: Path) -> None:
    """SIGKILL to the second declared seed: it is resumed, listed as a crash, and the outcome is the same."""
    victim = declaration().seeds[1]
    killed: list[int] = []

    def kill(seed: int) -> None:
        if seed == victim and not killed:
            killed.append(seed)
            os.kill(int((tmp_path / f"{seed}.pid").read_text(encoding="utf-8")), signal.SIGKILL)

    load = functools.partial(load_and_write_pid, folder=tmp_path)
    certificate = certified(tmp_path / "runs", Quiet(on_epoch=kill), load)

    assert results(undisturbed[0]) == results(certificate)
    assert [(victim, "the process that trained this seed was killed by SIGKILL")] == [
        (one.seed, one.problem) for one in certificate.crashes
    ]


def test_a_crash_is_on_file_at_once_and_retried_before_further_seeds(tmp_path: Path) -> None:
    """The first seed fails three times: no further seed is trained, and an interruption keeps the crashes before it."""
    first = declaration().seeds[0]
    observer = Quiet()
    certificate = certify(
        declaration(), job(functools.partial(load_or_refuse, refused=first)), tmp_path, processes=1, observer=observer
    )

    assert [first] * 3 == observer.ended == [one.seed for one in certificate.crashes]
    assert {"expected another seed"} == {one.problem for one in certificate.crashes}
    assert (None, ()) == (certificate.verdict, certificate.runs)

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(SeedsInterrupted):
        certified(tmp_path, Quiet(on_end=interrupt))
    assert certificate.crashes == Certificate.read(tmp_path / "certificate.json").crashes


def test_a_network_that_changes_between_seeds_is_no_run(tmp_path: Path) -> None:
    """The file of the model was edited after the declaration: each attempt fails, and nothing is counted."""
    certificate = certified(tmp_path, load=load_another_network)

    assert (None, ()) == (certificate.verdict, certificate.runs)
    assert "The code of the model has changed since" in certificate.crashes[0].problem


OTHER_TRAININGS: dict[str, dict[str, Any]] = {
    "graph_digest": {"graph_digest": "b" * 64},
    "recipe": {"recipe": dataclasses.replace(RECIPE, batch_size=8)},
    "data_digest": {"data_digest": "b" * 64},
    "engine": {"engine": "eager"},
}


@pytest.mark.parametrize("name", OTHER_TRAININGS)
def test_a_run_of_another_training_is_not_counted(
    name: str, undisturbed: tuple[Certificate, Path], tmp_path: Path
) -> None:
    """The record of another training in the folder of a declared seed, without a certificate: the seed is trained."""
    folder = seed_folder(tmp_path, declaration().seeds[0])
    shutil.copytree(seed_folder(undisturbed[1], declaration().seeds[0]), folder)
    record = RunRecord.read(folder / "record.json")
    other = dataclasses.replace(record, **OTHER_TRAININGS[name], status="diverged", epochs=())
    other.write(folder / "record.json")

    assert results(undisturbed[0]) == results(certified(tmp_path))
    assert other in map(RunRecord.read, folder.glob("record-*.json"))


def test_a_run_on_validation_images_is_refused(undisturbed: tuple[Certificate, Path], tmp_path: Path) -> None:
    """In the folder of a declared seed, finished or interrupted: nothing is trained."""
    folder = seed_folder(tmp_path, declaration().seeds[1])
    shutil.copytree(seed_folder(undisturbed[1], declaration().seeds[1]), folder)
    record = RunRecord.read(folder / "record.json")
    dataclasses.replace(record, validation=10, data_digest="b" * 64).write(folder / "record.json")

    with pytest.raises(InputError, match="which was tested on 10 training images"):
        certified(tmp_path)
    assert [folder] == list(tmp_path.glob("seed-*"))


def test_data_that_change_during_a_certification_are_an_error(tmp_path: Path) -> None:
    """The seeds' processes load other data than declared."""
    declared = dataclasses.replace(declaration(), data_digest="e" * 64)
    with pytest.raises(InputError, match=r"got a run with another data_digest\. Keep model and data unchanged"):
        certify(declared, job(), tmp_path, processes=2, observer=Quiet())


def test_two_at_once_in_one_folder(undisturbed: tuple[Certificate, Path], tmp_path: Path) -> None:
    """The second is refused while the first runs, or waits for it and returns the same certificate without a training."""
    waiting, observer = threading.Event(), Quiet()
    with ThreadPoolExecutor(1) as pool:
        with opened(tmp_path):
            with pytest.raises(InputError, match="into which another process is writing"):
                certified(tmp_path)
            second = pool.submit(
                certify, declaration(), job(), tmp_path, processes=1, observer=observer, on_wait=waiting.set
            )
            assert waiting.wait(60)
            shutil.copy(undisturbed[1] / "certificate.json", tmp_path)
        assert undisturbed[0] == second.result(60)
    assert [] == observer.ended


def test_another_declaration_in_the_same_folder_is_refused(undisturbed: tuple[Certificate, Path]) -> None:
    """Neither rule nor design of a declared certification can be changed; the message names what differs."""
    folder = undisturbed[1]
    with pytest.raises(InputError, match="got a certificate whose declaration differs in rule"):
        certify(declaration(IMPOSSIBLE), job(), folder, processes=2, observer=Quiet())
    with pytest.raises(InputError, match="whose declaration differs in design"):
        certify(declaration(design=FixedDesign(runs=2)), job(), folder, processes=2, observer=Quiet())


def test_runs_that_were_changed_are_refused(tmp_path: Path) -> None:
    """Predictions that do not belong to the record, and a damaged declaration."""
    first = certified(tmp_path)
    (tmp_path / "certificate.json").unlink()
    path = seed_folder(tmp_path, first.runs[0].seed) / "predictions.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "wrong": [[0, 1], [1, 2]]}), encoding="utf-8")
    with pytest.raises(InputError, match="expected the predictions of the final state"):
        certified(tmp_path)
    (tmp_path / "certificate.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="is not valid JSON"):
        certified(tmp_path)


def test_the_certificate_alone_is_enough_to_continue(undisturbed: tuple[Certificate, Path], tmp_path: Path) -> None:
    """With the first run in the file and no folder of a run, only the others are trained."""
    whole = undisturbed[0]
    dataclasses.replace(whole, runs=whole.runs[:1]).write(tmp_path / "certificate.json")
    observer = Quiet()
    assert results(whole) == results(certified(tmp_path, observer))
    assert whole.runs[0].seed not in observer.ended


def test_the_declaration_is_on_file_before_the_first_run(tmp_path: Path) -> None:
    """When the first seed starts, the certificate with all declared seeds has been written."""
    found: list[int] = []

    class Looking(Quiet):
        def on_seed_start(self, seed: int, *, epochs: int, steps: int, done: int) -> None:  # noqa: ARG002 - as declared
            document = json.loads((tmp_path / "certificate.json").read_text("utf-8"))
            assert [] == document["runs"]
            found.extend(document["declaration"]["seeds"])
            raise KeyboardInterrupt

    with pytest.raises(SeedsInterrupted):
        certified(tmp_path, Looking())
    assert list(declaration().seeds) == found
