"""`harness grade` with real submissions: attacks, kills and full disks change no grade and leave no wrong result."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from harness.findings import Finding, Status
from harness.grading import Results, Verdict, grade_all, read_verdict, tasks_for
from tests.graded import TEXT, assignment, grader, outcomes
from tests.model_files import write

pytestmark = pytest.mark.smoke
HONEST = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(1, 4, 7, stride=7), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10))
"""
OTHER_SPELLING = """
from torch import nn
from torch.nn import functional as F

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(1, 4, 7, stride=7), nn.BatchNorm2d(4), nn.Linear(64, 10)

    def forward(self, x):
        return F.log_softmax(self.head(F.relu(self.norm(self.conv(x))).view(x.size(0), -1)), dim=1)
"""
# Each tries to be graded better than a submission without a model.
ATTACKS = {
    "exits": "import os\nos._exit(0)\n",
    "forges": """
import json, os, sys
for place in (".", "..", "../..", os.environ.get("TMPDIR", "."), "/tmp"):
    for name in ("verdict.json", "result.json", "results.json", "grades.csv"):
        try:
            open(os.path.join(place, name), "w").write(json.dumps({"score": 78, "max_score": 78, "status": "pass"}))
        except OSError:
            pass
print('{"score": 78}')
sys.exit(0)
""",
    "patches": HONEST
    + """
import torch
torch.Tensor.numel = lambda self: 1
torch.equal = lambda *_: True
nn.Module.parameters = lambda self, recurse=True: iter(())
class Net(nn.Linear):
    def __init__(self):
        super().__init__(784, 1000)
    def forward(self, x):
        return super().forward(x.flatten(1))
""",
    "broken": "class Net(:\n",
    "empty": "",
}


def folders(place: Path, sources: dict[str, str]) -> list[Path]:
    """A submission of one file for each source."""
    return [write(place / name, {"net.py": source}) for name, source in sources.items()]


def harness(folder: Path, *arguments: object) -> subprocess.Popen[str]:
    """Start a command in a folder, with its output in a pipe."""
    return subprocess.Popen(
        [sys.executable, "-m", "harness", *map(str, arguments)],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )


def verdicts(out: Path) -> dict[str, Verdict]:
    """The verdicts in a folder of results."""
    return {path.parent.name: read_verdict(path) for path in out.glob("*/verdict.json")}


def test_attacks_change_no_grade(tmp_path: Path) -> None:
    """Two spellings of an honest network get the same points, and everything else fails."""
    submissions = folders(tmp_path / "class", {"honest": HONEST, "other": OTHER_SPELLING, **ATTACKS})
    results = Results(tmp_path / "out", [])
    (tmp_path / "out").mkdir()
    found = {one.submission: one for one in grade_all(tasks_for(submissions), grader(), results, jobs=2)}
    assert found == verdicts(tmp_path / "out")
    assert (45, 45) == (found["honest"].score, found["other"].score)
    assert dict.fromkeys(ATTACKS, Status.FAIL) == {name: found[name].status for name in ATTACKS}
    assert all(found[name].score < 45 for name in ATTACKS)
    assert [".verdicts", *sorted(["honest", "other", *ATTACKS])] == sorted(
        path.name for path in (tmp_path / "out").iterdir()
    )


def die(folder: Path) -> Sequence[Finding]:
    """Kill the examiner's process while it examines the documents of one submission."""
    if folder.name == "b":
        os.kill(os.getpid(), signal.SIGKILL)
    return ()


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_examiner_that_dies_is_an_error_of_one_verdict(jobs: int, tmp_path: Path) -> None:
    """The others are graded all the same, also one at a time."""
    submissions = folders(tmp_path, dict.fromkeys("abc", HONEST))
    text = "claims = true\n" + TEXT.replace("accuracy = 12", "accuracy = 12\nclaims = 0")
    examiner = grader(assignment=assignment(text), claims=die)
    found = grade_all(tasks_for(submissions), examiner, None, jobs=jobs)
    assert [Status.PASS, Status.ERROR, Status.PASS] == [one.status for one in found]
    assert "was killed, as where the memory is not enough" in found[1].requirements[0].finding.observed


def test_a_killed_class_is_continued(tmp_path: Path) -> None:
    """What is finished is not graded again, and no half-written file is left."""
    (tmp_path / "small.toml").write_text(TEXT)
    names = [path.name for path in folders(tmp_path, dict.fromkeys(("a", "b", "c", "d"), HONEST))]
    out = tmp_path / "out"
    command = ("grade", *names, "--assignment", "small.toml", "--no-train", "--out", "out", "--format", "csv")
    process = harness(tmp_path, *command)
    try:
        until = time.monotonic() + 300
        while not (out / "a" / "verdict.json").exists() and time.monotonic() < until:
            time.sleep(0.02)
    finally:
        process.kill()
        process.communicate()
    assert not (out / "grades.csv").exists()
    # A mark by which the verdict can be recognised: notes decide nothing.
    marked = dataclasses.replace(verdicts(out)["a"], notes=("marked",))
    Results(out, []).write("a", marked)
    output, _ = harness(tmp_path, *command).communicate()
    found = verdicts(out)
    assert "(4 of 4)" in output
    assert (marked, ["a", "b", "c", "d"]) == (found["a"], sorted(found))
    assert 5 == len((out / "grades.csv").read_text().splitlines())
    assert [] == list(out.rglob("*.part"))


def test_a_changed_submission_loses_its_old_result_at_once(tmp_path: Path) -> None:
    """Even if the next call is killed before it reaches the submission."""
    (tmp_path / "small.toml").write_text(TEXT)
    folders(tmp_path, {"a": HONEST})
    out = tmp_path / "out"
    command = ("grade", "a", "--assignment", "small.toml", "--no-train", "--out", "out")
    harness(tmp_path, *command).communicate()
    assert 45 == verdicts(out)["a"].score
    (tmp_path / "a" / "net.py").write_text("import time\ntime.sleep(60)\n" + HONEST)
    process = harness(tmp_path, *command)
    try:
        until = time.monotonic() + 300
        while (out / "a" / "verdict.json").exists() and time.monotonic() < until:
            time.sleep(0.02)
    finally:
        process.kill()
        process.communicate()
    assert {} == verdicts(out)


def test_a_full_disk_is_exit_code_2(tmp_path: Path) -> None:
    """The message says what to do, and nothing half written is taken for a result."""
    (tmp_path / "small.toml").write_text(TEXT)
    folders(tmp_path, {"a": HONEST})
    out = tmp_path / "out"
    out.mkdir()
    mount, umount = shutil.which("mount"), shutil.which("umount")
    options = ("-t", "tmpfs", "-o", "size=8k", "tmpfs", out)
    if not mount or not umount or subprocess.run([mount, *options], capture_output=True, check=False).returncode:
        pytest.skip("needs to mount a small file system")
    try:
        process = harness(tmp_path, "grade", "a", "--assignment", "small.toml", "--no-train", "--out", "out")
        output, _ = process.communicate()
        assert 2 == process.returncode
        assert "No space left on device" in output
        assert {} == verdicts(out)
        assert [] == list(out.rglob("*.part"))
    finally:
        with contextlib.suppress(OSError):
            subprocess.run([umount, out], check=True)


def test_a_submission_that_changes_between_builds_fails(tmp_path: Path) -> None:
    """This one asks the clock."""
    changing = HONEST.replace("(self):\n", "(self):\n        import time\n") + (
        "        self.factor = time.time_ns() % 100003\n"
        "    def forward(self, x):\n"
        "        return super().forward(x) * (1 + self.factor)\n"
    )
    (found,) = grade_all(tasks_for(folders(tmp_path, {"a": changing})), grader(), None)
    assert "two builds with the same seed" in found.requirements[0].finding.observed
    assert "fail" == outcomes(found)["build"]


def test_random_numbers_of_python_and_numpy_follow_the_seed(tmp_path: Path) -> None:
    """Weights drawn with them are new under another seed, and a network that they choose is another one."""
    drawn = HONEST.replace("(self):\n", "(self):\n        import random, numpy, torch\n")
    weights = drawn + (
        "        python = [random.gauss(0, 1) for _ in range(640)]\n"
        "        self[4].weight.data.copy_(torch.tensor(python).view(10, 64))\n"
        "        self[4].bias.data.copy_(torch.from_numpy(numpy.random.rand(10)))\n"
    )
    width = drawn.replace("64, 10)", "64, random.randint(10, 10_000))")
    found = grade_all(tasks_for(folders(tmp_path, {"weights": weights, "width": width})), grader(), None)
    assert ["pass", "skip"] == [outcomes(one)["initial weights"] for one in found]
    assert "another seed gives another network" in found[1].requirements[0].finding.observed


def test_a_network_that_counts_its_calls_is_not_taken_for_its_graph(tmp_path: Path) -> None:
    """Each build is captured once: the comparison finds it."""
    counting = HONEST.replace("class", "calls = []\nclass") + (
        "    def forward(self, x):\n        calls.append(None)\n        return super().forward(x) * len(calls)\n"
    )
    (found,) = grade_all(tasks_for(folders(tmp_path, {"a": counting})), grader(), None)
    assert "fail" == outcomes(found)["capture"]
