"""`harness train`: trains a model with one seed, or with each of many seeds, and writes a run record for each seed."""

from __future__ import annotations

import dataclasses
import statistics
from typing import TYPE_CHECKING, Any

import click

from harness.cli.console import Output
from harness.cli.inputs import dataset_for, model_for, recipe_for
from harness.cli.options import (
    MAX_THREADS,
    data_option,
    model_argument,
    report_options,
    sandbox_option,
    training_options,
)
from harness.cli.runs import RunOptions, cores, run_seeds, run_training, spec_for

if TYPE_CHECKING:
    from rich.table import Table

    from harness.sandbox import SandboxRequirement
    from harness.training import RunRecord, SeedOutcome

_MOST_SEEDS = 10_000
# Default number of seeds to train at a time on a CUDA device, as branches of one CUDA graph. More seeds need more memory and
# hardly increase the speed.
_BRANCHES = 32


def _parse_seeds(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """Parse seeds such as ``0-31`` or ``1,5,8-11``: numbers, and ranges that include both ends."""
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
                f"expected ascending ranges of at most {_MOST_SEEDS:,} seeds, got {part.strip()!r}. Write the "
                "smallest seed first"
            )
        seeds += range(smallest, largest + 1)
    if len(set(seeds)) < len(seeds):
        raise click.BadParameter(f"expected distinct seeds, got {value!r}. Name each seed only once")
    return tuple(seeds)


@click.command()
@model_argument
@training_options
@click.option(
    "--seeds",
    callback=_parse_seeds,
    metavar="0-31|1,5,...",
    help="Train each of these seeds, --jobs at a time: on a CPU in processes with one thread each, on a CUDA device with "
    "--engine graph as branches of one CUDA graph. Other engines train one seed at a time on a CUDA device.",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    help=f"Number of seeds to train at a time, with --seeds. Default: one per core; {_BRANCHES} with --engine "
    "graph on a CUDA device.",
)
@click.option(
    "--threads",
    type=click.IntRange(min=1, max=MAX_THREADS),
    metavar="N",
    help="Number of CPU threads, on which the last bits of the results depend. Default: one per core; always 1 with --seeds.",
)
@click.option("--epochs", type=click.IntRange(min=1), help="Number of epochs to train for, instead of the recipe's.")
@click.option(
    "--validation",
    default=0,
    type=click.IntRange(min=0),
    metavar="N",
    help="Exclude N training images from the training and test on these images instead of the test images, to choose between "
    "models and recipes without the test set. No contract is checked on such a run.",
)
@click.option(
    "--digest-every",
    default=100,
    show_default=True,
    type=click.IntRange(min=1),
    metavar="N",
    help="Record a digest of the training state every N steps; `harness bisect` compares the digests of two runs.",
)
@data_option
@sandbox_option("none")
@report_options
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
    validation: int,
    digest_every: int,
    data: str,
    out: str | None,
    sandbox: SandboxRequirement,
    output: Output,
    *,
    fresh: bool,
) -> int:
    """Train a model and write a run record with the results of every epoch.

    Running the same command again resumes an interrupted run after its last complete epoch; with --seeds, only the
    seeds that are not finished are trained.
    """
    import torch

    from harness.training import resolve_device

    recipe = recipe_for(model, recipe_name)
    if epochs is not None:
        recipe = recipe.with_epochs(epochs)
    if seeds is not None:
        _check_seeds_options(ctx, device, threads)
    elif jobs:
        raise click.UsageError("expected --seeds together with --jobs, got --jobs alone. Add --seeds, or omit --jobs")
    chosen = resolve_device(device)
    if seeds is None and threads:
        torch.set_num_threads(threads)
    elif seeds is not None and chosen.type != "cuda":
        chosen = torch.device("cpu")
    first = seeds[0] if seeds else seed
    # A model or data set that cannot be loaded is reported once, before any seed's process starts.
    loaded = model_for(model, seed=first, arguments=arguments, sandbox=sandbox)
    captured = loaded.model
    captured.require_trainable()
    dataset = dataset_for(data, validation=validation)
    spec = spec_for(
        loaded, recipe, seed=first, device=chosen, source=model, arguments=arguments, digest_every=digest_every
    )
    options = RunOptions(engine=engine, out=out, fresh=fresh)
    if seeds is None:
        record = run_training(captured, dataset, spec, options)
        output.print(_run_summary(record))
        output.write_document(record.to_json())
        return 1 if record.status == "diverged" else 0
    jobs = jobs or (_BRANCHES if chosen.type == "cuda" else cores())
    spec, outcomes = run_seeds(captured, dataset, spec, options, seeds=seeds, jobs=jobs, data=data, sandbox=sandbox)
    output.print(_seeds_table(outcomes), _seeds_summary(outcomes))
    content = {
        "model": captured.name,
        "sandbox": [dataclasses.asdict(one) for one in loaded.layers],
        "recipe": recipe.name,
        "engine": spec.engine,
        "data": dataset.to_json(),
        "seeds": [_seed_json(outcome) for outcome in outcomes],
    }
    output.write("train-seeds", content)
    if any(outcome.record and outcome.record.status == "diverged" for outcome in outcomes):
        return 1
    return 3 if any(outcome.problem for outcome in outcomes) else 0


def _check_seeds_options(ctx: click.Context, device: str, threads: int | None) -> None:
    """Refuse the options that cannot be combined with ``--seeds``."""
    if ctx.get_parameter_source("seed") is not click.core.ParameterSource.DEFAULT:
        raise click.UsageError("expected --seed or --seeds, got both. Use only one of the two options")
    if threads not in (None, 1):
        raise click.UsageError(f"expected one thread per seed with --seeds, got --threads {threads}. Omit --threads")
    if device == "mps":
        raise click.UsageError("expected --device cpu or cuda with --seeds, got --device mps. Choose another device")


def _run_summary(record: RunRecord) -> str:
    summary = f"{record.model}, recipe {record.recipe.name}, seed {record.seed}, {record.data_title}: {record.status}"
    if record.epochs:
        last, best = record.epochs[-1], max(epoch.test_correct for epoch in record.epochs)
        summary += f" after epoch {last.epoch}; last {last.test_correct:,}, best {best:,} of {last.test_total:,}"
    return summary


def _seeds_table(outcomes: tuple[SeedOutcome, ...]) -> Table:
    from harness.reporting import plain_table

    rows = []
    for outcome in outcomes:
        if (record := outcome.record) is None:
            rows.append((str(outcome.seed), f"not finished: {outcome.problem}", "", "", ""))
            continue
        counts = [epoch.test_correct for epoch in record.epochs]
        last, best = (f"{counts[-1]:,}", f"{max(counts):,}") if counts else ("", "")
        rows.append((str(outcome.seed), record.status, last, best, f"{record.wall_seconds:.0f}"))
    return plain_table(("seed", "status", "last epoch", "best epoch", "seconds"), rows, right=(0, 2, 3, 4))


def _seeds_summary(outcomes: tuple[SeedOutcome, ...]) -> str:
    complete = [outcome.record for outcome in outcomes if outcome.record and outcome.record.status == "complete"]
    summary = f"{len(complete)} of {len(outcomes)} seeds complete"
    if len(complete) < len(outcomes):
        summary += "; when their problems are solved, the same command trains the others"
    if not complete:
        return summary
    counts = [record.epochs[-1].test_correct for record in complete]
    spread = f", standard deviation {statistics.stdev(counts):.1f}" if len(counts) > 1 else ""
    return (
        f"{summary}; last epoch: mean {statistics.fmean(counts):,.1f}{spread}, lowest {min(counts):,}, "
        f"highest {max(counts):,} of {complete[0].epochs[-1].test_total:,}, {complete[0].data_title}"
    )


def _seed_json(outcome: SeedOutcome) -> dict[str, Any]:
    record = outcome.record
    return {
        "seed": outcome.seed,
        "folder": str(outcome.folder),
        "status": record.status if record else "unfinished",
        "problem": outcome.problem,
        "test_correct": [epoch.test_correct for epoch in record.epochs] if record else [],
        "state_digest": record.state_digest if record else None,
    }
