"""Comparison of two gradings of the same submissions, for a regrade or an appeal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.errors import InputError
from harness.grading.results import VERDICT_FILE, read_verdict
from harness.grading.verdict import Verdict


@dataclass(frozen=True, kw_only=True)
class Change:
    """What differs between two verdicts on a submission; a score is None where there is no verdict."""

    submission: str
    before: int | None
    after: int | None
    reasons: tuple[str, ...]


def differences(old: Path, new: Path) -> tuple[Change, ...]:
    """Return the submissions whose verdicts differ, by name.

    ``old`` and ``new`` are folders of results, or the files of single verdicts, which are compared whatever their names.

    Raises:
        InputError: a path holds no verdict, or a verdict cannot be read.
    """
    before, after = _verdicts(old), _verdicts(new)
    if old.is_file() and new.is_file():
        after = dict(zip(before, after.values(), strict=True))
    found = []
    for name in sorted({**before, **after}):
        pair = before.get(name), after.get(name)
        reasons = tuple(_reasons(*pair))
        if reasons:
            scores = [one.score if one else None for one in pair]
            found.append(Change(submission=name, before=scores[0], after=scores[1], reasons=reasons))
    return tuple(found)


def _verdicts(path: Path) -> Mapping[str, Verdict]:
    files = [path] if path.is_file() else sorted(path.glob(f"*/{VERDICT_FILE}"))
    if not files:
        raise InputError(
            f"expected a folder that `harness grade --out` has written, or a verdict, got {str(path)!r} without one. Name "
            "another path."
        )
    return {verdict.submission: verdict for verdict in map(read_verdict, files)}


def _reasons(old: Verdict | None, new: Verdict | None) -> Iterator[str]:
    if old is None or new is None:
        yield "only in the new results" if old is None else "only in the old results"
        return
    if old.digest() == new.digest():
        return
    if old.assignment_digest != new.assignment_digest:
        yield "the assignment, the salt, the data or the version of the harness changed"
    if old.submission_digest != new.submission_digest:
        yield "the submission changed"
    earlier = {one.finding.requirement: one for one in old.requirements}
    later = {one.finding.requirement: one for one in new.requirements}
    for name in dict.fromkeys([*earlier, *later]):
        one, other = earlier.get(name), later.get(name)
        if one is None or other is None:
            yield f"{name}: only in the {'new' if one is None else 'old'} verdict"
        elif (one.points, one.finding) != (other.points, other.finding):
            yield (
                f"{name}: {one.points} points ({one.finding.status}, {one.finding.observed}), now {other.points} "
                f"({other.finding.status}, {other.finding.observed})"
            )
    if old.penalties != new.penalties:
        taken = [sum(one.points for one in verdict.penalties) for verdict in (old, new)]
        yield f"penalties: {taken[0]} points, now {taken[1]}"
