"""The grades of a class as CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence

from harness.grading.verdict import Verdict
from harness.grading.writers.writer import Context, with_harmless_texts

# What a spreadsheet takes for a formula, at the beginning of a cell or behind what another program may take for its end.
_FORMULA = re.compile(r"""(^|[,;|"'])(?=\s*[=+\-@\uff1d\uff0b\uff0d\uff20])""")


def write_csv(verdicts: Sequence[Verdict], _: Context) -> bytes:
    """Return a row for each submission, with its points for each requirement; a byte order mark tells Excel the encoding."""
    plain = tuple(map(with_harmless_texts, verdicts))
    names = dict.fromkeys(one.finding.requirement for verdict in plain for one in verdict.requirements)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    header = ("submission", "score", "max_score", "status", *names, "penalties", "reasons", "verdict")
    writer.writerow([safe_cell(name) for name in header])
    for verdict, graded in zip(plain, verdicts, strict=True):
        points = {one.finding.requirement: one.points for one in verdict.requirements}
        reasons = [
            f"{one.finding.requirement}: {one.finding.observed}" for one in verdict.requirements if not one.is_met
        ]
        reasons += [one.reason for one in verdict.penalties]
        writer.writerow(
            (
                safe_cell(verdict.submission),
                verdict.score,
                verdict.max_score,
                verdict.status.value,
                *(points.get(name, "") for name in names),
                sum(one.points for one in verdict.penalties),
                safe_cell("; ".join(reasons)),
                graded.digest(),
            )
        )
    return text.getvalue().encode("utf-8-sig")


def safe_cell(text: str) -> str:
    """Return the text with an apostrophe before all that a spreadsheet could take for a formula."""
    return _FORMULA.sub(r"\1'", text)
