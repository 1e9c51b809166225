"""The action, the workflows and the scripts in examples/grading; tests/smoke runs them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.graders import ACTION, AUTOGRADER, EXAMPLES, GRADESCOPE, WORKFLOWS, document, steps

SCRIPTS = [step["run"] for path in (ACTION, *WORKFLOWS) for step in steps(path) if "run" in step]


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
