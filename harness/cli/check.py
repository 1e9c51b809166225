"""`harness check`: checks the structure of a model against a contract."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli.console import Output, exit_code
from harness.cli.inputs import contract_for, model_for, rule_for
from harness.cli.options import (
    contract_option,
    evidence_option,
    html_option,
    model_argument,
    report_options,
    sandbox_option,
)
from harness.cli.pages import model_page, write_page
from harness.findings import overall

if TYPE_CHECKING:
    from harness.sandbox import SandboxRequirement


@click.command()
@model_argument
@contract_option
@click.option(
    "--probe/--no-probe",
    default=None,
    help="Confirm the findings about the captured graph by experiments on the model, or not. Default: confirm for models with up "
    "to 100,000 parameters.",
)
@evidence_option
@sandbox_option("none")
@html_option
@report_options
def check(
    model: str,
    arguments: str,
    contract_name: str | None,
    sandbox: SandboxRequirement,
    html: Path | None,
    output: Output,
    *,
    probe: bool | None,
    evidence: bool,
) -> int:
    """Check the structure of a model against a contract.

    The model is not trained, so accuracy requirements are skipped.
    """
    from harness.contracts import examine
    from harness.reporting import findings_content, findings_table, verdict_line

    contract = contract_for(model, contract_name)
    loaded = model_for(model, input_shape=contract.input_shape, arguments=arguments, sandbox=sandbox)
    captured = loaded.model
    findings = examine(captured, contract, probe=probe)
    if rule := rule_for(contract):
        findings += rule.skipped("not checked: harness check does not train, use harness verify")
    title = f"{captured.name} against {contract.name}"
    output.print(
        f"{title}: {contract.description}" if contract.description else title,
        findings_table(findings, evidence=evidence),
        verdict_line(overall(findings), f"{title}, structure only"),
    )
    content = {
        "model": captured.name,
        "sandbox": [dataclasses.asdict(one) for one in loaded.layers],
        "contract": contract.name,
        "graph": captured.graph.exact_digest(),
        **findings_content(findings),
    }
    output.write("check", content)
    if html:
        from harness.training import environment

        statement = f"{title}, structure only"
        write_page(html, model_page(loaded, findings, statement=statement, environment=environment()))
    return exit_code(findings)
