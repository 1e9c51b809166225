"""Grading one submission: every requirement gets a finding, failures and errors differ, equal networks get equal grades."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from harness.errors import CaptureError, ExaminerError, ModelSourceError, SandboxError, SlowModelError
from harness.findings import Finding, Status
from harness.grading import Verdict, checks, grade
from harness.grading.trainings import TooSlowError
from harness.grading.writers import WRITERS
from harness.sandbox import DEFAULT_REQUIREMENT, NO_REQUIREMENT
from harness.training import NullObserver
from tests.graded import TEXT, Builds, assignment, built, grader, outcomes
from tests.made_up import dataset, network
from tests.verdicts import CONTEXT

SKIPPED = ("permuted labels", "epochs", "accuracy")


class Kept:
    """A store in memory."""

    folder = None

    def __init__(self) -> None:
        self.verdicts: dict[str, Verdict] = {}

    @contextlib.contextmanager
    def held(self, _: str) -> Iterator[None]:
        yield

    def get(self, key: str) -> Verdict | None:
        return self.verdicts.get(key)

    def put(self, key: str, verdict: Verdict) -> None:
        self.verdicts[key] = verdict

    def checkpoints(self, _: str) -> Path | None:
        return None


@pytest.fixture
def submission(tmp_path: Path) -> Path:
    """A submission of one file, whose content does not matter."""
    (tmp_path / "alice").mkdir()
    (tmp_path / "alice" / "net.py").write_text("class Net: ...\n")
    return tmp_path / "alice"


def stand_in(monkeypatch: pytest.MonkeyPatch, *models: object) -> Builds:
    """Let a submission be these models, in the order of the builds."""
    builds = Builds(*models)  # type: ignore[arg-type]  # models and errors
    monkeypatch.setattr("harness.grading.examiner.load_builds", builds)
    return builds


def test_every_requirement_gets_a_finding(monkeypatch: pytest.MonkeyPatch, submission: Path) -> None:
    """Without training, those on the trained model are skipped and give no points."""
    stand_in(monkeypatch, built(1), built(1), built(2))
    verdict = grade(submission, grader())
    found = outcomes(verdict)
    assert assignment().requirements == tuple(found)
    assert {name: "skip" if name in SKIPPED else "pass" for name in found} == found
    assert ("alice", 45, 78) == (verdict.submission, verdict.score, verdict.max_score)


def test_the_model_is_described_by_its_graph(monkeypatch: pytest.MonkeyPatch, submission: Path) -> None:
    """Each layer has a row; a receptive field belongs to a map."""
    stand_in(monkeypatch, built(1), built(1), built(2))
    model = grade(submission, grader()).model
    assert model is not None
    rows = {row.name: (row.operation, row.output_shape, row.parameters, row.receptive_field) for row in model.layers}
    assert ("Conv2d 7x7, stride 7x7", (4, 4, 4), 200, 7) == rows["0"]
    assert ("Linear", (10,), 650, None) == rows["5"]
    assert 858 == model.parameters


@pytest.mark.parametrize(
    "problem", [ModelSourceError("net.py has no class."), CaptureError("net.py cannot be captured")]
)
def test_a_submission_without_a_model_fails(
    monkeypatch: pytest.MonkeyPatch, submission: Path, problem: Exception
) -> None:
    """The finding `build` says why, and nothing else was checked."""
    stand_in(monkeypatch, problem)
    verdict = grade(submission, grader())
    assert {name: "fail" if name == "build" else "skip" for name in outcomes(verdict)} == outcomes(verdict)
    assert (0, str(problem).rstrip(".")) == (verdict.score, verdict.requirements[0].finding.observed)


def test_the_path_of_the_copy_is_not_shown(monkeypatch: pytest.MonkeyPatch, submission: Path) -> None:
    """A message names the file as the student does."""

    def fail(text: str, **_: object) -> tuple[ModelSourceError]:
        return (ModelSourceError(f"{text}/net.py has no class"),)

    monkeypatch.setattr("harness.grading.examiner.load_builds", fail)
    assert "net.py has no class" == grade(submission, grader()).requirements[0].finding.observed


def test_an_error_of_the_examiner_is_no_failure(monkeypatch: pytest.MonkeyPatch, submission: Path) -> None:
    """It costs no penalty and says whose fault it is."""
    stand_in(monkeypatch, ExaminerError("out of order"))
    verdict = grade(submission, grader())
    assert (Status.ERROR, ()) == (verdict.status, verdict.penalties)
    assert "a defect of the harness" in verdict.requirements[0].finding.hint


def test_a_missing_layer_of_the_sandbox_is_no_verdict(monkeypatch: pytest.MonkeyPatch, submission: Path) -> None:
    """The instructor's machine lacks it, so that nothing is graded."""
    stand_in(monkeypatch, SandboxError("no seccomp"))
    with pytest.raises(SandboxError):
        grade(submission, grader())


def test_an_unreadable_submission_fails(tmp_path: Path) -> None:
    """A damaged archive is the student's."""
    (tmp_path / "bob.zip").write_bytes(b"PK no zip")
    verdict = grade(tmp_path / "bob.zip", grader())
    assert (Status.FAIL, "bob.zip") == (verdict.status, verdict.submission)


def test_a_problem_of_the_examiner_s_machine_is_no_failure(submission: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk costs no points for good, wherever it is noticed: the submission is to be graded again."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for place in ("tempfile.mkdtemp", "pathlib.Path.mkdir"):
        with monkeypatch.context() as changed:
            changed.setattr(place, full)
            verdict = grade(submission, grader())
        assert (Status.ERROR, (), "") == (verdict.status, verdict.penalties, verdict.submission_digest)
        assert "No space left on device" in verdict.requirements[0].finding.observed
        assert "grade again" in verdict.requirements[0].finding.hint


def test_cheats_are_found(monkeypatch: pytest.MonkeyPatch, submission: Path) -> None:
    """Weights that no seed changes cost a penalty; a network that changes is no model."""
    stand_in(monkeypatch, built(1))
    verdict = grade(submission, grader())
    assert ("fail", 45 - 6 - 20) == (outcomes(verdict)["initial weights"], verdict.score)
    stand_in(monkeypatch, built(1), built(1), built(1, Wider))
    assert {"build": "fail"} == {
        name: found for name, found in outcomes(grade(submission, grader())).items() if found != "skip"
    }


class Wider(nn.Sequential):
    """Another network."""

    def __init__(self) -> None:
        super().__init__(network(), nn.ReLU())


def test_equal_networks_get_equal_grades(monkeypatch: pytest.MonkeyPatch, submission: Path) -> None:
    """A kept verdict is used again, under the name of the new submission; recomputed, it is equal."""
    stand_in(monkeypatch, built(1), built(1), built(2))
    store = Kept()
    first = grade(submission, grader(), store=store)
    again = grade(submission, grader(), name="carol", store=store)
    recomputed = grade(submission, grader(), store=Kept())
    assert 1 == len(store.verdicts)
    assert (first.digest(), "carol") == (again.digest(), again.submission)
    assert dataclasses.replace(first, environment=recomputed.environment) == recomputed


def test_an_equal_network_that_is_graded_meanwhile_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, submission: Path
) -> None:
    """The verdict that another process kept before this one came to hold the key is used."""
    stand_in(monkeypatch, built(1), built(1), built(2))
    store, other = Kept(), Kept()
    verdict = grade(submission, grader(), store=other)

    @contextlib.contextmanager
    def held(_: str) -> Iterator[None]:
        store.verdicts |= other.verdicts
        yield
        assert store.verdicts == other.verdicts

    monkeypatch.setattr(store, "held", held)
    monkeypatch.setattr("harness.grading.examiner.examine", None)
    assert verdict.digest() == grade(submission, grader(), store=store).digest()


def test_what_differs_is_graded_anew(monkeypatch: pytest.MonkeyPatch, submission: Path) -> None:
    """Other weights, another assignment, another salt, another data set."""
    store = Kept()
    stand_in(monkeypatch, built(1), built(1), built(2))
    harder = assignment(TEXT.replace("below = 1000", "below = 800"))
    verdicts = [grade(submission, one, store=store) for one in (grader(), grader(salt="x"), grader(assignment=harder))]
    stand_in(monkeypatch, built(1), built(1), built(3))
    verdicts.append(grade(submission, grader(), store=store))
    assert (4, 4) == (len(store.verdicts), len(verdicts))
    assert "fail" == outcomes(verdicts[2])["parameters"]
    assert 3 == len({one.assignment_digest for one in verdicts})


def test_a_known_submission_is_not_built(monkeypatch: pytest.MonkeyPatch, submission: Path) -> None:
    """The digest of its files decides."""
    builds = stand_in(monkeypatch, built(1), built(1), built(2))
    verdict = grade(submission, grader())
    again = grade(submission, grader(), known=lambda digest: verdict if digest == verdict.submission_digest else None)
    assert (1, verdict) == (builds.calls, again)


@pytest.mark.usefixtures("one_thread")
def test_a_trained_submission_gets_all_points(monkeypatch: pytest.MonkeyPatch, submission: Path) -> None:
    """The examiner's weights and recipe are used; the verdict has the epochs, the confusion matrix and wrong images."""
    stand_in(monkeypatch, built(1), built(1), built(2))
    verdict = grade(submission, grader(data=dataset()))
    assert {"pass"} == set(outcomes(verdict).values())
    training = verdict.training
    assert training is not None
    assert (78, 48, 40, 28, 2) == (
        *(verdict.score, training.train_total, training.test_total),
        *(training.required, training.counted_epochs),
    )
    last = training.runs[0].test_correct[-1]
    assert (last, 40) == (
        sum(row[label] for label, row in enumerate(training.confusion)),
        sum(map(sum, training.confusion)),
    )
    assert 40 - last == len(training.wrong)


@pytest.mark.parametrize(("certificate", "runs"), [("", 1), ("[certificate]\nname = 'fixed'\nruns = 3\n", 3)])
@pytest.mark.parametrize("initial", ["examiner", "submission"])
def test_a_submission_sees_no_seed_of_a_training(
    certificate: str, runs: int, initial: str, monkeypatch: pytest.MonkeyPatch, submission: Path
) -> None:
    """Its code could print it, and the salt would not be secret; unless its own weights are trained."""
    builds = stand_in(monkeypatch, built(1), built(1), built(2))
    chosen = assignment(f"initial_weights = '{initial}'\n{TEXT}{certificate}")
    grade(submission, grader(assignment=chosen, salt="secret"))
    first, again, *others = builds.seeds
    trained = set(chosen.seeds("secret")[:runs])
    assert first == again
    assert len({first, *others}) == len(others) + 1 >= 2
    assert trained & {first, *others} == (trained if initial == "submission" else set())


@pytest.mark.usefixtures("one_thread")
def test_no_report_for_a_student_names_a_seed(monkeypatch: pytest.MonkeyPatch, submission: Path) -> None:
    """They come from the instructor's secret salt; the verdict as JSON has them."""
    stand_in(monkeypatch, built(1), built(1), built(2))
    certificate = "[certificate]\nname = 'fixed'\np0 = 0.4\np1 = 0.5\nalpha = 0.1\nbeta = 0.1\nruns = 2\n"
    for text in (TEXT, TEXT + certificate):
        chosen = assignment(text)
        verdict = grade(submission, grader(assignment=chosen, data=dataset(), salt="secret"))
        written = {one.name: one.write([verdict], CONTEXT).decode() for one in WRITERS if one.name != "github"}
        seeds = [str(seed) for seed in chosen.seeds("secret")]
        assert ["json"] == [name for name, content in written.items() if any(seed in content for seed in seeds)]


@pytest.mark.usefixtures("one_thread")
def test_the_weights_of_a_submission_do_not_matter(monkeypatch: pytest.MonkeyPatch, submission: Path) -> None:
    """Unless the assignment uses them."""
    own = assignment("initial_weights = 'submission'\n" + TEXT)
    runs = []
    for chosen in (assignment(), own):
        for seed in (1, 3):
            stand_in(monkeypatch, built(seed), built(seed), built(2))
            training = grade(submission, grader(assignment=chosen, data=dataset())).training
            runs.append(training and training.runs)
    assert runs[0] == runs[1]
    assert runs[2] != runs[3]


class Stops(NullObserver):
    """Interrupts the first training after its first epoch."""

    def on_epoch(self, _: object) -> None:  # type: ignore[override]  # stands for a Ctrl-C
        raise KeyboardInterrupt


class Deletes(NullObserver):
    """Deletes the checkpoints after the first epoch, as a full or unmounted disk would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_epoch(self, _: object) -> None:  # type: ignore[override]  # any epoch
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.mark.usefixtures("one_thread")
def test_a_checkpoint_that_cannot_be_written_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, submission: Path, tmp_path: Path
) -> None:
    """It is an error of the examiner, and does not say where the checkpoints are."""
    store = Kept()
    monkeypatch.setattr(store, "checkpoints", lambda _: tmp_path / "kept")
    stand_in(monkeypatch, built(1), built(1), built(2))
    verdict = grade(submission, grader(data=dataset(), observer=Deletes(tmp_path / "kept")), store=store)
    assert (Status.ERROR, {"epochs": "error", "accuracy": "error"}) == (
        verdict.status,
        {name: found for name, found in outcomes(verdict).items() if found not in ("pass", "skip")},
    )
    assert not any(str(tmp_path) in one.finding.describe() for one in verdict.requirements)


@pytest.mark.usefixtures("one_thread")
def test_a_verdict_says_that_a_time_limit_decided(monkeypatch: pytest.MonkeyPatch, submission: Path) -> None:
    """Of loading the file, of the training, or of that on permuted labels; no other verdict says so."""
    stand_in(monkeypatch, SlowModelError("net.py did not finish loading"))
    verdicts = [grade(submission, grader())]
    stand_in(monkeypatch, built(1), built(1), built(2))
    slow = dataclasses.replace(assignment(), train_seconds=1e-9)
    verdicts += [grade(submission, grader(assignment=one, data=dataset())) for one in (slow, assignment())]

    def too_slow(*_: object) -> Finding:
        raise TooSlowError("it took more than 1 second")

    monkeypatch.setattr("harness.grading.trainings.Trainer.permuted_labels", too_slow)
    verdicts.append(grade(submission, grader(data=dataset())))
    assert [True, True, False, True] == [one.timed_out for one in verdicts]
    assert ["fail", "pass", "pass", "pass"] == [outcomes(one)["build"] for one in verdicts]
    assert ["skip", "skip", "pass", "skip"] == [outcomes(one)["permuted labels"] for one in verdicts]


@pytest.mark.usefixtures("one_thread")
def test_an_interrupted_training_is_continued(
    monkeypatch: pytest.MonkeyPatch, submission: Path, tmp_path: Path
) -> None:
    """From its checkpoint, wherever the submission is copied to; the grade is that of an undisturbed one."""
    store = Kept()
    monkeypatch.setattr(store, "checkpoints", lambda key: tmp_path / key)
    stand_in(monkeypatch, built(1), built(1), built(2))
    with pytest.raises(KeyboardInterrupt):
        grade(submission, grader(data=dataset(), observer=Stops()), store=store)
    moved = [dataclasses.replace(built(seed), name="elsewhere/net.py:Net") for seed in (1, 1, 2)]
    stand_in(monkeypatch, *moved)
    continued = grade(submission, grader(data=dataset()), store=store)
    assert list(tmp_path.glob("*/run-1"))
    assert grade(submission, grader(data=dataset())).digest() == continued.digest()


def test_claims_are_examined_if_asked(monkeypatch: pytest.MonkeyPatch, submission: Path) -> None:
    """A contradiction costs the points of the requirement, also from a kept verdict on the network; other findings do not."""
    stand_in(monkeypatch, built(1), built(1), built(2))
    found = Finding(
        requirement="README.md:3", status=Status.FAIL, expected="7,000", observed="8,000", hint="Correct it."
    )
    asked = assignment("claims = true\n" + TEXT.replace("accuracy = 12", "accuracy = 12\nclaims = 30"))
    store = Kept()
    plain = grade(submission, grader())
    honest, wrong = (
        grade(
            submission,
            grader(assignment=asked, claims=lambda _, status=status: [dataclasses.replace(found, status=status)]),
            store=store,
        )
        for status in (Status.PASS, Status.FAIL)
    )
    assert ((), plain.score + 30, plain.score) == (plain.claims, honest.score, wrong.score)
    assert ("claims", Status.FAIL, "Correct it.") == (
        (finding := wrong.requirements[-1].finding).requirement,
        finding.status,
        finding.hint,
    )
    assert (found,) == wrong.claims


def test_documents_of_a_submission_are_read(monkeypatch: pytest.MonkeyPatch, submission: Path) -> None:
    """A log whose percentage contradicts its count is found; a submission without documents has no findings."""
    stand_in(monkeypatch, built(1), built(1), built(2))
    asked = assignment("claims = true\n" + TEXT.replace("accuracy = 12", "accuracy = 12\nclaims = 30"))
    assert () == grade(submission, grader(assignment=asked)).claims
    log = "Test set: Average loss: 0.02, Accuracy: 9934/10000 (99.40%)\n"
    (submission / "README.md").write_text(f"# Log\n\n```\n{log}```\n", encoding="utf-8")
    verdict = grade(submission, grader(assignment=asked))
    assert [Status.FAIL] == [one.status for one in verdict.claims]
    assert Status.FAIL is verdict.requirements[-1].finding.status


def test_the_assignment_can_ask_for_more_of_the_sandbox() -> None:
    """Both requirements must hold; an instructor who trusts the submission asks for nothing."""
    asked = assignment("sandbox = 'limits'\n" + TEXT)
    required = grader(assignment=asked).required_sandbox
    assert len(DEFAULT_REQUIREMENT.alternatives) == len(required.alternatives)
    assert all("limits" in alternative for alternative in required.alternatives)
    assert NO_REQUIREMENT == grader(assignment=asked, sandbox=NO_REQUIREMENT).required_sandbox


def test_a_large_network_is_not_examined(monkeypatch: pytest.MonkeyPatch, submission: Path) -> None:
    """It fails before anything is computed."""
    monkeypatch.setattr(checks, "MAX_PARAMETERS", 100)
    stand_in(monkeypatch, built(1), built(1), built(2))
    assert "more than the 100 that are graded" in grade(submission, grader()).requirements[0].finding.observed


def test_grading_leaves_torch_as_it_was(monkeypatch: pytest.MonkeyPatch, submission: Path) -> None:
    """Threads and random state."""
    stand_in(monkeypatch, built(1), built(1), built(2))
    before = torch.get_num_threads(), torch.get_rng_state()
    grade(submission, grader(data=dataset()))
    assert before[0] == torch.get_num_threads()
    assert torch.equal(before[1], torch.get_rng_state())
