"""`harness repro`: checks whether a training is reproducible and, if not, which change makes the results differ and why."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from harness.cli.console import Output, announce, exit_code
from harness.cli.inputs import dataset_for, recipe_for
from harness.cli.options import (
    device_option,
    evidence_option,
    html_option,
    model_argument,
    recipe_option,
    report_options,
    seed_option,
)
from harness.cli.pages import write_page
from harness.datasets import DIGITS
from harness.findings import overall


@click.command()
@model_argument
@click.option(
    "--steps",
    default=50,
    show_default=True,
    type=click.IntRange(min=2),
    help="Steps of each training, rounded up to whole epochs of ten steps.",
)
@recipe_option
@click.option(
    "--procedure",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Python file that defines a data loader, batches(seed, epoch), an evaluation, evaluate(module, images, labels), or "
    "both.",
)
@seed_option("Seed of the trainings; the check with other seeds derives the other seeds from this seed.")
@device_option("Device to train on.")
@click.option(
    "--data",
    default=DIGITS,
    show_default=True,
    metavar="NAME|PATH",
    help="Data set to train on, as for `harness train`; a few of its images are used.",
)
@evidence_option
@html_option
@report_options
def repro(
    model: str,
    arguments: str,
    steps: int,
    recipe_name: str | None,
    procedure: Path | None,
    seed: int,
    device: str,
    data: str,
    html: Path | None,
    output: Output,
    *,
    evidence: bool,
) -> int:
    """Check whether a training is reproducible and, if not, which change makes the results differ.

    The model itself, not its captured graph, is trained repeatedly for a few steps. Each repetition changes one thing,
    such as the process, and is compared with the first training bit for bit after every step.
    """
    from harness.determinism import check_determinism
    from harness.errors import CaptureError
    from harness.reporting import findings_content, findings_table, verdict_line
    from harness.sources import load_model, parse_source
    from harness.training import DIGEST_EVERY, RunSpec, environment, resolve_device

    parse_source(model)
    recipe = recipe_for(model, recipe_name)
    chosen = resolve_device(device)
    dataset = dataset_for(data)
    captured, why_not = None, ""
    try:
        captured = load_model(model, seed=seed, arguments=arguments, announce=announce)
    except CaptureError as error:
        why_not = str(error)
        announce(f"{why_not}. The determinism check continues without the graph")
    name = captured.name if captured else model
    spec = RunSpec(
        model=name,
        source=model,
        arguments=arguments,
        graph_digest=captured.graph.exact_digest() if captured else "",
        recipe=recipe,
        seed=seed,
        engine="eager",
        device=str(chosen),
        digest_every=DIGEST_EVERY,
    )
    report = check_determinism(
        spec, dataset, steps=steps, captured=captured, why_not_captured=why_not, hooks_file=procedure, announce=announce
    )
    status, surroundings = overall(report.findings), environment(chosen)
    held = "; ".join(f"{one.layer}: {one.detail}" for one in report.layers) or "none of the layers"
    announce(f"sandbox of the trainings: {held}")
    title = f"{name}, recipe {recipe.name}, seed {seed}, {dataset.title}, on {chosen}"
    output.print(
        f"{title}: trainings of {report.steps} steps in {report.epochs} epochs",
        findings_table(report.findings, evidence=evidence),
        verdict_line(status, f"{name} on {chosen}, in {report.seconds:.0f} s"),
    )
    content = {
        "model": name,
        "sandbox": [dataclasses.asdict(one) for one in report.layers],
        "recipe": recipe.name,
        "procedure": procedure and str(procedure),
        "seed": seed,
        "device": str(chosen),
        "data": dataset.to_json(),
        "steps": report.steps,
        "epochs": report.epochs,
        "images": report.images,
        "environment": dataclasses.asdict(surroundings),
        "seconds": report.seconds,
        **findings_content(report.findings),
    }
    output.write("repro", content)
    if html:
        from harness.grading.writers import environment_section
        from harness.reporting import Findings, Page

        statement = f"{title}: trainings of {report.steps} steps in {report.epochs} epochs"
        sections = (Findings(title="Reproducibility", findings=report.findings), environment_section(surroundings))
        write_page(html, Page(title=name, status=status, statement=statement, sections=sections))
    return exit_code(report.findings)
