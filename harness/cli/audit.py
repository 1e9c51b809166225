"""`harness audit`: compares what documents claim with their logs, their layer tables and the code."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.console import Output, announce, exit_code
from harness.cli.options import report_options
from harness.findings import Status, overall

if TYPE_CHECKING:
    from harness.claims import Audit, AuditFinding


@click.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option(
    "--cross", is_flag=True, help="Look for logs that were copied between several submissions, one PATH each."
)
@report_options
def audit(paths: tuple[str, ...], output: Output, *, cross: bool) -> int:
    """Compare what documents claim with their own evidence.

    PATH is a document (Markdown, text, reStructuredText), a notebook, a log, or a folder with these. Claims of
    parameters, accuracies, epochs and receptive fields are compared with the training logs, the layer summaries and the
    code that belong to them. Contradictions and overstatements fail; other findings are reported.
    """
    from harness.claims import audit as examine
    from harness.claims import copied_logs
    from harness.reporting import facts_table, findings_table, verdict_line

    if cross != (len(paths) > 1):
        raise click.UsageError(f"expected one PATH, or several with --cross, got {len(paths)} with cross={cross}.")
    if cross:
        found, audits = copied_logs([Path(path) for path in paths]), []
    else:
        audits = [examine(Path(paths[0]), announce=announce)]
        found = audits[0].findings
    findings = [finding.to_finding() for finding in found]
    status = overall(findings) if findings else Status.PASS
    facts = [fact for one in audits for fact in _facts(one)]
    output.print(
        findings_table(findings, evidence=True),
        *(["", facts_table(facts), ""] if facts else ()),
        verdict_line(status, " ".join(paths)),
    )
    output.write("audit", {"paths": list(paths), "status": status.value, **_content(audits, found)})
    return exit_code(findings)


def _facts(audit: Audit) -> list[tuple[str, str]]:
    """What was read of each document that holds anything, and what was not read."""
    facts = []
    for document in _documents(audit):
        counts = {key: value for key, value in document.items() if key != "file" and value}
        if counts:
            what = ", ".join(f"{count:,} {key.replace('_', ' ')}" for key, count in counts.items())
            facts.append((document["file"], what))
    return facts + [(str(one.place), f"not read: {one.reason}") for one in audit.unread]


def _documents(audit: Audit) -> list[dict[str, Any]]:
    return [
        {
            "file": reading.file,
            "claims": len(reading.claims),
            "runs": len(reading.runs),
            "epochs": sum(len(run.epochs) for run in reading.runs),
            "layer_tables": len(reading.tables),
            "receptive_field_tables": len(reading.fields),
        }
        for reading in audit.readings
    ]


def _content(audits: list[Audit], found: tuple[AuditFinding, ...]) -> dict[str, Any]:
    return {
        "documents": [document for one in audits for document in _documents(one)],
        "models": [
            {"file": model.section.file, "parameters": model.total, "unreached": model.unreached}
            for one in audits
            for model in one.models
        ],
        "unread": [{**asdict(one.place), "reason": one.reason} for audit in audits for one in audit.unread],
        "findings": [
            {
                "rule": one.rule,
                "kind": one.kind,
                "said": {**asdict(one.said.place), "text": one.said.text},
                "claim": one.claim,
                "shown": one.shown,
                "evidence": [{**asdict(quote.place), "text": quote.text} for quote in one.evidence],
                "fix": one.fix,
                "confidence": one.confidence,
            }
            for one in found
        ],
    }
