"""`harness verify`: structure, a smoke run on each device, and the consistency run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from harness.cli.console import announce, exit_code, results, write_json
from harness.cli.options import (
    contract_for,
    contract_option,
    data_option,
    dataset_for,
    debug_option,
    json_option,
    model_argument,
    recipe_for,
    rule_for,
    training_options,
)
from harness.cli.runs import run_training
from harness.findings import Finding, overall

if TYPE_CHECKING:
    from harness.contracts import Contract
    from harness.data import Dataset

DIGITS_CONTRACT = "digits"


@click.command()
@model_argument
@contract_option
@training_options
@data_option
@click.option("--quick", is_flag=True, help="Leave out the long run: structure and smoke runs only.")
@json_option
@debug_option
@click.pass_context
def verify(
    ctx: click.Context,
    model: str,
    arguments: str,
    contract_name: str | None,
    recipe_name: str | None,
    seed: int,
    device: str,
    engine: str,
    data: str,
    out: str | None,
    json_path: str | None,
    *,
    fresh: bool,
    quick: bool,
) -> None:
    """Examine, smoke-run, train and judge a model.

    Structure by the contract, a short run on each device, then the whole recipe, judged by the accuracy rule.

    Where the embedded digits stand in for MNIST, the contract's accuracy rule is replaced by the digits' own.
    """
    from harness.contracts import examine
    from harness.reporting import document, findings_content, findings_table, verdict_line
    from harness.sources import load_model, parse_source
    from harness.training import RunSpec, available_devices, resolve_device, smoke_run

    # A mistyped MODEL is told before anything is downloaded.
    parse_source(model)
    contract = contract_for(model, contract_name)
    recipe = recipe_for(model, recipe_name)
    chosen = resolve_device(device)
    dataset = dataset_for(data)
    contract = _contract_on(contract, dataset)
    rule = rule_for(contract)
    announce(f"model: {model}; contract: {contract.name}; recipe: {recipe.name}; seed: {seed}")
    captured = load_model(model, seed=seed, input_shape=contract.input_shape, arguments=arguments, announce=announce)
    console = results()
    shown = json_path != "-"
    findings: list[Finding] = []

    def add(*new: Finding) -> None:
        findings.extend(new)
        if shown:
            console.print(findings_table(new))

    add(*examine(captured, contract))
    for name in available_devices() if device == "auto" else (str(chosen),):
        add(smoke_run(captured.to_module(), dataset, device=resolve_device(name), seed=seed).finding())
    record = None
    if rule is not None and quick:
        add(*rule.skipped("not asked: --quick leaves the long run out"))
    elif rule is not None:
        spec = RunSpec.of(captured, recipe, seed=seed, device=chosen, source=model, arguments=arguments)
        record, path = run_training(captured, dataset, spec, engine=engine, out=out, fresh=fresh)
        announce(f"record: {path}")
        add(*rule.judge(record))
    if shown:
        console.print(verdict_line(overall(findings), f"{captured.name} against {contract.name}, on {dataset.title}"))
    content = {
        "model": captured.name,
        "contract": contract.name,
        "graph": captured.graph.exact_digest(),
        "data": {"name": dataset.name, "title": dataset.title, "digest": dataset.digest},
        **findings_content(findings),
        "record": record.to_json() if record else None,
    }
    write_json(json_path, document("verify", content))
    ctx.exit(exit_code(findings))


def _contract_on(contract: Contract, dataset: Dataset) -> Contract:
    """The contract with the accuracy rule that fits the data."""
    from harness.contracts import load_contract

    if dataset.name != "digits" or contract.accuracy is None or contract.name == DIGITS_CONTRACT:
        return contract
    return contract.with_accuracy_of(load_contract(DIGITS_CONTRACT))
