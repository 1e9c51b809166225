"""`harness train`: one training, or one for each of many seeds, recorded."""

from __future__ import annotations

import functools
import os
import statistics
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli.console import SeedsProgress, announce, results, write_json
from harness.cli.options import (
    data_option,
    dataset_for,
    debug_option,
    json_option,
    model_argument,
    recipe_for,
    training_options,
)
from harness.cli.runs import run_folder, run_training

if TYPE_CHECKING:
    import torch
    from rich.table import Table

    from harness.training import Recipe, SeedOutcome

_MOST_SEEDS = 10_000
# Branches of a graph: more seeds at a time need more memory and give the device little more to do.
_BRANCHES = 32


def _seeds(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """``0-31`` or ``1,5,8-11``: numbers and ranges with both ends."""
    if value is None:
        return None
    seeds: list[int] = []
    for part in value.split(","):
        first, dash, last = part.strip().partition("-")
        ends = (first, last if dash else first)
        if not all(end.isascii() and end.isdigit() and int(end) < 2**63 for end in ends):
            raise click.BadParameter(f"expected seeds such as 0-31 or 1,5,8-11, from 0 to 2**63 - 1, got {value!r}")
        smallest, largest = map(int, ends)
        if not 0 <= largest - smallest < _MOST_SEEDS:
            raise click.BadParameter(
                f"expected ranges that rise, of at most {_MOST_SEEDS:,} seeds, got {part.strip()!r}"
            )
        seeds += range(smallest, largest + 1)
    if len(set(seeds)) < len(seeds):
        raise click.BadParameter(f"expected each seed once, got {value!r}")
    return tuple(seeds)


@click.command()
@model_argument
@training_options
@click.option(
    "--seeds",
    callback=_seeds,
    metavar="0-31|1,5,...",
    help="Train each of these seeds, as many at a time as --jobs says: on a CPU in processes of one thread, on a CUDA device as "
    "branches of one graph.",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    help=f"With --seeds: how many at a time. Default: one a core; {_BRANCHES} on a CUDA device.",
)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    metavar="N",
    help="Compute with so many threads on the CPU; they decide the last bits. Default: one a core; with --seeds always 1.",
)
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
@click.pass_context
def train(
    ctx: click.Context,
    model: str,
    arguments: str,
    recipe_name: str | None,
    seed: int,
    device: str,
    engine: str,
    seeds: tuple[int, ...] | None,
    jobs: int | None,
    threads: int | None,
    epochs: int | None,
    digest_every: int | None,
    data: str,
    out: str | None,
    json_path: str | None,
    *,
    fresh: bool,
) -> None:
    """Train a model and record every epoch.

    An interrupted run goes on from its last whole epoch when the same command is given again; of many seeds, only those that
    are not finished are trained.
    """
    import torch

    from harness.sources import load_model
    from harness.training import DIGEST_EVERY, RunSpec, resolve_device

    recipe = recipe_for(model, recipe_name)
    if epochs is not None:
        recipe = recipe.with_epochs(epochs)
    if seeds is None and jobs:
        raise click.UsageError("expected --seeds with --jobs, found --jobs alone")
    if seeds is not None:
        _refuse_beside_seeds(ctx, device, threads)
        where = resolve_device(device)
        code = _train_seeds(
            model,
            seeds,
            recipe,
            arguments=arguments,
            data=data,
            engine=engine,
            device=where if where.type == "cuda" else torch.device("cpu"),
            jobs=jobs or (_BRANCHES if where.type == "cuda" else _cores()),
            out=out,
            fresh=fresh,
            json_path=json_path,
            digest_every=digest_every,
        )
        ctx.exit(code)
    chosen = resolve_device(device)
    if threads:
        torch.set_num_threads(threads)
    captured = load_model(model, seed=seed, arguments=arguments, announce=announce)
    spec = RunSpec.of(
        captured,
        recipe,
        seed=seed,
        device=chosen,
        source=model,
        arguments=arguments,
        digest_every=digest_every or DIGEST_EVERY,
    )
    record, path = run_training(captured, dataset_for(data), spec, engine=engine, out=out, fresh=fresh)
    announce(f"record: {path}")
    if json_path != "-":
        words = f"{captured.name}, recipe {recipe.name}, seed {seed}, {record.data_title}: {record.status}"
        if record.epochs:
            last, best = record.epochs[-1], max(record.epochs, key=lambda epoch: epoch.test_correct)
            words += f" after epoch {last.epoch}; last {last.test_correct:,}, best {best.test_correct:,} of {last.test_total:,}"
        results().print(words)
    write_json(json_path, record.to_json())
    if record.status == "diverged":
        ctx.exit(1)


def _refuse_beside_seeds(ctx: click.Context, device: str, threads: int | None) -> None:
    """Say which options mean nothing for many seeds."""
    if ctx.get_parameter_source("seed") is not click.core.ParameterSource.DEFAULT:
        raise click.UsageError("expected --seed or --seeds, found both")
    if threads not in (None, 1):
        raise click.UsageError(f"expected one thread a seed with --seeds, found --threads {threads}")
    if device == "mps":
        raise click.UsageError("expected --device cpu or cuda with --seeds, found --device mps")


def _train_seeds(
    model: str,
    seeds: tuple[int, ...],
    recipe: Recipe,
    *,
    arguments: str,
    data: str,
    engine: str,
    device: torch.device,
    jobs: int,
    out: str | None,
    fresh: bool,
    json_path: str | None,
    digest_every: int | None,
) -> int:
    """Train many seeds and sum them up; returns the exit code."""
    from harness.data import load_dataset
    from harness.reporting import document
    from harness.sources import load_model
    from harness.training import DIGEST_EVERY, RunSpec, SeedsJob, choose_engine, opened, train_seeds

    # Whatever is wrong with the model or the data is told once and first.
    captured = load_model(model, seed=seeds[0], arguments=arguments, announce=announce)
    dataset = dataset_for(data)
    chosen, reason = choose_engine(engine, captured.to_module(), device)
    spec = RunSpec.of(
        captured,
        recipe,
        seed=seeds[0],
        device=device,
        engine=chosen.name,
        source=model,
        arguments=arguments,
        digest_every=digest_every or DIGEST_EVERY,
    )
    folder = Path(out) if out else run_folder(spec, dataset, "seeds")
    job = SeedsJob(
        load_model=functools.partial(load_model, model, arguments=arguments),
        # What stood in for MNIST a moment ago does so for every seed.
        load_data=functools.partial(load_dataset, "digits" if dataset.name == "digits" else data),
        spec=spec,
    )
    announce(
        f"{captured.name}: {len(seeds)} seeds into {folder} on {device}, {min(jobs, len(seeds))} at a time, engine {chosen.name}"
    )
    with opened(folder), SeedsProgress(len(seeds)) as progress:
        if reason:
            progress.warn(f"the engine {chosen.name} is used: {reason}")
        outcomes = train_seeds(job, seeds, folder, processes=jobs, observer=progress, fresh=fresh)
    if json_path != "-":
        results().print(_seeds_table(outcomes))
        results().print(_summary(outcomes))
    content = {
        "model": captured.name,
        "recipe": recipe.name,
        "engine": chosen.name,
        "data": {"name": dataset.name, "title": dataset.title, "digest": dataset.digest},
        "seeds": [_as_json(outcome) for outcome in outcomes],
    }
    write_json(json_path, document("train-seeds", content))
    if any(outcome.record and outcome.record.status == "diverged" for outcome in outcomes):
        return 1
    return 3 if any(outcome.problem for outcome in outcomes) else 0


def _seeds_table(outcomes: tuple[SeedOutcome, ...]) -> Table:
    from rich.table import Table

    table = Table("seed", "status", "last epoch", "best epoch", "seconds")
    for outcome in outcomes:
        record = outcome.record
        if record is None:
            table.add_row(str(outcome.seed), f"not finished: {outcome.problem}", "", "", "")
            continue
        counts = [epoch.test_correct for epoch in record.epochs]
        last, best = (f"{counts[-1]:,}", f"{max(counts):,}") if counts else ("", "")
        table.add_row(str(outcome.seed), record.status, last, best, f"{record.wall_seconds:.0f}")
    return table


def _summary(outcomes: tuple[SeedOutcome, ...]) -> str:
    whole = [outcome.record for outcome in outcomes if outcome.record and outcome.record.status == "complete"]
    words = f"{len(whole)} of {len(outcomes)} seeds complete"
    if len(whole) < len(outcomes):
        words += "; the same command goes on with the others"
    if not whole:
        return words
    counts = [record.epochs[-1].test_correct for record in whole]
    spread = f", standard deviation {statistics.stdev(counts):.1f}" if len(counts) > 1 else ""
    return (
        f"{words}; last epoch: mean {statistics.fmean(counts):,.1f}{spread}, lowest {min(counts):,}, "
        f"highest {max(counts):,} of {whole[0].epochs[-1].test_total:,}, {whole[0].data_title}"
    )


def _as_json(outcome: SeedOutcome) -> dict[str, object]:
    record = outcome.record
    return {
        "seed": outcome.seed,
        "folder": str(outcome.folder),
        "status": record.status if record else "unfinished",
        "problem": outcome.problem,
        "test_correct": [epoch.test_correct for epoch in record.epochs] if record else [],
        "state_digest": record.state_digest if record else None,
    }


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
