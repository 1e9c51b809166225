"""Grades filled into the export of a learning platform: Canvas's gradebook or Moodle's grading worksheet."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from harness.errors import InputError
from harness.findings import Status
from harness.grading.verdict import Verdict
from harness.grading.writers.writer import with_harmless_texts
from harness.reporting import harmless
from harness.sandbox.submissions import ARCHIVE_SUFFIXES
from harness.tables import shown

_CANVAS_IDENTITIES = ("ID", "SIS User ID", "SIS Login ID", "Integration ID", "Student")
_MOODLE_IDENTITIES = ("Identifier", "Full name", "Email address", "ID number", "Username")
_POINTS_POSSIBLE, _EXCUSED = "points possible", "EX"
# An assignment of Canvas, such as "Session 7 (4711)".
_ASSIGNMENT = re.compile(r"(?P<title>.*) \(\d+\)")
# Names of downloaded files: "Jane Doe_4711_assignsubmission_file" (Moodle), "doejane_LATE_4711_4712_net.py" (Canvas).
_DOWNLOADED = re.compile(r"[^_]+_(?:late_)?(?P<id>\d+)_(?:assignsubmission|\d+)_.*", re.IGNORECASE)
_FILE_SUFFIXES = (*ARCHIVE_SUFFIXES, ".py", ".ipynb")


@dataclass(frozen=True, kw_only=True)
class FilledRoster:
    """The export with grades, and the submissions whose grade is not in it, each with the reason."""

    content: bytes
    unmatched: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Cell:
    value: str
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class _Columns:
    """The columns of an export by their positions; ``comment`` and ``maximum`` are None if there are none."""

    identities: tuple[int, ...]
    grade: int
    comment: int | None = None
    maximum: int | None = None


def fill_roster(
    content: bytes, verdicts: Sequence[Verdict], mapping: Mapping[str, str], folders: Collection[str] = ()
) -> FilledRoster:
    """Write the points of each submission into the row of its student; all other bytes stay as they are.

    Canvas's export needs a column with the name of the assignment, or a single assignment; Moodle's also gets a comment.
    Without verdicts, the file is only checked.
    ``mapping`` gives for a submission what one identity cell of its row holds, such as an ID; without an entry, the
    name of its file or folder does, the name of its file without suffix, the ID in that name, or the name of the folder
    that it lies in. ``folders`` are the names of the submissions that are folders.

    Raises:
        InputError: the content is not such an export, or its highest points are not those of the assignment.
    """
    try:
        text = content.decode()
    except UnicodeDecodeError as problem:
        raise _refusal(f"text in UTF-8, got {problem}") from problem
    header, *rows = _rows(text)
    columns = _columns([cell.value for cell in header], verdicts[0].assignment if verdicts else None)
    rows = [row for row in rows if len(row) == len(header)]
    _require_points(rows, columns, verdicts)
    by_identity: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        for identity in {name for column in columns.identities for name in _identities(row[column].value)}:
            by_identity.setdefault(identity, []).append(index)
    names = [verdict.submission for verdict in verdicts]
    matches = [
        _match((mapping[name],) if name in mapping else _names(name, is_file=name not in folders), by_identity)
        for name in names
    ]
    changes: list[tuple[_Cell, str]] = []
    unmatched = []
    for verdict, found in zip(verdicts, matches, strict=True):
        row = rows[found[0]] if len(found) == 1 else []
        if not row:
            unmatched.append(f"{harmless(verdict.submission)}: matches {len(found) or 'no'} rows")
        elif matches.count(found) > 1:
            unmatched.append(f"{harmless(verdict.submission)}: another submission has the same student")
        elif verdict.status is Status.ERROR:
            unmatched.append(f"{harmless(verdict.submission)}: not graded, because of an error of the examiner")
        elif row[columns.grade].value.strip().upper() == _EXCUSED:
            unmatched.append(f"{harmless(verdict.submission)}: the student is excused")
        else:
            changes.append((row[columns.grade], str(verdict.score)))
            if columns.comment is not None:
                changes.append((row[columns.comment], with_harmless_texts(verdict).summary))
    for cell, value in sorted(changes, key=lambda change: change[0].start, reverse=True):
        quoted = text[cell.start : cell.end].startswith('"') or not value.isdigit()
        raw = '"{}"'.format(value.replace('"', '""')) if quoted else value
        text = text[: cell.start] + raw + text[cell.end :]
    return FilledRoster(content=text.encode(), unmatched=tuple(unmatched))


def read_roster_map(content: bytes) -> dict[str, str]:
    """Read which submission is whose: rows of two cells, an identity as in the export and the name of a submission, or nothing.

    Returns:
        For each submission, the identity, as `fill_roster` takes it.

    Raises:
        InputError: the content is not such a table, or has a submission twice.
    """
    found: dict[str, str] = {}
    try:
        text = io.StringIO(content.decode("utf-8-sig"), newline="")
        rows = [row for row in csv.reader(text, strict=True) if row]
    except (UnicodeDecodeError, csv.Error) as problem:
        raise _map_refusal(f"CSV in UTF-8, got {problem}") from problem
    for row in rows:
        if len(row) != 2:  # noqa: PLR2004 - a student and a submission
            raise _map_refusal(f"rows of two cells, got {shown(row)}")
        identity, submission = (cell.strip() for cell in row)
        if submission in found:
            raise _map_refusal(f"each submission once, got {shown(submission)} twice")
        if submission:
            found[submission] = identity
    return found


def _rows(text: str) -> list[list[_Cell]]:
    """Take a text with comma- or semicolon-separated values apart, with the position of each cell."""
    start = len("\ufeff") if text.startswith("\ufeff") else 0
    first_line = text[start:].partition("\n")[0]
    delimiter = ";" if first_line.count(";") > first_line.count(",") else ","
    cell = re.compile(rf'("(?:[^"]|"")*"|[^"{delimiter}\r\n][^{delimiter}\r\n]*|)({delimiter}|\r\n|\n|\r|\Z)')
    rows: list[list[_Cell]] = [[]]
    while start < len(text):
        if not (found := cell.match(text, start)):
            raise _refusal(f"rows of cells, got {shown(text[start : start + 40])}")
        raw, end = found.groups()
        value = raw[1:-1].replace('""', '"') if raw.startswith('"') else raw
        rows[-1].append(_Cell(value=value, start=start, end=found.end(1)))
        if end != delimiter:
            rows.append([])
        start = found.end()
    return rows


def _columns(titles: Sequence[str], assignment: str | None) -> _Columns:
    """Find the columns by their titles; any assignment will do if the name of the assignment is None."""
    at = {title.strip(): index for index, title in reversed(list(enumerate(titles)))}
    if "Identifier" in at and "Grade" in at:
        identities = tuple(at[title] for title in _MOODLE_IDENTITIES if title in at)
        return _Columns(
            identities=identities,
            grade=at["Grade"],
            comment=at.get("Feedback comments"),
            maximum=at.get("Maximum Grade"),
        )
    if "ID" not in at or "Section" not in at:
        raise _refusal(f"columns Identifier and Grade (Moodle) or ID and Section (Canvas), got {shown(list(at))}")
    numbered = {title: found["title"] for title in at if (found := _ASSIGNMENT.fullmatch(title))}
    named = [title for title in at if numbered.get(title, title).casefold() == (assignment or "").casefold()]
    chosen = named or list(numbered)[: 1 if assignment is None else None]
    if len(chosen) != 1:
        raise _refusal(f"a column {assignment!r}, or exactly one assignment, got {shown(list(numbered))}")
    return _Columns(identities=tuple(at[title] for title in _CANVAS_IDENTITIES if title in at), grade=at[chosen[0]])


def _require_points(rows: Sequence[Sequence[_Cell]], columns: _Columns, verdicts: Sequence[Verdict]) -> None:
    """Check the highest points of the export, if it has them."""
    if columns.maximum is None:
        stated = [row[columns.grade].value for row in rows if _POINTS_POSSIBLE in row[0].value.casefold()]
    else:
        stated = [row[columns.maximum].value for row in rows]
    for verdict in verdicts:
        points = re.compile(rf"\s*(?:{verdict.max_score}(?:[.,]0*)?)?\s*")
        if other := next((text for text in stated if not points.fullmatch(text)), None):
            raise _refusal(f"the points of the assignment, {verdict.max_score}, got {shown(other)}")


def _identities(value: str) -> Iterator[str]:
    value = value.strip().casefold()
    if value:
        yield value
        yield value.removeprefix("participant ")


def _names(submission: str, *, is_file: bool) -> Iterator[str]:
    """Yield what a student may be called by the name of a submission, the most certain first."""
    path = PurePath(submission)
    yield path.name
    for suffix in _FILE_SUFFIXES:
        if is_file and path.name.lower().endswith(suffix):
            yield path.name[: -len(suffix)]
    if found := _DOWNLOADED.fullmatch(path.name):
        yield found["id"]
    yield path.parent.name


def _match(names: Iterable[str], by_identity: Mapping[str, Sequence[int]]) -> list[int]:
    """Return the rows that the first fitting name belongs to."""
    matches = (by_identity.get(name.strip().casefold(), ()) for name in names)
    return list(next(filter(None, matches), ()))


def _refusal(problem: str) -> InputError:
    return InputError(
        f"roster: expected {problem}. Export the gradebook from Canvas, or the grading worksheet from Moodle, in English, and "
        "name that file."
    )


def _map_refusal(problem: str) -> InputError:
    return InputError(
        f"roster map: expected {problem}. Write a student as in the gradebook and the name of the submission in each row, such "
        'as "jane@example.org,jdoe".'
    )
