"""Findings and tables for a terminal, and the plain documents behind --json."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest
from rich.console import Console, RenderableType

from harness.findings import Finding, Status
from harness.reporting import (
    document,
    facts_table,
    findings_content,
    findings_table,
    plain_table,
    status_text,
    verdict_line,
)

HOLDS = Finding(requirement="gap", status=Status.PASS, expected="pooling", observed="present", evidence=("at pool",))
FAILS = Finding(
    requirement="parameters",
    status=Status.FAIL,
    expected="fewer than 8,000",
    observed="8,018 [bold]not[/bold]",
    evidence=("first line", "second line"),
    hint="remove at least 19",
)


def printed(renderable: RenderableType, *, width: int = 60, colour: bool = False) -> list[str]:
    """The lines that a terminal of a width would show, trailing blanks removed."""
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=colour, color_system="standard" if colour else None)
    console.print(renderable)
    return [line.rstrip() for line in file.getvalue().splitlines()]


def test_a_finding_that_holds_takes_a_line() -> None:
    """Of what holds only the observation is shown."""
    assert printed(findings_table([HOLDS])) == ["pass     gap  present"]


def test_evidence_of_what_holds_is_shown_when_asked() -> None:
    """With evidence asked for, what holds is explained, too."""
    assert printed(findings_table([HOLDS], evidence=True)) == [
        "pass     gap  present",
        "         expected pooling",
        "         evidence at pool",
    ]


def test_a_finding_that_fails_is_explained() -> None:
    """Of what fails everything is shown, brackets as they are, columns aligned over all findings."""
    assert printed(findings_table([HOLDS, FAILS])) == [
        "pass     gap         present",
        "fail     parameters  8,018 [bold]not[/bold]",
        "         expected fewer than 8,000",
        "         evidence first line",
        "         evidence second line",
        "         hint     remove at least 19",
    ]


def test_long_words_are_folded_not_lost() -> None:
    """On a narrow terminal a long observation continues on the next line, under its beginning."""
    finding = Finding(requirement="gap", status=Status.PASS, expected="", observed="x" * 30)
    lines = printed(findings_table([finding]), width=34)

    assert "".join(line.removeprefix("pass     gap").strip() for line in lines) == "x" * 30
    assert max(map(len, lines)) <= 34


@pytest.mark.parametrize("status", Status)
def test_each_status_has_a_style_of_its_own(status: Status) -> None:
    """The five statuses differ in colour, and the word stands without it."""
    styles = {str(status_text(other).style) for other in Status}

    assert len(styles) == len(Status)
    assert printed(status_text(status)) == [status.value]
    assert printed(status_text(status), colour=True) != [status.value]


def test_a_table_aligns_its_numbers() -> None:
    """Columns named as numbers are aligned to the right, the others to the left."""
    table = plain_table(("name", "parameters"), [("a", "5"), ("longer", "13,808")], right=(1,))

    assert printed(table) == ["name    parameters", "a                5", "longer      13,808"]


def test_facts_stand_beside_their_names() -> None:
    """Names and values are a line each, values aligned."""
    assert printed(facts_table([("torch", "2.15"), ("devices", "cpu")])) == ["torch    2.15", "devices  cpu"]


def test_the_verdict_begins_with_the_status() -> None:
    """The last line is the status in capitals and what it is about."""
    assert printed(verdict_line(Status.FAIL, "cloud_1 against era-s7")) == ["FAIL  cloud_1 against era-s7"]


def test_a_document_names_its_schema_first() -> None:
    """Each document begins with the schema that describes it."""
    assert list(document("check", {"model": "net.py"}).items()) == [("schema", "harness.check/1"), ("model", "net.py")]


def test_findings_come_with_their_summary() -> None:
    """Findings are written whole, with the status of all together; a generator does as well."""
    content = findings_content(finding for finding in (HOLDS, FAILS))

    assert content == {"status": "fail", "findings": [HOLDS.to_json(), FAILS.to_json()]}
    assert content["findings"][1] == {
        "requirement": "parameters",
        "status": "fail",
        "expected": "fewer than 8,000",
        "observed": "8,018 [bold]not[/bold]",
        "evidence": ["first line", "second line"],
        "hint": "remove at least 19",
    }


def test_reports_need_no_torch() -> None:
    """The reporting package is imported without PyTorch."""
    code = "import sys, harness.reporting; print('torch' in sys.modules)"

    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "False\n" == result.stdout


def test_whole_columns_are_never_wrapped() -> None:
    """At forty columns, the names of a list stay whole; the other columns give way."""
    console = Console(width=40, file=io.StringIO())
    rows = [("five_step_1_of_a_long_name", "6,379,786", "a title that needs more than the rest of the line")]
    console.print(plain_table(("name", "parameters", "title"), rows, whole=(0,)))

    assert "five_step_1_of_a_long_name" in console.file.getvalue()  # type: ignore[attr-defined]
