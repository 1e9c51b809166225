"""The verdict itself, from which `Verdict.from_json` builds an equal one."""

from __future__ import annotations

import json
from collections.abc import Sequence

from harness.grading.verdict import Verdict
from harness.grading.writers.writer import Context


def write_json(verdicts: Sequence[Verdict], _: Context) -> bytes:
    """Return the verdict as JSON in ASCII; all other characters are escaped."""
    (verdict,) = verdicts
    return json.dumps(verdict.to_json(), indent=2, allow_nan=False).encode() + b"\n"
