"""`harness audit`: compares what documents claim with their logs, their layer tables and the code."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.certificates import certificate_options, certification, finished, subfolder
from harness.cli.console import Output, announce, exit_code
from harness.cli.options import data_option, html_option, recipe_option, report_options
from harness.cli.pages import write_page
from harness.errors import InputError
from harness.files import file_name
from harness.findings import Finding, Status, overall

if TYPE_CHECKING:
    from harness.certification import ReplicatedFigure, Replication
    from harness.claims import Audit
    from harness.claims.evidence import Quote


@click.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option(
    "--cross", is_flag=True, help="Only look for logs that were copied between several submissions, one PATH each."
)
@click.option(
    "--replicate",
    "runs",
    type=click.IntRange(2, 1000),
    metavar="N",
    help="Train each model whose code and log are found, for as many epochs as the log has, with N seeds, and compare the log.",
)
@recipe_option
@certificate_options
@data_option
@html_option
@report_options
def audit(
    paths: tuple[str, ...],
    runs: int | None,
    recipe_name: str | None,
    html: Path | None,
    output: Output,
    *,
    cross: bool,
    **chosen: Any,  # noqa: ANN401 - the options of certificate_options, and the data
) -> int:
    """Compare what documents claim with their own evidence.

    PATH is a document (Markdown, text, reStructuredText), a notebook, a log, or a folder with these. Claims of
    parameters, accuracies, epochs and receptive fields are compared with the training logs, the layer summaries and the
    code that belong to them. Contradictions and overstatements fail; other findings are reported.
    """
    from harness.claims import audit as examine
    from harness.claims import copied_logs
    from harness.reporting import Facts, Findings, Page, facts_table, findings_table, verdict_line

    if cross != (len(paths) > 1):
        raise click.UsageError(f"expected one PATH, or several with --cross, got {len(paths)} with cross={cross}.")
    done = copied_logs([Path(path) for path in paths]) if cross else examine(Path(paths[0]), announce=announce)
    findings = [finding.to_finding() for finding in done.findings]
    replication = _replicated(done, runs, recipe_name, **chosen) if runs else None
    findings += map(_replicated_finding, replication.figures) if replication else ()
    status = overall(findings) if findings else Status.PASS
    facts = _facts(done)
    output.print(
        findings_table(findings, evidence=True),
        *(["", facts_table(facts), ""] if facts else ()),
        verdict_line(status, " ".join(paths)),
    )
    if html:
        what = (Findings(title="Findings", findings=tuple(findings)), Facts(title="What was read", facts=tuple(facts)))
        title, statement = f"Audit of {', '.join(paths)}", f"{len(findings)} findings."
        write_page(html, Page(title=title, status=status, statement=statement, sections=what))
    content = {"replication": asdict(replication) if replication else None, **_content(done)}
    output.write("audit", {"paths": list(paths), "status": status.value, **content})
    return exit_code(findings)


def _replicated(
    done: Audit,
    runs: int,
    recipe_name: str | None,
    out: str | None,
    **chosen: Any,  # noqa: ANN401 - as above
) -> Replication:
    """Train the models whose code is in a file and whose log is known, and compare the logs with these runs."""
    from harness.certification import FixedDesign, Published, replicate
    from harness.claims import Dossier

    published, trainings = [], {}
    dossier, place = Dossier(done.readings, done.models), Path(done.path)
    for model in done.models:
        file = (place if place.is_dir() else place.parent) / model.section.file
        if (run := dossier.run_of(model)) is None or file.suffix not in {".py", ".ipynb"}:
            continue
        correct = tuple(epoch.test.correct or 0 for epoch in run.epochs)
        published.append(Published(model=str(file), correct=correct, total=run.epochs[-1].test.total))
        chosen |= {"epochs": len(correct), "out": subfolder(out, file_name(model.section.file))}
        trainings[str(file)] = certification(str(file), "", None, recipe_name, design=FixedDesign(runs=runs), **chosen)
    if not published:
        raise InputError(
            "expected a model with its code in a file and one log of its own that shows counts, got none. Nothing was trained."
        )
    return replicate(published, {name: finished(train()) for name, train in trainings.items()})


def _replicated_finding(figure: ReplicatedFigure) -> Finding:
    """A published figure that no run of ours comes near to is undecided: the recipe may be another one."""
    is_near = figure.outcome == "consistent"
    interval = "" if figure.lower is None else f": {figure.runs} runs have {figure.lower:,.1f} to {figure.upper:,.1f}"
    return Finding(
        requirement="claims.replication",
        status=Status.PASS if is_near else Status.SKIP if figure.outcome == "not testable" else Status.UNKNOWN,
        expected=f"{figure.model}, {figure.figure}: {figure.published or 0:,.1f} correct by its log",
        observed=f"{figure.outcome}{interval or f': {figure.reason}'}",
        hint="" if is_near else "Name the recipe of the log with --recipe.",
    )


def _facts(audit: Audit) -> list[tuple[str, str]]:
    """What was read of each document that holds anything, and what was not read."""
    facts = []
    for document in _documents(audit):
        file, *counts = document.items()
        if what := ", ".join(f"{count:,} {key.replace('_', ' ')}" for key, count in counts if count):
            facts.append((file[1], what))
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


def _quoted(quote: Quote) -> dict[str, Any]:
    return {**asdict(quote.place), "text": quote.text}


def _content(audit: Audit) -> dict[str, Any]:
    return {
        "documents": _documents(audit),
        "models": [
            {"file": model.section.file, "parameters": model.total, "unreached": model.unreached}
            for model in audit.models
        ],
        "unread": [{**asdict(one.place), "reason": one.reason} for one in audit.unread],
        "findings": [
            {**asdict(one), "said": _quoted(one.said), "evidence": [_quoted(quote) for quote in one.evidence]}
            for one in audit.findings
        ],
    }
