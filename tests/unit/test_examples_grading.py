"""The action, the workflows and the scripts in examples/grading; tests/smoke runs them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.graders import ACTION, AUTOGRADER, EXAMPLES, GRADESCOPE, WORKFLOWS, document, steps

GRADING = next(step["run"] for step in steps(ACTION) if step.get("id") == "grade")
CLONING = next(step["run"] for step in steps(WORKFLOWS[1]) if step.get("id") == "clone")
# A harness that notes its arguments, writes the reports of a class, and ends as CODE says.
HARNESS = """#!/usr/bin/env bash
printf '%s\\n' "$@" > "$NOTED"
if [ "$CODE" = 2 ]; then exit 2; fi
mkdir -p "$RUNNER/mnist-harness-grades"
echo "status=error" > "$RUNNER/mnist-harness-grades/github-output.txt"
echo "two submissions" > "$RUNNER/mnist-harness-grades/summary.md"
exit "$CODE"
"""
# A GitHub CLI that clones all repositories but those of "gone", and reads its standard input as ssh does.
GH = """#!/usr/bin/env bash
cat > /dev/null
case "$3" in gone/*) exit 1 ;; *) mkdir "$4" ;; esac
"""
SCRIPTS = [step["run"] for path in (ACTION, *WORKFLOWS) for step in steps(path) if "run" in step]


@pytest.fixture
def runner(tmp_path: Path) -> dict[str, str]:
    """The variables of a runner of GitHub's, in whose folder the programs ``harness`` and ``gh`` are stand-ins."""
    for name, text in (("harness", HARNESS), ("gh", GH)):
        (tmp_path / name).write_text(text, encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    inputs = {"SUBMISSION": "alice\nbob", "ASSIGNMENT": "era-s7", "OUT": "", "FORMATS": "html", "TRAIN": "true"}
    return {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "HARNESS_PYTHON": str(tmp_path / "harness"),
        "RUNNER": str(tmp_path),
        "WORKSPACE": str(tmp_path),
        "NOTED": str(tmp_path / "noted"),
        "CODE": "0",
        "GITHUB_OUTPUT": str(tmp_path / "output"),
        "GITHUB_STEP_SUMMARY": str(tmp_path / "shown"),
        **inputs,
        "LAYERS": "",
        "SANDBOX": "auto",
    }


def ran(script: str, variables: Mapping[str, str]) -> int:
    """Run a step's script in the runner's folder, as GitHub does, and return its exit code."""
    bash = shutil.which("bash")
    assert bash
    command = [bash, "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", script]
    return subprocess.run(command, cwd=variables["RUNNER"], env=variables, check=False).returncode


def syntax_errors(script: str) -> str:
    """What bash says of a script that it reads and does not run."""
    bash = shutil.which("bash")
    assert bash
    return subprocess.run([bash, "-n"], input=script, capture_output=True, text=True, check=False).stderr


def test_the_action_has_its_inputs_and_outputs() -> None:
    """Inputs and outputs are those that a workflow relies on; each input is used, each output is set by the step grade."""
    action = document(ACTION)
    inputs = "submission assignment out formats train require-layers sandbox python-version version"

    assert inputs.split() == list(action["inputs"])
    assert ["score", "max-score", "status", "summary", "result", "layers"] == list(action["outputs"])
    text = ACTION.read_text("utf-8")
    assert [] == [name for name in action["inputs"] if f"inputs.{name}" not in text]
    assert [f"${{{{ steps.grade.outputs.{name} }}}}" for name in action["outputs"]] == [
        output["value"] for output in action["outputs"].values()
    ]


@pytest.mark.parametrize("script", [*SCRIPTS, *(path.read_text("utf-8") for path in GRADESCOPE.iterdir())])
def test_scripts_are_valid_and_take_values_from_variables(script: str) -> None:
    """Bash can read the script, and no expression, which could hold a student's text, is pasted into it."""
    assert "" == syntax_errors(script)
    assert "${{" not in script


def test_a_broken_script_is_noticed() -> None:
    """The check of the scripts finds a missing end."""
    assert "syntax error" in syntax_errors("if true; then echo")


@pytest.mark.parametrize("path", WORKFLOWS)
def test_workflows_can_read_only_and_leave_no_token_behind(path: Path) -> None:
    """The job's token reads, the checkout does not keep it, and the inputs of the action exist."""
    found = document(path)
    used = [step for step in steps(path) if "mnist-harness" in step.get("uses", "")]
    checkouts = [step for step in steps(path) if step.get("uses", "").startswith("actions/checkout@")]

    assert {"contents": "read"} == found["permissions"]
    assert [{"persist-credentials": False}] == [step["with"] for step in checkouts]
    assert 1 == len(used)
    assert set(used[0]["with"]) <= set(document(ACTION)["inputs"])


def test_nothing_runs_python_with_the_submission_on_its_path() -> None:
    """Every start of Python has -P; all steps of the action run outside of the workspace."""
    texts = [ACTION, AUTOGRADER, EXAMPLES / "Dockerfile", *GRADESCOPE.iterdir()]
    starts = [
        line for path in texts for line in path.read_text("utf-8").splitlines() if re.search(r"[\"' ]-m[\"' ]", line)
    ]

    assert 11 == len(starts)
    # The image is built before there is a submission, and its first Python may be older than the option.
    assert ["python3 -m venv /opt/mnist-harness"] == [line for line in starts if not re.search(r"-P[\"', ]+-m", line)]
    assert {"${{ runner.temp }}"} == {step["working-directory"] for step in steps(ACTION) if "run" in step}


@pytest.mark.parametrize("code", [0, 4])
def test_an_error_on_one_submission_hides_no_results(code: int, runner: dict[str, str], tmp_path: Path) -> None:
    """Outputs and summary of the others are there, and the step ends with the harness's exit code."""
    assert code == ran(GRADING, {**runner, "CODE": str(code)})
    assert f"result={tmp_path}/mnist-harness-grades\nstatus=error\n" == (tmp_path / "output").read_text("utf-8")
    assert "two submissions\n" == (tmp_path / "shown").read_text("utf-8")


def test_results_of_an_earlier_step_are_not_shown_again(runner: dict[str, str], tmp_path: Path) -> None:
    """Where the harness refuses to grade, nothing older is taken for its result."""
    ran(GRADING, runner)
    (tmp_path / "output").unlink()

    assert 2 == ran(GRADING, {**runner, "CODE": "2"})
    assert f"result={tmp_path}/mnist-harness-grades\n" == (tmp_path / "output").read_text("utf-8")


@pytest.mark.parametrize(("given", "used"), [("era-s7", "era-s7"), ("own/s7.toml", "{workspace}/own/s7.toml")])
def test_no_file_of_the_workspace_replaces_a_built_in_assignment(
    given: str, used: str, runner: dict[str, str], tmp_path: Path
) -> None:
    """A student could commit one of its name; a file is named with its suffix."""
    (tmp_path / "era-s7").write_text("build = 100\n", encoding="utf-8")
    ran(GRADING, {**runner, "ASSIGNMENT": given})

    arguments = (tmp_path / "noted").read_text("utf-8").splitlines()
    assert used.format(workspace=tmp_path) == arguments[arguments.index("--assignment") + 1]


@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_no_listed_repository_is_left_out_silently(end: str, runner: dict[str, str], tmp_path: Path) -> None:
    """Whatever the line ends; repositories of one name are cloned apart, once each, and those that cannot be are named."""
    listed = ["one/net", "gone/net", "", "two/net", "one/net", "no repository", "last/net"]
    (tmp_path / "submissions.txt").write_text((end or "\n").join(listed) + end, encoding="utf-8", newline="")

    assert 0 == ran(CLONING, runner)
    folders, missing = (part.split("\n")[1:] for part in (tmp_path / "output").read_text().split("\nEND_OF_LIST\n")[:2])
    assert ["submissions/one/net", "submissions/two/net", "submissions/last/net"] == folders
    assert ["gone/net", "norepository"] == missing
    assert all((tmp_path / folder).is_dir() for folder in folders)


def test_all_results_are_uploaded_before_the_workflow_fails() -> None:
    """A submission that was not cloned, or not graded, must not cost the others their reports."""
    *_, upload, last = steps(WORKFLOWS[1])

    assert "always() && steps.grade.outputs.result" == upload["if"]
    assert "always() && steps.clone.outputs.missing" == last["if"]
    assert last["run"].rstrip().endswith("exit 1")
