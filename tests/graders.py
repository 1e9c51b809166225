"""The action, the workflows and the scripts for other platforms, as files of this checkout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples" / "grading"
ACTION = ROOT / "action.yml"
WORKFLOWS = (EXAMPLES / "github" / "student.yml", EXAMPLES / "github" / "instructor.yml")
AUTOGRADER = EXAMPLES / "classroom50" / "autograder.py"
GRADESCOPE = EXAMPLES / "gradescope"


def document(path: Path) -> dict[str, Any]:
    """A YAML file."""
    found: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))
    return found


def steps(path: Path) -> list[dict[str, Any]]:
    """The steps of the action, or of a workflow's only job."""
    found = document(path)
    (job,) = found["jobs"].values() if "jobs" in found else [found["runs"]]
    listed: list[dict[str, Any]] = job["steps"]
    return listed
