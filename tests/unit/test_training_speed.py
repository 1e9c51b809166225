"""benchmarks/training_speed.py and timed_training.py: their counts and error messages."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pytest

import harness.cli.app
from benchmarks import timed_training, training_speed
from harness.errors import ExaminerError, InputError

OPTIONS = argparse.Namespace(data="mnist", images=None, epochs=1)
ROUNDS = [
    {"plain": {"epochs": [12.0]}, "fast": {"epochs": [3.0, 5.0]}, "sgemm": {"flop_per_second": {"2": 4e9, "1": 2e9}}},
    {"plain": {"epochs": [10.0]}, "fast": {"epochs": [2.0, 2.0]}, "sgemm": {"flop_per_second": {"2": 8e9, "1": 2e9}}},
    {"plain": {"epochs": [20.0]}, "fast": {"epochs": [5.0, 5.0]}, "sgemm": {"flop_per_second": {"2": 5e9, "1": 2e9}}},
]


def script(folder: Path, text: str) -> Path:
    """A program that replaces the measurement."""
    path = folder / "timed.py"
    path.write_text(text, encoding="utf-8")
    return path


def test_operations_of_an_epoch() -> None:
    """Training images count as steps, the 10,000 test images as forward passes."""
    per_image = {"forward": 2, "training": 5}

    assert 60_000 * 5 + 10_000 * 2 == training_speed.epoch_operations(per_image, None)
    assert 300 * 5 + 10_000 * 2 == training_speed.epoch_operations(per_image, 300)


def test_ratios_are_those_of_the_medians() -> None:
    """The ratio is the plain loop's median over the contender's; its range is that of the rounds."""
    figures = training_speed.figures_of(ROUNDS)

    assert ["plain", "fast"] == list(figures)
    assert {
        "median": 4.0,
        "smallest": 2.0,
        "largest": 5.0,
        "ratio": 3.0,
        "smallest_ratio": 3.0,
        "largest_ratio": 5.0,
    } == figures["fast"]
    assert {"2": 5e9, "1": 2e9} == training_speed.sgemm_of(ROUNDS)


def test_without_the_plain_loop_there_is_no_ratio() -> None:
    """Without the plain loop there are seconds but no ratios."""
    figures = training_speed.figures_of([{"fast": {"epochs": [3.0]}}])

    assert (3.0, None, None) == tuple(figures["fast"][key] for key in ("median", "ratio", "smallest_ratio"))


@pytest.mark.parametrize(
    ("names", "group"),
    [
        (["autograd::engine::evaluate_function: ConvolutionBackward0", "aten::mul"], "convolution, backward"),
        (["aten::conv2d", "aten::mkldnn_convolution"], "convolution, forward"),
        (["batches", "aten::max_pool2d"], "order, augmentation, normalising"),
        (["_ReluDropout", "aten::cumsum_"], "ReLU and dropout"),
        (["aten::cumsum_"], timed_training.REST),
    ],
)
def test_an_operation_belongs_to_what_is_around_it(names: list[str], group: str) -> None:
    """The outermost known name determines the group."""
    assert group == timed_training.group_of(iter(names))


def test_other_data_are_refused() -> None:
    """The embedded digits are refused."""
    with pytest.raises(InputError, match="expected MNIST, got --data digits: embedded"):
        timed_training.load_part("digits", None)


def test_missing_data_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder without MNIST is exit code 2 with a message that names it."""
    monkeypatch.setattr(sys, "argv", ["timed_training.py", "plain", "--data", str(tmp_path)])

    assert 2 == timed_training.main()
    assert str(tmp_path) in capsys.readouterr().err


@pytest.mark.parametrize(("code", "kind"), [(2, InputError), (1, ExaminerError)])
def test_a_measurement_that_fails_says_why(
    code: int, kind: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message is the error output of the process; the class follows from its exit code."""
    monkeypatch.setattr(
        training_speed, "TIMED", script(tmp_path, f"import sys\nprint('error: no', file=sys.stderr)\nsys.exit({code})")
    )

    with pytest.raises(kind, match=r"^fast: no$"):
        training_speed.run_timed("fast", OPTIONS)


def test_only_our_trainings_have_our_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Course code runs with torch's defaults, the engines with the settings of the command line, whatever the shell sets."""
    text = "import json, os\nprint(json.dumps({name: os.environ.get(name) for name in ('GOMP_SPINCOUNT', 'OMP_WAIT_POLICY')}))"
    monkeypatch.setattr(training_speed, "TIMED", script(tmp_path, text))
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    found = {name: training_speed.run_timed(name, OPTIONS) for name in ("plain", "fast")}

    assert [None, None] == [found["plain"][name] for name in training_speed.THREAD_SETTINGS]
    assert ["30000", None] == [found["fast"][name] for name in training_speed.THREAD_SETTINGS]


def test_our_settings_are_those_of_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmark sets the same variables as `harness` before torch is imported."""
    surrounding: dict[str, str] = {}
    monkeypatch.setattr("os.environ", surrounding)
    monkeypatch.setattr(harness.cli.app, "run", lambda _: 0)
    with pytest.raises(SystemExit):
        harness.cli.app.main([])

    assert training_speed.OURS == surrounding


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_of_a_process_and_its_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory of child processes is counted, too."""
    hold = "import time; held = bytearray(b'1') * 50_000_000; time.sleep(0.3)"
    text = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {hold!r}])\nprint('{{}}')"
    monkeypatch.setattr(training_speed, "TIMED", script(tmp_path, text))
    monkeypatch.setattr(training_speed, "_SAMPLING_SECONDS", 0.02)
    measured = training_speed.run_timed("fast", OPTIONS, seeds=2, memory=True)

    assert 50_000_000 < measured["pss_bytes"] <= measured["rss_bytes"]


def test_a_trial_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Title and JSON of a run on part of the images say so."""
    answers: dict[str, dict[str, Any]] = {
        "sgemm": {"flop_per_second": {"1": 2e9}},
        "operations": {"forward": 2, "training": 5},
        "surroundings": {"seconds": 4.0, "parts": {"digests": 0.1, "evaluation": 0.3}},
    }
    monkeypatch.setattr(training_speed, "run_timed", lambda name, _, **__: answers.get(name, {"epochs": [2.0]}))
    file, page = tmp_path / "speed.json", tmp_path / "speed.md"
    given = ["--only", "plain,fast,surroundings", "--rounds", "2", "--json", str(file), "--markdown", str(page)]

    assert 0 == training_speed.main([*given, "--images", "300"])
    document = json.loads(file.read_bytes())
    assert (False, 300, 2) == (document["whole_epochs"], document["images"], len(document["rounds"]))
    assert page.read_text("utf-8").startswith("# Speed: TEST RUN on 300 of 60,000 training images")
    assert "| total      | 10.0 %" in capsys.readouterr().out
    assert 0 == training_speed.main(given)
    assert "TEST RUN" not in page.read_text("utf-8")


@pytest.mark.parametrize("given", [["--only", "fastest"], ["--rounds", "0"], ["--json", "/no/such/folder/x.json"]])
def test_wrong_options_are_refused(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong options are refused before anything is measured."""
    with pytest.raises(SystemExit) as ended:
        training_speed.main(given)

    assert 2 == ended.value.code
    assert "expected" in capsys.readouterr().err
