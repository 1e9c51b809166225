"""The file ``results.json`` of Gradescope, see https://gradescope-autograders.readthedocs.io/en/latest/specs/."""

from __future__ import annotations

import json
from collections.abc import Sequence

from harness.grading.verdict import Verdict
from harness.grading.writers.writer import Context, with_harmless_texts
from harness.reporting import shortened

_MAX_OUTPUT = 2000


def write_gradescope(verdicts: Sequence[Verdict], _: Context) -> bytes:
    """Return the results, with whole points; all texts are plain, as Gradescope renders others as HTML."""
    (graded,) = verdicts
    verdict = with_harmless_texts(graded)
    results = {
        "score": verdict.score,
        "output": "\n".join([verdict.summary, *verdict.notes]),
        "output_format": "text",
        "test_output_format": "text",
        "test_name_format": "text",
        "visibility": "visible",
        "stdout_visibility": "hidden",
        "extra_data": {"verdict": graded.digest(), "max_score": verdict.max_score},
        "tests": [
            {
                "name": one.finding.requirement,
                "score": one.points,
                "max_score": one.max_points,
                "status": "passed" if one.is_met else "failed",
                "output": shortened(one.finding.describe(), _MAX_OUTPUT),
                "visibility": one.visibility.value,
            }
            for one in verdict.requirements
        ],
    }
    return json.dumps(results, indent=2).encode() + b"\n"
