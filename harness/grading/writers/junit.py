"""JUnit XML, after ``junit-10.xsd`` of the Jenkins xUnit plugin, which pytest's reports follow, too."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree as ET

from harness.findings import Status
from harness.grading.verdict import GradedRequirement, Verdict
from harness.grading.writers.writer import Context, with_harmless_texts

# A requirement that is not decided is neither a success nor a failure.
_OUTCOMES = {Status.FAIL: "failure", Status.ERROR: "error", Status.UNKNOWN: "skipped", Status.SKIP: "skipped"}


def write_junit(verdicts: Sequence[Verdict], _: Context) -> bytes:
    """Return a test suite with one test a requirement; its properties are the points, the highest points and the penalties."""
    (graded,) = verdicts
    verdict = with_harmless_texts(graded)
    outcomes = [_OUTCOMES.get(one.finding.status) for one in verdict.requirements]
    suites = ET.Element("testsuites")
    suite = ET.SubElement(
        suites,
        "testsuite",
        name=verdict.submission,
        tests=str(len(outcomes)),
        failures=str(outcomes.count("failure")),
        errors=str(outcomes.count("error")),
        skipped=str(outcomes.count("skipped")),
    )
    properties = ET.SubElement(suite, "properties")
    facts = [("score", str(verdict.score)), ("max_score", str(verdict.max_score)), ("verdict", graded.digest())]
    for name, value in [*facts, *(("penalty", f"{one.points}: {one.reason}") for one in verdict.penalties)]:
        ET.SubElement(properties, "property", name=name, value=value)
    for one in verdict.requirements:
        _add_test(suite, one, verdict.assignment)
    ET.indent(suites)
    content: bytes = ET.tostring(suites, encoding="utf-8", xml_declaration=True)
    return content + b"\n"


def _add_test(suite: ET.Element, one: GradedRequirement, assignment: str) -> None:
    finding = one.finding
    test = ET.SubElement(suite, "testcase", name=finding.requirement, classname=assignment)
    if outcome := _OUTCOMES.get(finding.status):
        ET.SubElement(test, outcome, message=finding.observed).text = finding.describe()
    ET.SubElement(test, "system-out").text = f"{one.points} of {one.max_points} points"
