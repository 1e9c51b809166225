"""The outputs of a step of a GitHub workflow."""

from __future__ import annotations

from collections.abc import Sequence

from harness.findings import Status, overall
from harness.grading.verdict import Verdict
from harness.grading.writers.writer import Context, with_harmless_texts
from harness.reporting import shortened

_MAX_SUMMARY = 500


def write_github(verdicts: Sequence[Verdict], _: Context) -> bytes:
    """Return lines for the file ``GITHUB_OUTPUT``: the points of one submission, or the sums over several.

    ``layers`` are the layers of the sandbox that held for all submissions whose code ran.
    """
    verdicts = tuple(map(with_harmless_texts, verdicts))
    held = [{one.layer.value for one in verdict.sandbox if one.holds} for verdict in verdicts if verdict.sandbox]
    summary = verdicts[0].summary if len(verdicts) == 1 else counts_of(verdicts)
    outputs = {
        "score": sum(verdict.score for verdict in verdicts),
        "max-score": sum(verdict.max_score for verdict in verdicts),
        "status": overall(one.finding for verdict in verdicts for one in verdict.requirements),
        "summary": shortened(summary, _MAX_SUMMARY),
        "layers": ",".join(sorted(set.intersection(*held))) if held else "",
    }
    return "".join(f"{name}={value}\n" for name, value in outputs.items()).encode()


def counts_of(verdicts: Sequence[Verdict]) -> str:
    """Return how many submissions have each status, as one sentence."""
    statuses = [verdict.status for verdict in verdicts]
    counts = ", ".join(f"{statuses.count(status)} {status}" for status in Status if status in statuses)
    return f"{len(verdicts)} submissions: {counts}"
