"""`harness repro`: is a training reproducible, and if not, on which axis and why."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from harness.cli.console import announce, exit_code, results, write_json
from harness.cli.options import (
    DEFAULT_SEED,
    dataset_for,
    debug_option,
    json_option,
    model_argument,
    recipe_for,
)
from harness.findings import overall


@click.command()
@model_argument
@click.option(
    "--steps",
    default=50,
    show_default=True,
    type=click.IntRange(min=2),
    help="Steps of each training, rounded up to whole epochs of ten.",
)
@click.option(
    "--recipe",
    "recipe_name",
    metavar="NAME|FILE",
    help="A shipped model's recipe or a TOML file. Default: the model's own if shipped, the reference recipe otherwise.",
)
@click.option(
    "--procedure",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A Python file with a loader, batches(seed, epoch), an evaluation, evaluate(module, images, labels), or both.",
)
@click.option(
    "--seed",
    default=DEFAULT_SEED,
    show_default=True,
    type=click.IntRange(min=0, max=2**63 - 1),
    help="Seed of the trainings; a few steps are made with others.",
)
@click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda|mps", help="Where to train.")
@click.option(
    "--data",
    default="digits",
    show_default=True,
    metavar="NAME|PATH",
    help="What to train on: a few images of it are enough.",
)
@click.option("--evidence", is_flag=True, help="Show the evidence of what holds, too.")
@json_option
@debug_option
@click.pass_context
def repro(
    ctx: click.Context,
    model: str,
    arguments: str,
    steps: int,
    recipe_name: str | None,
    procedure: Path | None,
    seed: int,
    device: str,
    data: str,
    json_path: str | None,
    *,
    evidence: bool,
) -> None:
    """Show whether a training is reproducible, and on which axis it is not.

    The model itself, not its captured graph, is trained again and again for a few steps, with one thing changed each
    time, and every step is compared bit for bit.
    """
    from harness.determinism import check_determinism
    from harness.errors import CaptureError
    from harness.reporting import document, findings_content, findings_table, verdict_line
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
        spec,
        dataset,
        steps=steps,
        captured=captured,
        why_not_captured=why_not,
        hooks_file=procedure,
        announce=announce,
    )
    words = f"{name}, recipe {recipe.name}, seed {seed}, {dataset.title}, on {chosen}"
    if json_path != "-":
        console = results()
        console.print(f"{words}: trainings of {report.steps} steps in {report.epochs} epochs")
        console.print(findings_table(report.findings, evidence=evidence))
        console.print(verdict_line(overall(report.findings), f"{name} on {chosen}, in {report.seconds:.0f} s"))
    content = {
        "model": name,
        "recipe": recipe.name,
        "procedure": procedure and str(procedure),
        "seed": seed,
        "device": str(chosen),
        "data": {"name": dataset.name, "title": dataset.title, "digest": dataset.digest},
        "steps": report.steps,
        "epochs": report.epochs,
        "images": report.images,
        "environment": dataclasses.asdict(environment(chosen)),
        "seconds": report.seconds,
        **findings_content(report.findings),
    }
    write_json(json_path, document("repro", content))
    ctx.exit(exit_code(report.findings))
