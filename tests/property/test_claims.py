"""What is read from a written log is what was written, and a planted fault is found where no other finding is.

``HARNESS_EXAMPLES`` sets how many documents are drawn of each kind; 2,000 take some minutes.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from harness.claims import Audit, audit
from harness.claims.documents import Document as Opened
from harness.claims.evidence import Reading, Run
from harness.claims.reading import read
from tests.written_documents import FAULTS, Document, Read, WrittenLog, documents, logs

EXAMPLES = int(os.environ.get("HARNESS_EXAMPLES", "40"))


def reading(text: str, name: str = "README.md") -> Reading:
    """Read a text as a document."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(text.encode())
        return read(Opened(path=path, name=name))


def audited(text: str) -> Audit:
    """Audit a text as a README."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "README.md")
        path.write_text(text, "utf-8")
        return audit(path)


def read_back(run: Run) -> Read:
    """The figures of a run as a written log has them."""
    return [
        (
            epoch.test.correct,
            str(epoch.test.percent),
            epoch.test_loss,
            str(epoch.train.percent) if epoch.train and epoch.train.percent else None,
        )
        for epoch in run.epochs
    ]


@given(log=logs(), name=st.sampled_from(("README.md", "run.log", "out.txt")))
@settings(max_examples=EXAMPLES, deadline=None)
def test_a_written_log_is_read_back(log: WrittenLog, name: str) -> None:
    """The runs, epochs and figures of a log are those that were written, whatever its form and noise."""
    found = reading(log.text, name)
    assert list(log.runs) == [read_back(run) for run in found.runs]
    assert () == found.unread


@given(document=documents((None,)))
@settings(max_examples=EXAMPLES, deadline=None)
def test_a_consistent_document_has_no_finding(document: Document) -> None:
    """A document whose figures agree has no finding of any kind."""
    assert [] == [(one.rule, str(one.said), one.claim, one.shown) for one in audited(document.text).findings]


@given(document=documents(FAULTS))
@settings(max_examples=EXAMPLES, deadline=None)
def test_a_planted_fault_is_found_in_its_line(document: Document) -> None:
    """Each planted fault yields a finding of its rule in the line that has it."""
    found = {(one.rule, one.said.place.line) for one in audited(document.text).findings}
    assert (document.fault, document.line) in found
