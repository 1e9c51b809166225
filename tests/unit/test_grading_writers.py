from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import jsonschema
import pytest
import xmlschema

from harness.errors import InputError
from harness.findings import Status
from harness.grading import Penalty, Verdict, Visibility
from harness.grading.writers import WRITERS, Context, Scope
from tests.documents import schema_errors
from tests.pages import Outline
from tests.verdicts import CONTEXT, HOSTILE, full_verdict, hostile_verdict, requirement, verdict

DATA = Path(__file__).parent / "data"
JUNIT = xmlschema.XMLSchema10(str(DATA / "junit-10.xsd"))
VERDICTS = [full_verdict(), verdict(), *map(hostile_verdict, HOSTILE)]


def schema(name: str) -> Mapping[str, Any]:
    """A JSON schema of the tests' data."""
    content: dict[str, Any] = json.loads((DATA / f"{name}.schema.json").read_text("utf-8"))
    return content


def write(name: str, *verdicts: Verdict, scope: Scope = Scope.SUBMISSION) -> str:
    """The file of a format, as text."""
    (writer,) = (one for one in WRITERS if (one.name, one.scope) == (name, scope))
    return writer.write(verdicts, CONTEXT).decode("utf-8-sig")


@pytest.mark.parametrize("one", VERDICTS)
def test_json_is_read_back_as_an_equal_verdict(one: Verdict) -> None:
    """The canonical file loses nothing, whatever the texts are, is ASCII, and follows its schema."""
    text = write("json", one)

    assert [] == schema_errors(json.loads(text))
    assert one == Verdict.from_json(json.loads(text))
    assert text.isascii()


@pytest.mark.parametrize("one", VERDICTS)
def test_classroom50_and_gradescope_follow_their_schemas(one: Verdict) -> None:
    """Fields, types and limits are those that the two platforms document."""
    result, results = json.loads(write("classroom50", one)), json.loads(write("gradescope", one))

    jsonschema.validate(result, schema("classroom50-result"))
    jsonschema.validate(results, schema("gradescope-results"))
    assert result["max-score"] >= result["score"]
    assert all(test["max-score"] >= test["score"] for test in result["tests"])


def test_classroom50_names_the_submission_by_the_variables_of_the_job() -> None:
    """Classroom, assignment, student and links are the job's; the time is that of the grading; a penalty is a failed test."""
    result = json.loads(write("classroom50", verdict(penalties=(Penalty(reason="late", points=1),))))

    assert {
        "schema": "classroom50/result/v1",
        "classroom": "cnn",
        "assignment": "session-7",
        "assignment_type": "individual",
        "owner": "jane",
        "submission": "submit/2026-11-26T10-00-00Z-1a2b3c4",
        "commit": "https://example.org/commit",
        "release": "https://example.org/release",
        "review": "https://example.org/review",
        "datetime": "2026-11-26T10:30:00Z",
        "score": 3,
        "max-score": 6,
    } == {key: value for key, value in result.items() if key != "tests"}
    assert [("parameters", True), ("dropout", False), ("output", True), ("penalty", False)] == [
        (test["test-name"], test["passed"]) for test in result["tests"]
    ]


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("CLASSROOM", "", "no CLASSROOM"),
        ("OWNER", "", "no OWNER or USERNAME"),
        ("SUBMISSION_TAG", "v1", "begin with submit/"),
    ],
)
def test_classroom50_needs_the_variables_of_the_job(variable: str, value: str, message: str) -> None:
    """Outside a job, the missing variable is named instead of a result that the collector refuses."""
    (writer,) = (one for one in WRITERS if one.name == "classroom50")
    context = Context(environment={**CONTEXT.environment, variable: value}, graded_at=CONTEXT.graded_at)

    with pytest.raises(InputError, match=message):
        writer.write([verdict()], context)


@pytest.mark.parametrize("one", VERDICTS)
def test_junit_follows_junit_10(one: Verdict) -> None:
    """The report is valid XML of the schema that pytest's reports follow."""
    JUNIT.validate(write("junit", one))


def test_junit_counts_what_is_undecided_as_skipped() -> None:
    """A failure, an error of the examiner and an undecided requirement are three different outcomes."""
    one = verdict(
        "jane",
        requirement("holds"),
        requirement("fails", Status.FAIL, points=0),
        requirement("broke", Status.ERROR, points=0),
        requirement("open", Status.UNKNOWN, points=0),
        requirement("left", Status.SKIP, points=0),
    )
    suite = ET.fromstring(write("junit", one))[0]  # noqa: S314 - our own document

    assert {"tests": "5", "failures": "1", "errors": "1", "skipped": "2", "name": "jane"} == suite.attrib
    outcomes = {test.get("name"): [child.tag for child in test] for test in suite.iter("testcase")}
    assert {
        "holds": ["system-out"],
        "fails": ["failure", "system-out"],
        "broke": ["error", "system-out"],
        "open": ["skipped", "system-out"],
        "left": ["skipped", "system-out"],
    } == outcomes


def test_gradescope_gets_text_and_visibility() -> None:
    """Nothing is rendered as HTML, and each requirement keeps the instructor's visibility."""
    results = json.loads(write("gradescope", hostile_verdict("x")))

    assert ["visible", "after_due_date"] == [test["visibility"] for test in results["tests"]]
    assert {"text"} == {results[key] for key in ("output_format", "test_output_format", "test_name_format")}


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("scope", Scope)
def test_markdown_shows_hostile_texts_as_text(text: str, scope: Scope) -> None:
    """No line begins a workflow command, and no punctuation of the submission reaches Markdown or HTML."""
    markdown = write("markdown", hostile_verdict(text), scope=scope)
    known = write("markdown", hostile_verdict("plain"), scope=scope)

    assert markdown.count("\n") == known.count("\n")
    assert not re.search(r"[<>`!{}\[\]@]|(?<!&)#(?!#* )|::", markdown.replace("Verdict `", "").replace("`\n", "\n"))
    assert re.sub(r"[^|]", "", known) == re.sub(r"[^|]", "", markdown)


def test_markdown_of_an_enormous_verdict_keeps_the_limit_of_a_step_summary() -> None:
    """The summary ends with whole lines below 1 MiB, and says that the rest is left out."""
    many = [requirement(f"requirement-{number}", Status.FAIL, points=0, observed="<" * 2000) for number in range(400)]
    markdown = write("markdown", verdict("jane", *many))

    assert len(markdown.encode()) <= 2**20
    assert markdown.endswith("The rest is left out: a step summary has at most 1 MiB.\n")


@pytest.mark.parametrize("text", [*HOSTILE, "  =1+1", "a,=1+1", 'a"=1', "\t@SUM(A1)", "\uff1d1+1", "-2"])
def test_csv_has_no_formula(text: str) -> None:
    """No cell, nor a part behind what another program may take for a separator, begins like a formula."""
    content = write("csv", verdict(), hostile_verdict(text), scope=Scope.CLASS)
    rows = list(csv.reader(io.StringIO(content)))

    assert 3 == len(rows)
    assert {9, 10} >= {len(row) for row in rows}
    assert not [
        part
        for row in rows
        for cell in row
        for part in re.split(r"[,;|\"]", cell)
        if re.match(r"\s*[=+\-@\uff1d]", part)
    ]


def test_csv_has_a_column_for_each_requirement() -> None:
    """A row holds the points, the reasons why some are missing, and the verdict's digest."""
    one, two = (
        verdict(penalties=(Penalty(reason="late", points=1),)),
        verdict("joe", requirement("parameters"), requirement("bias")),
    )
    header, first, second = csv.reader(io.StringIO(write("csv", one, two, scope=Scope.CLASS)))

    expected = "submission score max_score status parameters dropout output bias penalties reasons verdict"
    assert expected.split() == header
    assert ["jane", "3", "6", "fail", "2", "0", "2", "", "1", "dropout: as expected; late", one.digest()] == first
    assert ["joe", "4", "4", "pass", "2", "", "", "2", "0", "", two.digest()] == second


def test_an_undecided_requirement_counts_as_the_assignment_says() -> None:
    """Full points for what is undecided count as met, fewer do not; a failure without points is a failure."""
    statuses = [
        (Status.UNKNOWN, 2, 2),
        (Status.UNKNOWN, 0, 2),
        (Status.SKIP, 2, 2),
        (Status.FAIL, 0, 0),
        (Status.PASS, 0, 0),
    ]

    assert [True, False, True, False, True] == [
        requirement("one", status, points=points, max_points=most).is_met for status, points, most in statuses
    ]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_element_of_a_page_comes_from_a_submission(text: str) -> None:
    """The pages of a hostile submission have the elements of an ordinary one; an unmatched tag would fail the parser."""
    for scope in Scope:
        hostile, plain = (Outline(write("html", hostile_verdict(one), scope=scope).encode()) for one in (text, "plain"))
        assert plain.shape == hostile.shape


def test_a_page_shows_all_of_a_verdict() -> None:
    """Points, findings with evidence and hint, layers, accuracies, mistakes, claims, sandbox and environment are there."""
    page = Outline(write("html", full_verdict()).encode())
    headings = [
        "Notes",
        "Requirements",
        "Penalties",
        "Model Net: 11,360 parameters",
        "Accuracy by epoch on MNIST",
        "Confusion matrix",
        "Wrong predictions",
        "Claims in the documents",
        "Sandbox",
        "Examined with",
    ]

    assert len(headings) == len(page.all("h2"))
    assert headings == [one for one in page.text.splitlines() if one in headings]
    for words in ("5 of 14", "change dropout", "conv1: 16 channels", "99.44 %", "0 as 3, image 247", "ABI 7", "b" * 64):
        assert words in page.text
    assert 24 == len(page.all("img"))


def test_the_page_of_a_class_sums_up() -> None:
    """A row for each submission, how many met each requirement, and the distribution of the points."""
    verdicts = [
        verdict("a"),
        verdict("b"),
        verdict("c", *[requirement(name) for name in ("parameters", "dropout", "output")]),
    ]
    text = write("html", *verdicts, scope=Scope.CLASS)

    assert "3 submissions: 1 pass, 2 fail" in text
    assert "4.7 of 6" in text
    assert '<th scope="row" class="text">dropout</th><td class="number">1</td><td class="number">2</td>' in re.sub(
        r"\s*\n\s*", "", text
    )
    assert "2 with 4, 1 with 6" in text
    assert "No submissions" in write("html", scope=Scope.CLASS)


def test_the_page_of_a_class_has_no_column_for_what_gives_no_points() -> None:
    """A requirement without points is among the outcomes, not among the points."""
    one = verdict("a", requirement("parameters"), requirement("capture", points=0, max_points=0))
    page = Outline(write("html", one, scope=Scope.CLASS).encode()).text

    assert (2, 1) == (page.count("parameters"), page.count("capture"))


def test_a_training_that_diverged_at_once_has_a_page() -> None:
    """Without an epoch there is no curve, and the page is sound."""
    full = full_verdict()
    assert full.training
    run = dataclasses.replace(full.training.runs[0], train_correct=(), test_correct=())
    training = dataclasses.replace(full.training, runs=(run,), counted_epochs=None)
    page = Outline(write("html", dataclasses.replace(full, training=training)).encode())

    assert [] == page.unclosed
    assert "in the best epoch." in page.text


def test_github_gets_the_outputs_of_a_step() -> None:
    """One line an output; of several submissions the sums, the overall status, and the layers that held for all of them."""
    full = full_verdict()
    fewer = dataclasses.replace(full, submission="other", sandbox=full.sandbox[:1])

    assert [
        "score=4",
        "max-score=6",
        "status=fail",
        "summary=4 of 6 points. Not met: dropout.",
        "layers=",
    ] == write("github", verdict(), scope=Scope.CLASS).splitlines()
    assert ["score=14", "max-score=34", "status=fail", "summary=3 submissions: 3 fail", "layers=limits"] == write(
        "github", full, fewer, verdict(), scope=Scope.CLASS
    ).splitlines()


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_adds_an_output(text: str) -> None:
    """A line break or an assignment in a text stays within the line of the summary."""
    lines = write("github", hostile_verdict(text), scope=Scope.CLASS).splitlines()

    assert ["score", "max-score", "status", "summary", "layers"] == [line.partition("=")[0] for line in lines]
    assert 600 > max(map(len, lines))


def test_a_summary_blames_nobody_for_what_is_not_decided() -> None:
    """Failures, errors of the examiner, and what is undecided or unchecked are told apart; what counts as met is left out."""
    one = verdict(
        "jane",
        requirement("holds"),
        requirement("counted", Status.UNKNOWN),
        requirement("left", Status.SKIP, points=0),
        requirement("open", Status.UNKNOWN, points=0),
        requirement("fails", Status.FAIL, points=0),
        requirement("broke", Status.ERROR, points=0),
        penalties=(Penalty(reason="late", points=1),),
    )

    assert (
        "3 of 12 points. Not met: fails. Undecided: open. Not checked: left. "
        "Not graded, because of an error of the examiner: broke. Penalty of 1: late."
    ) == one.summary
    assert "2 of 2 points. All requirements are met." == verdict("jane", requirement("holds")).summary


@pytest.mark.parametrize("visibility", [one for one in Visibility if one is not Visibility.VISIBLE])
def test_a_summary_does_not_name_what_a_student_does_not_see(visibility: Visibility) -> None:
    """Platforms show it at once: Gradescope as output, Moodle as a comment."""
    secret = dataclasses.replace(requirement("secret", Status.FAIL, points=0), visibility=visibility)
    penalty = Penalty(reason="secret is not met", points=1, visibility=visibility)
    graded = verdict("jane", requirement("holds"), secret, penalties=(penalty,))

    assert "1 of 4 points." == graded.summary
    results = json.loads(write("gradescope", graded))
    assert ("1 of 4 points.", visibility.value) == (results["output"], results["tests"][1]["visibility"])
