"""The audit: documents are read, paired and judged by every rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.claims import accuracy_rules, model_rules, run_rules
from harness.claims.code import capture_code
from harness.claims.documents import find_documents
from harness.claims.dossier import AuditFinding, Dossier
from harness.claims.evidence import CodeModel, Place, Reading, Unread
from harness.claims.reading import MAX_CHARACTERS, read
from harness.claims.rule import Rule

# In the order of the documentation
RULES: tuple[Rule, ...] = tuple(
    one for module in (accuracy_rules, run_rules, model_rules) for one in vars(module).values() if isinstance(one, Rule)
)
# Of all documents together
_MAX_CHARACTERS = 2 * MAX_CHARACTERS


@dataclass(frozen=True, kw_only=True)
class Audit:
    """The result of an audit: what was read and captured, what was not, and the findings in the order of the documents."""

    path: str
    readings: tuple[Reading, ...]
    models: tuple[CodeModel, ...]
    unread: tuple[Unread, ...]
    findings: tuple[AuditFinding, ...]


def audit(path: Path, *, code: bool = True, announce: Callable[[str], None] = lambda _: None) -> Audit:
    """Audit a document, a notebook, a log, or the documents of a folder.

    With ``code``, the models of Python files, notebooks and code blocks are captured if a document speaks of them;
    ``announce`` is called with the file that is being imported.

    Raises:
        InputError: the path does not exist, or holds no document.
    """
    readings, unread = read_all(path)
    models, left_out = capture_code(path, readings, announce) if code else ((), [])
    findings = judge(Dossier(readings, models))
    return Audit(path=str(path), readings=readings, models=models, unread=(*unread, *left_out), findings=findings)


def read_all(path: Path) -> tuple[tuple[Reading, ...], list[Unread]]:
    """Read all documents of a path; the second value is what was not read.

    Raises:
        InputError: the path does not exist, or holds no document.
    """
    documents, unread = find_documents(path)
    readings: list[Reading] = []
    for document in documents:
        if sum(reading.characters for reading in readings) > _MAX_CHARACTERS:
            reason = f"more than {_MAX_CHARACTERS // 2**20} Mi characters: this document is not read"
            unread.append(Unread(place=Place(file=document.name), reason=reason))
        else:
            readings.append(read(document))
    return tuple(readings), unread + [one for reading in readings for one in reading.unread]


def judge(dossier: Dossier) -> tuple[AuditFinding, ...]:
    """Apply every rule to what was read of one submission; the findings are in the order of the documents' lines."""
    order = {reading.file: number for number, reading in enumerate(dossier.readings)}
    found = dict.fromkeys(rule.finding(one) for rule in RULES for one in rule.check(dossier))

    def position(finding: AuditFinding) -> tuple[int, ...]:
        place = finding.said.place
        return (order[place.file], place.cell or 0, place.output or 0, place.line)

    return tuple(sorted(found, key=position))


def copied_logs(paths: Sequence[Path]) -> Audit:
    """Compare submissions, with a finding for each log of one that an earlier one has, too, and what was not read.

    Raises:
        InputError: a path does not exist, or holds no document.
    """
    runs, unread = [], []
    for path in paths:
        readings, left_out = read_all(path)
        runs += [(str(path), run) for reading in readings for run in reading.runs]
        unread += [replace(one, place=replace(one.place, file=f"{path}: {one.place.file}")) for one in left_out]
    found = tuple(map(run_rules.same_log.finding, run_rules.copies(runs)))
    return Audit(path="", readings=(), models=(), unread=tuple(unread), findings=found)
