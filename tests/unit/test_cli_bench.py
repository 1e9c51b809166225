"""`harness bench compare`: a verdict, or a specific error for runs that cannot be compared."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.benchmarking import WORKLOAD
from tests.documents import schema_errors

Command = Callable[..., tuple[int, str, str]]
Change = Callable[[dict[str, Any]], object]

NAMES = (
    "tests/bench/test_speed.py::test_speed[cpu-net-training]",
    "tests/bench/test_speed.py::test_speed[cpu-net-inference]",
)


def run(*, slower: float = 1.0) -> dict[str, Any]:
    """The parts of pytest-benchmark's file that are read, with blocks that differ by up to 5 % in a fixed pattern."""
    blocks = [
        {"seconds": [0.02 * slower * (1 + 0.01 * (index * 7 % 11 - 5))] * 5, "reference_seconds": [0.01] * 6}
        for index in range(11)
    ]
    calibration = {
        "workload": WORKLOAD,
        "device": "cpu",
        "clock": "cpu",
        "threads": 1,
        "xdist": False,
        "waits": 0,
        "sittings": blocks,
    }
    return {
        "machine_info": {
            "cpu": {"brand_raw": "Some CPU"},
            "harness": {
                "commit": "0123abc",
                "cpu_capability": "AVX2",
                "accelerator": None,
                "cuda": None,
                "torch": "2.8.0",
            },
        },
        "benchmarks": [{"fullname": name, "extra_info": {"calibration": copy.deepcopy(calibration)}} for name in NAMES],
        "datetime": "2026-01-02T03:04:05+00:00",
    }


def write(path: Path, document: dict[str, Any]) -> Path:
    """A saved run."""
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


@pytest.fixture
def baseline(tmp_path: Path) -> Path:
    """The baseline run."""
    return write(tmp_path / "baseline.json", run())


def calibration(document: dict[str, Any]) -> dict[str, Any]:
    """The calibration of the second benchmark."""
    table: dict[str, Any] = document["benchmarks"][1]["extra_info"]["calibration"]
    return table


def test_an_unchanged_version_passes(command: Command, baseline: Path, tmp_path: Path) -> None:
    """Each benchmark has a line with its ratio, and the two runs are announced."""
    code, out, err = command("bench", "compare", baseline, write(tmp_path / "now.json", run(slower=1.02)))

    assert 0 == code
    assert ["test_speed[cpu-net-training]", "1.999", "2.039", "1.020"] == out.splitlines()[1].split()[:4]
    assert "PASS  0 of 2 significantly slower than 1.1 times the baseline" == out.splitlines()[-1].strip()
    assert f"baseline: {baseline}, commit 0123abc, 2026-01-02T03:04:05+00:00" in err


def test_a_slow_down_fails(command: Command, baseline: Path, tmp_path: Path) -> None:
    """15 % fail by default and pass with a larger --allow."""
    now = write(tmp_path / "now.json", run(slower=1.15))
    code, out, _ = command("bench", "compare", baseline, now)
    relaxed, _, _ = command("bench", "compare", baseline, now, "--allow", "1.2")

    assert (1, 0) == (code, relaxed)
    assert "FAIL  2 of 2 significantly slower than 1.1 times the baseline" == out.splitlines()[-1].strip()
    assert "slower" == out.splitlines()[1].split()[-1]


def test_one_slow_benchmark_is_enough(command: Command, baseline: Path, tmp_path: Path) -> None:
    """One slower benchmark fails the comparison; the document says which and is valid."""
    changed = run()
    changed["benchmarks"][1] = run(slower=1.3)["benchmarks"][1]
    code, out, _ = command("bench", "compare", baseline, write(tmp_path / "now.json", changed), "--json", "-")
    document = json.loads(out)

    assert 1 == code
    assert ["pass", "fail"] == [found["status"] for found in document["benchmarks"]]
    assert "fail" == document["status"]
    assert [] == schema_errors(document)
    assert [] != schema_errors({**document, "more": 1})


def remove_one(document: dict[str, Any]) -> None:
    """Remove the second benchmark."""
    del document["benchmarks"][1]


UNFIT: dict[str, tuple[Change, str]] = {
    "no JSON object": (dict.clear, "the file has no 'machine_info'"),
    "no calibration": (
        lambda document: document["benchmarks"][1]["extra_info"].clear(),
        "saved by pytest-benchmark, but the file has no 'calibration'",
    ),
    "no benchmark": (lambda document: document["benchmarks"].clear(), "the file contains no benchmark"),
    "no blocks": (lambda document: calibration(document).pop("sittings"), "expected a value for blocks"),
    "another CPU": (
        lambda document: document["machine_info"]["cpu"].update(brand_raw="Other CPU"),
        "same kind of machine, got differences: CPU Some CPU in the baseline, Other CPU now.",
    ),
    "another capability": (
        lambda document: document["machine_info"]["harness"].update(cpu_capability="AVX512"),
        "CPU capability AVX2 in the baseline, AVX512 now.",
    ),
    "another accelerator": (
        lambda document: document["machine_info"]["harness"].update(accelerator="Some GPU", cuda="13.0"),
        "accelerator None in the baseline, Some GPU now; CUDA None in the baseline, 13.0 now.",
    ),
    "another torch": (
        lambda document: document["machine_info"]["harness"].update(torch="2.9.0"),
        "torch 2.8.0 in the baseline, 2.9.0 now.",
    ),
    "another device": (
        lambda document: calibration(document).update(device="cuda", clock="wall"),
        "got differences: device cpu in the baseline, cuda now; clock cpu in the baseline, wall now.",
    ),
    "other threads": (
        lambda document: calibration(document).update(threads=2),
        "got differences: threads 1 in the baseline, 2 now.",
    ),
    "another workload": (
        lambda document: calibration(document).update(workload="small-conv-net/0"),
        f"got '{WORKLOAD}' in the baseline and 'small-conv-net/0' now.",
    ),
    "one benchmark less": (remove_one, "lacks 1 that {baseline} has: test_speed[cpu-net-inference]."),
    "one benchmark more": (
        lambda document: document["benchmarks"].append({**document["benchmarks"][0], "fullname": "new"}),
        "{baseline} lacks 1 that {now} has: new.",
    ),
    "under xdist": (
        lambda document: calibration(document).update(xdist=True),
        "expected a run in one process, got a run under pytest-xdist",
    ),
    "too few blocks": (
        lambda document: calibration(document).update(sittings=calibration(document)["sittings"][:7]),
        "expected at least 40 rounds in 8 blocks, got 35 in 7, too few to distinguish a slow-down from noise.",
    ),
    "too few rounds": (
        lambda document: calibration(document).update(sittings=[{"seconds": [1], "reference_seconds": [1, 1]}] * 39),
        "expected at least 40 rounds in 8 blocks, got 39 in 39, too few",
    ),
    "no variation": (
        lambda document: calibration(document).update(sittings=calibration(document)["sittings"][:1] * 8),
        "expected times that vary, as measured times do",
    ),
    "waiting": (lambda document: calibration(document).update(waits=1), "sleeps or waits in each round"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_incomparable_runs_are_an_error(case: str, command: Command, baseline: Path, tmp_path: Path) -> None:
    """Runs that cannot be compared are exit code 2 with a specific message."""
    change, words = UNFIT[case]
    document = run()
    change(document)
    now = write(tmp_path / "now.json", document)
    code, out, err = command("bench", "compare", baseline, now)

    assert (2, "") == (code, out)
    assert words.format(baseline=baseline, now=now) in err


def test_a_missing_file_is_an_error(command: Command, baseline: Path, tmp_path: Path) -> None:
    """The message says how to save a run."""
    missing = tmp_path / "missing.json"
    code, out, err = command("bench", "compare", missing, baseline)

    assert (2, "") == (code, out)
    assert f"expected a saved benchmark run, but there is no file '{missing}'. Save a run with `tox -e bench`" in err


def test_a_file_of_another_kind_is_an_error(command: Command, baseline: Path, tmp_path: Path) -> None:
    """A text file, a folder and a JSON list are not saved runs."""
    text, list_ = tmp_path / "text.json", tmp_path / "list.json"
    text.write_text("no JSON", encoding="utf-8")
    list_.write_text("[]", encoding="utf-8")
    for path, words in ((text, "is not valid JSON"), (tmp_path, "Is a directory"), (list_, "another structure")):
        code, _, err = command("bench", "compare", baseline, path)

        assert 2 == code
        assert "benchmark run" in err
        assert words in err


def test_the_newest_runs_are_compared(command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The two newest runs are compared by default, the newest with a given baseline; too few runs are an error."""
    monkeypatch.chdir(tmp_path)
    storage = tmp_path / ".benchmarks" / "Linux-CPython-3.11-64bit"
    storage.mkdir(parents=True)
    outcomes = []
    for number, slower in enumerate((1.3, 1.0, 1.3), start=1):
        path = write(storage / f"000{number}_run.json", run(slower=slower))
        os.utime(path, (number, number))
        outcomes.append(command("bench", "compare"))
    code, _, _ = command("bench", "compare", storage / "0001_run.json")

    same, _, words = command("bench", "compare", storage / "0003_run.json")

    assert (2, True) == (same, "as baseline and as current" in words)
    assert [2, 0, 1] == [code for code, _, _ in outcomes]
    assert "expected 2 saved benchmark runs under '.benchmarks', found 1." in outcomes[0][2]
    assert 0 == code
