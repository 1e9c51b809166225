"""The file ``result.json`` of Classroom 50, schema ``classroom50/result/v1``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from harness.errors import InputError
from harness.grading.verdict import Verdict
from harness.grading.writers.writer import Context, with_harmless_texts
from harness.reporting import shortened

_MAX_NAME, _MAX_OUTPUT = 100, 2000


def write_classroom50(verdicts: Sequence[Verdict], context: Context) -> bytes:
    """Return the result; classroom, assignment, student and links come from the environment variables of a Classroom 50 job.

    Raises:
        InputError: a variable is missing, or the tag of the submission does not begin with ``submit/``.
    """
    (verdict,) = map(with_harmless_texts, verdicts)
    variables = context.environment
    tag = _variable(variables, "SUBMISSION_TAG")
    if not tag.startswith("submit/"):
        raise InputError(f"expected SUBMISSION_TAG to begin with submit/, got SUBMISSION_TAG={tag!r}.")
    entries = [
        (one.finding.requirement, one.is_met, one.points, one.max_points, one.finding.describe())
        for one in verdict.requirements
    ]
    entries += [("penalty", False, 0, 0, f"{one.points} points less: {one.reason}") for one in verdict.penalties]
    tests = [
        {
            "test-name": shortened(name, _MAX_NAME),
            "passed": passed,
            "score": points,
            "max-score": most,
            "output": shortened(output, _MAX_OUTPUT),
        }
        for name, passed, points, most, output in entries
    ]
    result = {
        "schema": "classroom50/result/v1",
        "classroom": _variable(variables, "CLASSROOM"),
        "assignment": _variable(variables, "ASSIGNMENT"),
        "assignment_type": variables.get("ASSIGNMENT_TYPE") or "individual",
        "owner": _variable(variables, "OWNER", "USERNAME"),
        "submission": tag,
        "commit": _variable(variables, "COMMIT_URL"),
        "release": _variable(variables, "RELEASE_URL"),
        "review": _variable(variables, "REVIEW_URL", "COMMIT_URL"),
        "datetime": f"{context.graded_at:%Y-%m-%dT%H:%M:%SZ}",
        "score": verdict.score,
        "max-score": verdict.max_score,
        "tests": tests,
    }
    return json.dumps(result, indent=2).encode() + b"\n"


def _variable(variables: Mapping[str, str], *names: str) -> str:
    """Return the first of these variables that is set to a text that is not empty."""
    for name in names:
        if text := variables.get(name):
            return text
    raise InputError(
        f"expected the environment variables of a Classroom 50 job for the format classroom50, got no {' or '.join(names)}. "
        "Choose another format, or set the variable."
    )
