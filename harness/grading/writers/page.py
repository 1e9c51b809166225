"""HTML pages: one for each student, one for the class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.findings import Status
from harness.grading.verdict import Verdict
from harness.grading.writers.github import counts_of
from harness.grading.writers.sections import environment_section, layers_section, sandbox_section, training_sections
from harness.grading.writers.writer import Context
from harness.reporting import (
    Bars,
    Findings,
    Page,
    Paragraphs,
    Section,
    Table,
    page_html,
)


def write_html(verdicts: Sequence[Verdict], _: Context) -> bytes:
    """Return the page of a student."""
    (verdict,) = verdicts
    return page_html(verdict_page(verdict))


def write_class_html(verdicts: Sequence[Verdict], _: Context) -> bytes:
    """Return the page of a class."""
    return page_html(class_page(verdicts))


def verdict_page(verdict: Verdict) -> Page:
    """Return all that a verdict holds as a page."""
    return Page(
        title=verdict.submission,
        status=verdict.status,
        statement=f"Assignment {verdict.assignment}. {verdict.summary}",
        figures=(("points", f"{verdict.score} of {verdict.max_score}"),),
        sections=tuple(_sections(verdict)),
    )


def class_page(verdicts: Sequence[Verdict]) -> Page:
    """Return the points of a class as a page, in the order of the verdicts."""
    most = max((verdict.max_score for verdict in verdicts), default=0)
    scores = [verdict.score for verdict in verdicts]
    mean = f"{sum(scores) / len(scores):.1f} of {most}" if scores else "-"
    return Page(
        title=f"Assignment {verdicts[0].assignment}" if verdicts else "No submissions",
        status=None,
        statement=counts_of(verdicts),
        figures=(("submissions", str(len(verdicts))), ("mean points", mean)),
        sections=(_submissions(verdicts, most), _outcomes(verdicts), _distribution(scores, most)),
    )


def _submissions(verdicts: Sequence[Verdict], most: int) -> Table:
    graded = (one for verdict in verdicts for one in verdict.requirements if one.max_points)
    names = tuple(dict.fromkeys(one.finding.requirement for one in graded))
    rows = []
    for verdict in verdicts:
        points = {one.finding.requirement: str(one.points) for one in verdict.requirements}
        penalty = sum(one.points for one in verdict.penalties)
        cells = (*(points.get(name, "") for name in names), f"-{penalty}" if penalty else "")
        rows.append((verdict.submission, str(verdict.score), verdict.status.value, *cells))
    return Table(
        title="Submissions",
        headers=("submission", "points", "status", *names, "penalties"),
        rows=tuple(rows),
        right=(1, *range(3, len(names) + 4)),
        caption=f"Points for each requirement; the highest score is {most}.",
    )


def _outcomes(verdicts: Sequence[Verdict]) -> Table:
    statuses: dict[str, list[Status]] = {}
    for verdict in verdicts:
        for one in verdict.requirements:
            statuses.setdefault(one.finding.requirement, []).append(one.finding.status)
    shown = [status for status in Status if any(status in found for found in statuses.values())]
    return Table(
        title="Requirements",
        headers=("requirement", *(status.value for status in shown)),
        rows=tuple((name, *(str(found.count(status)) for status in shown)) for name, found in statuses.items()),
        right=tuple(range(1, len(shown) + 1)),
        caption="How many submissions have each outcome.",
    )


def _distribution(scores: Sequence[int], most: int) -> Bars:
    """Count submissions by points, in at most 20 groups of equal width."""
    width = -(-(most + 1) // 20)
    groups = [(first, min(first + width - 1, most)) for first in range(0, most + 1, width)]
    return Bars(
        title="Distribution of points",
        caption="How many submissions have how many points.",
        labels=("points", "submissions"),
        bars=tuple(
            (str(first) if first == last else f"{first}-{last}", sum(first <= score <= last for score in scores))
            for first, last in groups
        ),
    )


def _sections(verdict: Verdict) -> Iterator[Section]:
    if verdict.notes:
        yield Paragraphs(title="Notes", texts=verdict.notes)
    yield Findings(
        title="Requirements",
        findings=tuple(one.finding for one in verdict.requirements),
        points=tuple(
            f"{one.points} of {one.max_points} points" if one.max_points else "" for one in verdict.requirements
        ),
    )
    if verdict.penalties:
        rows = tuple((one.reason, f"-{one.points}") for one in verdict.penalties)
        yield Table(title="Penalties", headers=("reason", "points"), rows=rows, right=(1,))
    if verdict.model:
        yield layers_section(verdict.model)
    if verdict.training:
        yield from training_sections(verdict.training)
    if verdict.claims:
        yield Findings(title="Claims in the documents", findings=verdict.claims)
    if verdict.sandbox:
        yield sandbox_section(verdict.sandbox)
    yield environment_section(verdict.environment, verdict=verdict.digest(), **_graph(verdict))


def _graph(verdict: Verdict) -> dict[str, str]:
    return {"graph": verdict.model.graph_digest} if verdict.model else {}
