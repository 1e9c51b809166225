from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from xml.etree import ElementTree as ET

from hypothesis import given, settings
from hypothesis import strategies as st

from harness.grading import Verdict
from harness.grading.writers import WRITERS, fill_roster
from harness.reporting import harmless
from tests.strategies import texts, verdicts
from tests.verdicts import CONTEXT


@settings(max_examples=60, deadline=None)
@given(verdicts())
def test_all_writers_agree_on_the_points(verdict: Verdict) -> None:
    """Each file of a verdict has its points and the most points."""
    written = {(one.name, one.scope.value): one.write([verdict], CONTEXT).decode("utf-8-sig") for one in WRITERS}
    found = {name: _POINTS[name](text) for name, text in written.items()}

    assert dict.fromkeys(written, (verdict.score, verdict.max_score)) == found


def _json(text: str, score: str, most: str) -> tuple[int, int]:
    document = json.loads(text)
    return document[score], document[most]


def _gradescope(text: str) -> tuple[int, int]:
    document = json.loads(text)
    return document["score"], sum(test["max_score"] for test in document["tests"])


def _junit(text: str) -> tuple[int, int]:
    values = {one.get("name"): one.get("value") for one in ET.fromstring(text).iter("property")}  # noqa: S314 - our own document
    return int(values["score"] or ""), int(values["max_score"] or "")


def _said(text: str) -> tuple[int, int]:
    return int(_found(r"(\d+) of \d+", text)), int(_found(r"\d+ of (\d+)", text))


def _found(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    assert found
    return found[1]


def _csv(text: str) -> tuple[int, int]:
    (row,) = csv.DictReader(io.StringIO(text))
    return int(row["score"]), int(row["max_score"])


def _class_page(text: str) -> tuple[int, int]:
    return int(_found(r'</th>\s*<td class="number">(\d+)</td>', text)), int(_found(r"highest score is (\d+)", text))


_POINTS: dict[tuple[str, str], Callable[[str], tuple[int, int]]] = {
    ("json", "submission"): lambda text: _json(text, "score", "max_score"),
    ("classroom50", "submission"): lambda text: _json(text, "score", "max-score"),
    ("gradescope", "submission"): _gradescope,
    ("junit", "submission"): _junit,
    ("markdown", "submission"): lambda text: _said(text.partition("\n")[0].partition("points")[0].rpartition(": ")[2]),
    ("markdown", "class"): lambda text: _said(text.splitlines()[2].split("|")[3]),
    ("csv", "class"): _csv,
    ("github", "class"): lambda text: (
        int(_found(r"(?m)^score=(.*)", text)),
        int(_found(r"(?m)^max-score=(.*)", text)),
    ),
    ("html", "submission"): lambda text: _said(text.partition("<dt>points</dt>")[2]),
    ("html", "class"): _class_page,
}


@settings(max_examples=300, deadline=None)
@given(texts(), st.integers(10, 200))
def test_a_harmless_text_is_short_visible_and_stays_as_it_is(text: str, most: int) -> None:
    """The result fits, can be printed and encoded, begins no command, and has nothing left to change."""
    result = harmless(text, most=most)

    assert most >= len(result.encode())
    assert result.isprintable() or "\u3000" in result or "\xa0" in result
    assert "::" not in result
    assert result == harmless(result, most=most)


_NAMES = st.lists(st.sampled_from(("101", "jane", "joe", "102", "nobody", "work/ada.py")), unique=True)


@given(verdicts(), _NAMES, st.sampled_from((",", ";")), st.sampled_from(("\n", "\r\n")), st.lists(texts(), min_size=6))
def test_a_roster_keeps_all_cells_but_the_grades(
    verdict: Verdict, names: list[str], delimiter: str, end: str, cells: list[str]
) -> None:
    """Whatever the other cells hold, only grade cells differ, and they hold the points."""
    header = ("Student", "ID", "SIS Login ID", "Section", "era-s7 (1)", "Final Score")
    rows = [(cells[0], "101", "jane", cells[1], "", cells[2]), (cells[3], "102", "joe", cells[4], "5", cells[5])]
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL).writerows([header, *rows])
    content = text.getvalue().encode(errors="replace")
    filled = fill_roster(content, [_named(verdict, name) for name in names], {}).content

    def read(content: bytes) -> list[list[str]]:
        return list(csv.reader(io.StringIO(content.decode(), newline=""), delimiter=delimiter))

    for old, new in zip(read(content), read(filled), strict=True):
        assert old[:4] + old[5:] == new[:4] + new[5:]
        assert new[4] in (old[4], str(verdict.score))


def _named(verdict: Verdict, name: str) -> Verdict:
    return Verdict.from_json({**verdict.to_json(), "submission": name, "assignment": "era-s7"})
