"""Findings and tables as renderables of the package rich; the functions return the renderables and print nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from harness.findings import Finding, Status

_STYLES = {
    Status.PASS: "green",
    Status.FAIL: "bold red",
    Status.UNKNOWN: "yellow",
    Status.ERROR: "bold magenta",
    Status.SKIP: "dim",
}
# The statuses whose findings are shown with expectation, evidence and hint.
_EXPLAINED = (Status.FAIL, Status.UNKNOWN, Status.ERROR)


def status_text(status: Status) -> Text:
    """Return the name of a status as coloured text."""
    return Text(status.value, style=_STYLES[status])


def findings_table(findings: Iterable[Finding], *, evidence: bool = False) -> RenderableType:
    """Return one line per finding; below failed and undecided findings also expectation, evidence and hint.

    Args:
        findings: the findings, in the order of the lines.
        evidence: whether to add expectation, evidence and hint to all findings.
    """
    findings = tuple(findings)
    width = max((len(finding.requirement) for finding in findings), default=0)
    lines: list[RenderableType] = []
    for finding in findings:
        row = Table.grid(padding=(0, 2))
        row.add_column(width=7, no_wrap=True)
        row.add_column(width=width, no_wrap=True)
        row.add_column(overflow="fold")
        row.add_row(status_text(finding.status), Text(finding.requirement), Text(finding.observed))
        lines.append(row)
        if evidence or finding.status in _EXPLAINED:
            lines.append(Padding(_explanation(finding), (0, 0, 0, 9)))
    return Group(*lines)


def _explanation(finding: Finding) -> RenderableType:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True, style="dim")
    grid.add_column(overflow="fold")
    grid.add_row("expected", Text(finding.expected))
    for line in finding.evidence:
        grid.add_row("evidence", Text(line))
    if finding.hint:
        grid.add_row("hint", Text(finding.hint, style="cyan"))
    return grid


def plain_table(
    headers: Sequence[str], rows: Iterable[Sequence[str]], *, right: Iterable[int] = (), whole: Iterable[int] = ()
) -> Table:
    """Return a table without lines; columns whose index is in ``right`` are right-aligned, in ``whole``, never wrapped."""
    numbers, unwrapped = set(right), set(whole)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    for index, header in enumerate(headers):
        table.add_column(
            header, justify="right" if index in numbers else "left", overflow="fold", no_wrap=index in unwrapped
        )
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def markdown_table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown, with the cells of a column padded to the same width."""
    lines = [tuple(headers), *(tuple(row) for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(headers))]
    padded = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([padded[0], rule, *padded[1:]])


def facts_table(facts: Iterable[tuple[str, str]]) -> Table:
    """Return a table without headers that has one pair of name and value per line."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    for name, value in facts:
        table.add_row(name, Text(value))
    return table


def verdict_line(status: Status, title: str) -> Text:
    """Return the last line of a report: the overall status, and ``title``, which says what was checked."""
    return Text.assemble((status.value.upper(), _STYLES[status]), "  ", title)
