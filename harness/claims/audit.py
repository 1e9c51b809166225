"""The audit: documents are read, paired and judged by every rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.claims.documents import find_documents
from harness.claims.dossier import AuditFinding, Dossier
from harness.claims.evidence import Place, Reading, Unread
from harness.claims.reading import MAX_CHARACTERS, read
from harness.claims.rules import RULES

# Of all documents together
_MAX_CHARACTERS = 2 * MAX_CHARACTERS


@dataclass(frozen=True, kw_only=True)
class Audit:
    """The result of an audit: what was read, what was not, and the findings in the order of the documents' lines."""

    path: str
    readings: tuple[Reading, ...]
    unread: tuple[Unread, ...]
    findings: tuple[AuditFinding, ...]

    @property
    def failed(self) -> bool:
        """Whether a finding is a contradiction or an overstatement."""
        return any(finding.failed for finding in self.findings)


def audit(path: Path) -> Audit:
    """Audit a document, a notebook, a log, or the documents of a folder.

    Raises:
        InputError: the path does not exist, or holds no document.
    """
    documents, unread = find_documents(path)
    readings: list[Reading] = []
    for document in documents:
        if sum(reading.characters for reading in readings) > _MAX_CHARACTERS:
            reason = f"more than {_MAX_CHARACTERS // 2**20} Mi characters: this document is not read"
            unread.append(Unread(place=Place(file=document.name, line=1), text=document.name, reason=reason))
        else:
            readings.append(read(document))
    unread += [one for reading in readings for one in reading.unread]
    return Audit(path=str(path), readings=tuple(readings), unread=tuple(unread), findings=judge(readings))


def judge(readings: Sequence[Reading]) -> tuple[AuditFinding, ...]:
    """Apply every rule to what was read from the documents of one submission."""
    dossier = Dossier(tuple(readings))
    order = {reading.file: number for number, reading in enumerate(readings)}
    found = [finding for rule in RULES for finding in rule.check(rule, dossier)]
    return tuple(
        sorted(
            dict.fromkeys(found),
            key=lambda one: (
                order[one.said.place.file],
                one.said.place.cell or 0,
                one.said.place.output or 0,
                one.said.place.line,
            ),
        )
    )
