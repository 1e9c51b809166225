"""The scripts in examples/grading and the action, run as their platforms run them, with the package of this checkout."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from harness.grading import read_verdict
from tests.graders import ACTION, AUTOGRADER, GRADESCOPE, ROOT, document, steps
from tests.verdicts import CONTEXT

pytestmark = pytest.mark.smoke

SCHEMAS = ROOT / "tests" / "unit" / "data"
# Layers differ between machines; what they confine is tested in tests/security.
TRUSTED = "--trust-submission"
SUBMISSION = """\
from torch import nn


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.05),
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 10, 1), nn.Flatten(),
        )
"""


@pytest.fixture
def submission(tmp_path: Path) -> Path:
    """A checkout with a network, and with files that would decide the grade if they were imported, run or believed."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / "net.py").write_text(SUBMISSION, encoding="utf-8")
    for name in ("pip.py", "venv.py", "harness.py", "torch.py", "sitecustomize.py"):
        (folder / name).write_text(
            f"open({str(tmp_path / 'ran')!r}, 'w').close()\nraise SystemExit(0)\n", encoding="utf-8"
        )
    return folder


def variables(**more: str) -> dict[str, str]:
    """The environment of a runner that has the package of this checkout."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "HARNESS_PYTHON": sys.executable, **more}


def run(*command: str | Path, folder: Path, environment: dict[str, str]) -> int:
    """Run a program in a folder and return its exit code."""
    return subprocess.run(command, cwd=folder, env=environment, check=False, timeout=300).returncode


def test_classroom50_gets_a_result_in_the_checkout(submission: Path, tmp_path: Path) -> None:
    """The shim, started in the checkout with the job's variables, replaces committed results and follows no link."""
    (submission / "result.json").mkdir()
    (submission / "release-body.md").symlink_to(tmp_path / "elsewhere")
    environment = variables(**CONTEXT.environment)

    assert 0 == run(sys.executable, AUTOGRADER, "--no-train", TRUSTED, folder=submission, environment=environment)
    result = json.loads((submission / "result.json").read_text("utf-8"))
    jsonschema.validate(result, json.loads((SCHEMAS / "classroom50-result.schema.json").read_text("utf-8")))
    assert 0 < result["score"] < result["max-score"] == 100
    assert "points" in (submission / "release-body.md").read_text("utf-8").splitlines()[0]
    assert not (submission / "release-body.md").is_symlink()
    assert not (tmp_path / "elsewhere").exists()
    assert not (tmp_path / "ran").exists()


@pytest.mark.skipif(
    "HARNESS_GRADER_INSTALL" not in os.environ,
    reason="HARNESS_GRADER_INSTALL=1 installs the package with its dependencies",
)
def test_classroom50_installs_the_package(submission: Path, tmp_path: Path) -> None:
    """Nothing is installed before: the shim makes an environment of its own outside of the checkout."""
    shim = tmp_path / "bundle" / "autograder.py"
    shim.parent.mkdir()
    name = 'PACKAGE, ASSIGNMENT = "git+https://github.com/OWNER/mnist-harness"'
    shim.write_text(
        AUTOGRADER.read_text("utf-8").replace(name, f"PACKAGE, ASSIGNMENT = {str(ROOT)!r}"), encoding="utf-8"
    )
    bare = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    command = (sys.executable, shim, "--no-train", TRUSTED)
    ended = subprocess.run(command, cwd=submission, env={**bare, **CONTEXT.environment}, check=False, timeout=1800)

    assert 0 == ended.returncode
    assert 100 == json.loads((submission / "result.json").read_text("utf-8"))["max-score"]
    assert not (tmp_path / "ran").exists()


def test_classroom50_gets_no_result_where_the_examiner_fails(submission: Path) -> None:
    """Without the job's variables the exit code is not 0, and a committed result is gone."""
    (submission / "result.json").write_text('{"score": 100}', encoding="utf-8")

    assert 2 == run(sys.executable, AUTOGRADER, "--no-train", TRUSTED, folder=submission, environment=variables())
    assert not (submission / "result.json").exists()


def test_gradescope_gets_results_in_its_folder(submission: Path, tmp_path: Path) -> None:
    """The script reads submission and assignment where Gradescope puts them, and leaves the results where it reads them."""
    root = tmp_path / "autograder"
    (root / "source").mkdir(parents=True)
    (root / "results").mkdir()
    (root / "results" / "results.json").write_text('{"score": 100}', encoding="utf-8")
    shutil.copytree(submission, root / "submission")
    shutil.copy(ROOT / "harness" / "grading" / "builtin" / "era-s6.toml", root / "source" / "assignment.toml")
    environment = variables(AUTOGRADER_ROOT=str(root))

    assert 0 == run(GRADESCOPE / "run_autograder", "--no-train", TRUSTED, folder=tmp_path, environment=environment)
    results = json.loads((root / "results" / "results.json").read_text("utf-8"))
    jsonschema.validate(results, json.loads((SCHEMAS / "gradescope-results.schema.json").read_text("utf-8")))
    assert 0 < results["score"] < 100
    assert not (tmp_path / "ran").exists()

    shutil.rmtree(root / "submission")
    assert 2 == run(GRADESCOPE / "run_autograder", TRUSTED, folder=tmp_path, environment=environment)
    assert not (root / "results" / "results.json").exists()


def test_the_action_sets_its_outputs(submission: Path, tmp_path: Path) -> None:
    """The scripts of the action, with its inputs as variables, grade outside of the workspace and set every output."""
    temporary = tmp_path / "runner"
    temporary.mkdir()
    given = {"submission": ".", "assignment": "era-s7", "train": "false", "sandbox": "off", "formats": "html, csv"}
    inputs = {name: str(one.get("default", "")) for name, one in document(ACTION)["inputs"].items()} | given
    values = {f"inputs.{name}": value for name, value in inputs.items()}
    values |= {"github.workspace": str(submission), "github.action_path": str(ROOT), "runner.temp": str(temporary)}

    def filled(text: str) -> str:
        return re.sub(r"\$\{\{ (.*?) \}\}", lambda found: values[found[1]], text)

    files = {"GITHUB_OUTPUT": str(tmp_path / "output"), "GITHUB_STEP_SUMMARY": str(tmp_path / "summary")}
    for step in steps(ACTION):
        if "run" in step and "if" not in step:
            own = {name: filled(value) for name, value in step.get("env", {}).items()}
            script = ("bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", step["run"])
            assert 0 == run(
                *script, folder=Path(filled(step["working-directory"])), environment=variables(**files, **own)
            )
    outputs = dict(line.split("=", 1) for line in (tmp_path / "output").read_text("utf-8").splitlines())
    verdict = read_verdict(temporary / "mnist-harness-grades" / "checkout" / "verdict.json")

    assert set(document(ACTION)["outputs"]) == set(outputs)
    assert (str(verdict.score), "100", verdict.status.value) == tuple(
        outputs[name] for name in ("score", "max-score", "status")
    )
    assert str(temporary / "mnist-harness-grades") == outputs["result"]
    assert {"grades.csv", "index.html", "summary.md", "checkout"} <= {
        path.name for path in Path(outputs["result"]).iterdir()
    }
    assert f"checkout: {verdict.score} of 100 points" in (tmp_path / "summary").read_text("utf-8")
    assert not (tmp_path / "ran").exists()
