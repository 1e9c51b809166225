"""The audit of published documents. ``HARNESS_SEEDS`` and ``HARNESS_CORPUS`` name the folders that hold them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import mnist_models
from harness.claims import Audit, audit

SEEDS, CORPUS = os.environ.get("HARNESS_SEEDS"), os.environ.get("HARNESS_CORPUS")
needs_seeds = pytest.mark.skipif(SEEDS is None, reason="HARNESS_SEEDS names no folder")
needs_corpus = pytest.mark.skipif(CORPUS is None, reason="HARNESS_CORPUS names no folder")
# Claims, runs, epochs, layer tables and receptive-field tables
COUNTS = {
    "000": (41, 3, 45, 3, 0),
    "001": (8, 1, 15, 1, 0),
    "002": (38, 3, 45, 3, 0),
    "003": (13, 4, 70, 5, 2),
    "004": (23, 5, 80, 2, 0),
}
FINDINGS = {
    "000": [],
    "001": [],
    "002": [
        ("count-and-percentage", 952),
        ("count-and-percentage", 957),
        ("target-by-printed-figures", 957),
        ("count-and-percentage", 967),
    ],
    "003": [
        ("receptive-field-table", 25),
        ("receptive-field-table", 136),
        ("log-missing", 269),
        ("joined-log", 450),
        ("figure-of-no-run", 489),
        ("figure-of-no-run", 491),
    ],
    "004": [
        ("best-below-log", 174),
        ("best-below-log", 175),
        ("best-below-log", 510),
        ("parameters-claimed", 803),
        ("figure-of-no-run", 804),
        ("figure-of-no-run", 806),
    ],
}


def seed(number: str) -> Audit:
    """The audit of a document, whose code is not captured."""
    (path,) = Path(SEEDS or "").glob(f"{number}_*")
    return audit(path, code=False)


@needs_seeds
@pytest.mark.parametrize("number", COUNTS)
def test_a_seed_has_these_findings_and_no_other(number: str) -> None:
    """The counts of what is read, and the rule and line of every finding."""
    found = seed(number)
    (reading,) = found.readings
    epochs = sum(len(run.epochs) for run in reading.runs)
    assert COUNTS[number] == (len(reading.claims), len(reading.runs), epochs, len(reading.tables), len(reading.fields))
    assert FINDINGS[number] == [(one.rule, one.said.place.line) for one in found.findings]


@needs_seeds
@pytest.mark.parametrize("name", [name for name in mnist_models.list_models() if mnist_models.model_card(name).log])
def test_a_card_and_the_audit_read_the_same_log(name: str) -> None:
    """The counts, percentages and lines of a card's log are those of a run in the document."""
    card = mnist_models.model_card(name)
    assert card.log is not None
    runs = [
        [(one.test.correct, str(one.test.percent), one.test_quote.place.line) for one in run.epochs]
        for run in seed(card.sources[0].document).readings[0].runs
    ]
    assert [(one.correct, f"{one.printed_percent} %", one.line) for one in card.log.epochs] in [
        [(correct, f"{percent} %", line) for correct, percent, line in run] for run in runs
    ]


@needs_seeds
@pytest.mark.parametrize("name", mnist_models.list_models())
def test_a_card_and_the_audit_agree(name: str) -> None:
    """A percentage or claim that a card calls wrong has a finding in its lines."""
    for one in mnist_models.model_card(name).discrepancies:
        if one.kind in ("count", "claim") and one.lines != (486, 494):
            lines = {finding.said.place.line for finding in seed(one.document).findings}
            assert lines & set(range(one.lines[0], one.lines[1] + 1)), one.what


@needs_corpus
@pytest.mark.parametrize("repository", ["nkanungo+Tsai-ERA-Session6", "roulupen+ERAV4"])
def test_an_honest_repository_does_not_fail(repository: str) -> None:
    """There is no contradiction and no overstatement where documents, notebooks and logs agree."""
    assert [] == [one for one in audit(Path(CORPUS or "", repository), code=False).findings if one.failed]
