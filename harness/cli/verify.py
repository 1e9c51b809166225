"""`harness verify`: checks the structure, trains briefly on each device, and judges a whole training by the accuracy rule."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli.console import Output, announce, exit_code
from harness.cli.inputs import contract_for, contract_on, dataset_for, model_for, recipe_for, rule_for
from harness.cli.options import (
    contract_option,
    data_option,
    html_option,
    model_argument,
    report_options,
    sandbox_option,
    training_options,
)
from harness.cli.pages import model_page, run_sections, write_page
from harness.cli.runs import RunOptions, run_training, spec_for
from harness.findings import Finding, overall

if TYPE_CHECKING:
    from harness.sandbox import SandboxRequirement


@click.command()
@model_argument
@contract_option
@training_options
@data_option
@click.option("--quick", is_flag=True, help="Skip the whole training: check structure and smoke runs only.")
@sandbox_option("none")
@html_option
@report_options
def verify(
    model: str,
    arguments: str,
    contract_name: str | None,
    recipe_name: str | None,
    seed: int,
    device: str,
    engine: str,
    data: str,
    out: str | None,
    sandbox: SandboxRequirement,
    html: Path | None,
    output: Output,
    *,
    fresh: bool,
    quick: bool,
) -> int:
    """Check a model against all requirements of a contract, including accuracy.

    The structure is checked on the captured graph, a smoke run trains for a few steps on each device, and a training
    with the whole recipe is judged by the contract's accuracy rule. With the embedded digits as data, the accuracy rule
    of the contract 'digits' is used instead.
    """
    from harness.contracts import examine
    from harness.reporting import findings_content, findings_table, verdict_line
    from harness.sources import parse_source
    from harness.training import available_devices, environment, resolve_device, smoke_run

    # A mistyped MODEL is an error before anything is downloaded.
    parse_source(model)
    contract = contract_for(model, contract_name)
    recipe = recipe_for(model, recipe_name)
    chosen = resolve_device(device)
    dataset = dataset_for(data)
    contract = contract_on(contract, dataset)
    rule = rule_for(contract)
    announce(f"model: {model}; contract: {contract.name}; recipe: {recipe.name}; seed: {seed}")
    loaded = model_for(model, seed=seed, input_shape=contract.input_shape, arguments=arguments, sandbox=sandbox)
    captured = loaded.model
    findings: list[Finding] = []

    def add(*new: Finding) -> None:
        findings.extend(new)
        output.print(findings_table(new))

    add(*examine(captured, contract))
    captured.require_trainable()
    for name in available_devices() if device == "auto" else (str(chosen),):
        add(smoke_run(captured.to_module(), dataset, device=resolve_device(name), seed=seed).finding())
    record = None
    if rule is not None and quick:
        add(*rule.skipped("not checked: --quick skips the training"))
    elif rule is not None and (unfit := rule.judge_recipe(recipe)):
        add(*unfit)
    elif rule is not None:
        spec = spec_for(loaded, recipe, seed=seed, device=chosen, source=model, arguments=arguments)
        record = run_training(captured, dataset, spec, RunOptions(engine=engine, out=out, fresh=fresh))
        add(*rule.judge(record))
    title = f"{captured.name} against {contract.name}, on {dataset.title}"
    output.print(verdict_line(overall(findings), title))
    content = {
        "model": captured.name,
        "sandbox": [dataclasses.asdict(one) for one in loaded.layers],
        "contract": contract.name,
        "graph": captured.graph.exact_digest(),
        "data": dataset.to_json(),
        **findings_content(findings),
        "record": record.to_json() if record else None,
    }
    output.write("verify", content)
    if html:
        training = run_sections(record, rule) if record and rule else ()
        surroundings = environment(chosen)
        write_page(html, model_page(loaded, findings, statement=title, environment=surroundings, training=training))
    return exit_code(findings)
