from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness.determinism import requests
from harness.determinism.axes import Axis
from harness.determinism.runner import check_determinism, shortened
from harness.errors import ExaminerError, InputError
from harness.findings import Finding, Status
from harness.sandbox import runner
from tests import made_up
from tests.determinism_models import run_spec

pytestmark = pytest.mark.usefixtures("one_thread", "known_environment")


def write_model(folder: Path, forward: str = "return self.head(images.flatten(1))", *, before: str = "") -> Path:
    """Write a file with a model; returns its path."""
    path = folder / "net.py"
    path.write_text(
        f"import os, random, torch\nfrom torch import nn\n{before}\nclass Net(nn.Module):\n    def __init__(self):\n"
        f"        super().__init__()\n        self.head = nn.Linear(784, 10)\n        self.calls = 0\n"
        f"    def forward(self, images):\n        self.calls += 1\n        {forward}\n",
        encoding="utf-8",
    )
    return path


def checked(path: Path, *, idle_seconds: float = 10.0) -> dict[str, Finding]:
    """The findings of a check, by axis."""
    found = check_determinism(run_spec(str(path)), made_up.dataset(), steps=8, idle_seconds=idle_seconds)
    assert [Axis(finding.requirement) for finding in found.findings] == [
        axis for axis in Axis if axis is not Axis.FROZEN
    ]
    return {finding.requirement: finding for finding in found.findings}


@pytest.mark.smoke
@pytest.mark.usefixtures("worker_here")
def test_a_report_has_every_axis_in_order(tmp_path: Path) -> None:
    """A deterministic model in a file passes; without a captured graph its axis is not applicable."""
    found = checked(write_model(tmp_path))

    assert "not applicable: the model was not captured" == found[Axis.GRAPH].observed
    assert [] == [finding.describe() for finding in found.values() if finding.status is Status.FAIL]


@pytest.mark.smoke
@pytest.mark.usefixtures("worker_here")
def test_what_is_drawn_at_import_differs_in_a_fresh_process(tmp_path: Path) -> None:
    """A number that is drawn when the file is imported changes from process to process; the cause is named."""
    model = write_model(
        tmp_path, "return self.head(images.flatten(1)) * SCALE", before="SCALE = random.Random().random()"
    )
    found = checked(model)

    assert Status.PASS is found[Axis.REPEAT].status
    assert Status.FAIL is found[Axis.FRESH].status
    assert (
        "cause: the code draws from Python's random, which the run's seed does not set" == found[Axis.FRESH].evidence[0]
    )
    assert (
        "not applicable: the training already differs in a fresh process with the same PYTHONHASHSEED"
        == found[Axis.HASH].observed
    )


@pytest.mark.smoke
@pytest.mark.usefixtures("worker_here")
def test_a_dependence_on_the_hash_seed_is_found(tmp_path: Path) -> None:
    """If only another PYTHONHASHSEED makes a difference, hashing is the cause."""
    model = write_model(tmp_path, "return self.head(images.flatten(1)) * float(os.environ['PYTHONHASHSEED'])")
    found = checked(model)

    assert Status.PASS is found[Axis.FRESH].status
    assert Status.FAIL is found[Axis.HASH].status
    assert found[Axis.HASH].evidence[0].startswith("cause: the code depends on how Python hashes text")


@pytest.mark.usefixtures("worker_here")
@pytest.mark.parametrize(
    ("forward", "words"),
    [
        (
            "assert self.calls < 3, 'enough'; return self.head(images.flatten(1))",
            r"net.py failed in line 11 of net.py during a training: AssertionError: enough",
        ),
        ("return self.head(images)", "net.py failed in line 11 of net.py during a training: RuntimeError"),
        ("return images", r"expected the model's output to have shape=\(16, 10\)"),
    ],
)
def test_an_error_of_the_model_is_reported_with_its_line(tmp_path: Path, forward: str, words: str) -> None:
    """An error in the user's code is an input error."""
    with pytest.raises(InputError, match=words):
        checked(write_model(tmp_path, forward))


@pytest.mark.usefixtures("worker_here")
def test_a_run_that_diverges_is_refused(tmp_path: Path) -> None:
    """A loss that becomes NaN leaves nothing to compare."""
    with pytest.raises(InputError, match="with a finite loss, got a loss that is infinite or NaN by step "):
        checked(write_model(tmp_path, "return self.head(images.flatten(1)) * (1 if self.calls < 3 else float('nan'))"))


@pytest.mark.usefixtures("worker_here")
def test_an_error_of_the_harness_is_internal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that the harness raises by mistake is not the model's."""
    monkeypatch.setattr(requests, "write_trace", None)
    with pytest.raises(ExaminerError, match="a worker process failed with TypeError: 'NoneType'"):
        checked(write_model(tmp_path))


@pytest.mark.parametrize(("steps", "expected"), [(50, (5, 10)), (51, (6, 10)), (9, (3, 4)), (2, (2, 1)), (10, (2, 5))])
def test_a_run_is_shortened_to_whole_epochs(steps: int, expected: tuple[int, int]) -> None:
    """Epochs have ten steps if there are enough images, and there are at least two."""
    spec, data = shortened(run_spec(), made_up.dataset(train=500, test=200), steps=steps)

    assert expected == (spec.recipe.epochs, len(data.train_images) // 16)
    assert 100 == len(data.test_images)


def test_a_run_is_shortened_to_the_images_there_are() -> None:
    """If there are not enough images for ten steps, there are more epochs."""
    spec, data = shortened(run_spec(), made_up.dataset(train=40), steps=9)

    assert (5, 32) == (spec.recipe.epochs, len(data.train_images))


def test_one_step_is_too_few() -> None:
    """A run must be stopped after a step and resumed for another."""
    with pytest.raises(InputError, match="at least 2 steps"):
        shortened(run_spec(), made_up.dataset(), steps=1)


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (
            "print('farewell', flush=True); os._exit(3)",
            "ended the process that trained the model: expected .* The last output was: farewell",
        ),
        ("os.kill(os.getpid(), 9)", "Signal 9 killed the process; is there enough memory"),
        (
            "(folder / 'progress.txt').write_text('fresh process: pass\\n'); os._exit(0)",
            "after reporting 'fresh process: pass'.*Nothing was printed",
        ),
        ("time.sleep(60)", "made no step in 0 seconds: expected a training that advances"),
        ("while True: print('x' * 1000)", "printed more than 67,108,864 bytes"),
    ],
    ids=["exit", "killed", "progress", "idle", "output"],
)
def test_a_process_that_ends_without_a_result_is_an_input_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: str, words: str
) -> None:
    """The message says how the process ended, after which progress, and what it printed last."""

    def start(folder: Path, _: object) -> runner.Process:
        text = f"import os, sys, time, pathlib\nfolder = pathlib.Path({str(folder)!r})\n{lines}\n"
        with (folder / "output.txt").open("wb") as output:
            command = [sys.executable, "-S", "-c", text]
            return runner._GroupLeader(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)  # noqa: SLF001

    monkeypatch.setattr(runner, "start_process", start)
    path = write_model(tmp_path)
    with pytest.raises(InputError, match=words):
        checked(path, idle_seconds=0.4 if "sleep" in lines else 10.0)
