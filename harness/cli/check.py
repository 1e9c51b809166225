"""`harness check`: a model's structure against a contract."""

from __future__ import annotations

import click

from harness.cli.console import announce, exit_code, results, write_json
from harness.cli.options import contract_for, contract_option, debug_option, json_option, model_argument, rule_for
from harness.findings import overall


@click.command()
@model_argument
@contract_option
@click.option(
    "--probe/--no-probe",
    default=None,
    help="Confirm what the graph proves by experiments, or leave them out. Default: up to 100,000 parameters.",
)
@click.option("--evidence", is_flag=True, help="Show the evidence of what holds, too.")
@json_option
@debug_option
@click.pass_context
def check(
    ctx: click.Context,
    model: str,
    arguments: str,
    contract_name: str | None,
    json_path: str | None,
    *,
    probe: bool | None,
    evidence: bool,
) -> None:
    """Examine a model's structure by a contract.

    Nothing is trained; accuracy is not asked.
    """
    from harness.contracts import examine
    from harness.reporting import document, findings_content, findings_table, verdict_line
    from harness.sources import load_model

    contract = contract_for(model, contract_name)
    captured = load_model(model, input_shape=contract.input_shape, arguments=arguments, announce=announce)
    findings = examine(captured, contract, probe=probe)
    rule = rule_for(contract)
    if rule is not None:
        findings += rule.skipped("not asked: check trains nothing, verify does")
    if json_path != "-":
        console = results()
        console.print(
            f"{captured.name} against {contract.name}" + (f": {contract.description}" if contract.description else "")
        )
        console.print(findings_table(findings, evidence=evidence))
        console.print(verdict_line(overall(findings), f"{captured.name} against {contract.name}, structure only"))
    content = {
        "model": captured.name,
        "contract": contract.name,
        "graph": captured.graph.exact_digest(),
        **findings_content(findings),
    }
    write_json(json_path, document("check", content))
    ctx.exit(exit_code(findings))
