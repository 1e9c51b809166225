"""Markdown for the step summary of a GitHub workflow."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from harness.findings import Finding
from harness.grading.verdict import Verdict
from harness.grading.writers.writer import Context, with_harmless_texts

# A step summary of more than 1 MiB is not shown.
MAX_BYTES = 2**20
_CUT = "\n\nThe rest is left out: a step summary has at most 1 MiB.\n"
_PUNCTUATION = re.compile(r"[!-$&'*+./:-@\[-`{-~]")


def write_markdown(verdicts: Sequence[Verdict], _: Context) -> bytes:
    """Return the verdict as a table of requirements, with expectation, evidence and hint of those that are not met."""
    (graded,) = verdicts
    verdict = with_harmless_texts(graded)
    return _limited(
        [
            f"## {escaped(verdict.submission)}: {verdict.score} of {verdict.max_score} points\n",
            *_body(verdict),
            f"\nVerdict `{graded.digest()}`",
        ]
    )


def write_class_markdown(verdicts: Sequence[Verdict], _: Context) -> bytes:
    """Return a table of submissions with their points, and why some are missing."""
    lines = ["| submission | status | result |", "|---|---|---|"]
    lines += [
        f"| {escaped(one.submission)} | {one.status.value} | {escaped(one.summary)} |"
        for one in map(with_harmless_texts, verdicts)
    ]
    return _limited(lines)


def escaped(text: str) -> str:
    """Return the text with punctuation as character references, which neither Markdown nor HTML takes for markup."""
    return _PUNCTUATION.sub(lambda found: f"&#{ord(found[0])};", text)


def _body(verdict: Verdict) -> Iterator[str]:
    yield "| requirement | status | points | observed |"
    yield "|---|---|--:|---|"
    for one in verdict.requirements:
        finding, points = one.finding, f"{one.points} of {one.max_points}"
        yield f"| {escaped(finding.requirement)} | {finding.status.value} | {points} | {escaped(finding.observed)} |"
    yield ""
    for penalty in verdict.penalties:
        yield f"* Penalty of {penalty.points}: {escaped(penalty.reason)}"
    for note in verdict.notes:
        yield f"* {escaped(note)}"
    for one in verdict.requirements:
        if not one.is_met:
            yield from _explanation(one.finding)
    if verdict.sandbox:
        layers = ", ".join(
            f"{state.layer.value} {'held' if state.holds else 'did not hold'}" for state in verdict.sandbox
        )
        yield f"\nSandbox: {layers}."


def _explanation(finding: Finding) -> Iterator[str]:
    yield f"\n### {escaped(finding.requirement)}\n"
    yield f"* expected: {escaped(finding.expected)}"
    yield f"* observed: {escaped(finding.observed)}"
    for line in finding.evidence:
        yield f"* evidence: {escaped(line)}"
    if finding.hint:
        yield f"* hint: {escaped(finding.hint)}"


def _limited(lines: Sequence[str]) -> bytes:
    """Join whole lines up to the size limit."""
    content = "\n".join(lines).encode() + b"\n"
    if len(content) <= MAX_BYTES:
        return content
    kept = content[: MAX_BYTES - len(_CUT.encode())].rpartition(b"\n")[0]
    return kept + _CUT.encode()
