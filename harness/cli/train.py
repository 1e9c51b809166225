"""`harness train`: one training, recorded."""

from __future__ import annotations

import click

from harness.cli.console import results, write_json
from harness.cli.options import (
    data_option,
    dataset_for,
    debug_option,
    json_option,
    model_argument,
    recipe_for,
    training_options,
)
from harness.cli.runs import run_training


@click.command()
@model_argument
@training_options
@click.option("--epochs", type=click.IntRange(min=1), help="Train for so many epochs instead of the recipe's.")
@click.option(
    "--digest-every",
    type=click.IntRange(min=1),
    metavar="N",
    help="Put a digest of the run's state on record every N steps, 100 without this: `harness bisect` looks between them.",
)
@data_option
@json_option
@debug_option
def train(
    model: str,
    arguments: str,
    recipe_name: str | None,
    seed: int,
    device: str,
    epochs: int | None,
    digest_every: int | None,
    data: str,
    out: str | None,
    json_path: str | None,
    *,
    fresh: bool,
) -> None:
    """Train a model and record every epoch.

    An interrupted run goes on from its last whole epoch when the same command is given again.
    """
    from harness.cli.console import announce
    from harness.sources import load_model
    from harness.training import resolve_device

    recipe = recipe_for(model, recipe_name)
    if epochs is not None:
        recipe = recipe.with_epochs(epochs)
    chosen = resolve_device(device)
    captured = load_model(model, seed=seed, arguments=arguments, announce=announce)
    record, path = run_training(
        captured,
        recipe,
        dataset_for(data),
        seed=seed,
        device=chosen,
        out=out,
        fresh=fresh,
        source=model,
        arguments=arguments,
        digest_every=digest_every,
    )
    announce(f"record: {path}")
    if json_path != "-":
        words = f"{captured.name}, recipe {recipe.name}, seed {seed}, {record.data_title}: {record.status}"
        if record.epochs:
            last, best = record.epochs[-1], max(record.epochs, key=lambda epoch: epoch.test_correct)
            words += f" after epoch {last.epoch}; last {last.test_correct:,}, best {best.test_correct:,} of {last.test_total:,}"
        results().print(words)
    write_json(json_path, record.to_json())
    if record.status == "diverged":
        click.get_current_context().exit(1)
