"""Training in commands: choice of engine and run folder, progress, and the message after an interruption."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli.console import announce
from harness.cli.progress import SeedsProgress, TrainingProgress
from harness.datasets import DIGITS

if TYPE_CHECKING:
    from harness.data import Dataset
    from harness.graph import CapturedModel
    from harness.sandbox import SandboxRequirement
    from harness.sources import LoadedModel
    from harness.training import Recipe, RunRecord, RunSpec, SeedOutcome, SeedsJob


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The options ``--engine``, ``--out`` and ``--fresh``, which do not change the result of a training."""

    engine: str
    out: str | None
    fresh: bool

    def folder(self, spec: RunSpec, dataset: Dataset, suffix: str) -> Path:
        """Return the folder of the run: the value of ``--out``, or a folder under ``runs/`` named after the run."""
        if self.out:
            return Path(self.out)
        from harness.files import file_name

        recipe, device = spec.recipe, spec.device.partition(":")[0]
        data = f"{dataset.name}-validation{dataset.validation}" if dataset.validation else dataset.name
        return (
            Path("runs")
            / f"{file_name(spec.model)}-{recipe.name}-{recipe.epochs}-{data}-{device}-{spec.engine}-{suffix}"
        )


def spec_for(loaded: LoadedModel, recipe: Recipe, **fields: Any) -> RunSpec:  # noqa: ANN401 - those of `RunSpec.of`
    """Return the spec for training a loaded model, with the layers of the sandbox that confined its code."""
    from harness.training import RunSpec

    return replace(RunSpec.of(loaded.model, recipe, **fields), sandbox=loaded.layers)


def run_training(captured: CapturedModel, dataset: Dataset, spec: RunSpec, options: RunOptions) -> RunRecord:
    """Train one seed, or resume an unfinished run with the same ``spec``; the engine of ``options`` replaces that of ``spec``.

    Raises:
        TrainingInterrupted: the user interrupted the run.
        InputError: the folder cannot be written, or another process trains into it.
    """
    import torch

    from harness.training import RECORD_FILE, TrainingInterrupted, choose_engine, keep_freed_memory, train_into

    keep_freed_memory()
    module = captured.to_module()
    engine, reason = choose_engine(options.engine, module, torch.device(spec.device))
    spec = replace(spec, engine=engine.name)
    folder = options.folder(spec, dataset, f"seed{spec.seed}")
    path = folder / RECORD_FILE
    with TrainingProgress() as progress:
        if reason:
            progress.on_warning(f"the engine is {engine.name}: {reason}")
        try:
            record = train_into(
                folder, module, spec, dataset, engine=engine, resume=not options.fresh, observer=progress
            )
        except TrainingInterrupted:
            again = "run the same command again" + (" without --fresh" if options.fresh else "")
            announce(f"record of the finished epochs: {path}; {again} to resume")
            raise
    announce(f"record: {path}")
    return record


def with_engine(captured: CapturedModel, spec: RunSpec, choice: str) -> tuple[RunSpec, str]:
    """Return the spec with the engine that ``choice`` selects and, if ``auto`` could not choose the fast engine, the reason."""
    import torch

    from harness.training import choose_engine

    engine, reason = choose_engine(choice, captured.to_module(), torch.device(spec.device))
    return replace(spec, engine=engine.name), reason


def seeds_job(spec: RunSpec, dataset: Dataset, data: str, **options: Any) -> SeedsJob:  # noqa: ANN401 - as documented
    """Return the job for each seed's process; the job loads the model of ``spec`` and the data set again.

    ``options`` are additional arguments of `harness.sources.load`.
    """
    from harness.data import load_dataset
    from harness.sources import load_model
    from harness.training import SeedsJob

    # If the digits replaced MNIST in this process, every process loads the digits.
    choice = DIGITS if dataset.name == DIGITS else data
    return SeedsJob(
        load_model=functools.partial(load_model, spec.source, arguments=spec.arguments, **options),
        load_data=functools.partial(load_dataset, choice, validation=dataset.validation),
        spec=spec,
    )


def run_seeds(
    captured: CapturedModel,
    dataset: Dataset,
    spec: RunSpec,
    options: RunOptions,
    *,
    seeds: Sequence[int],
    jobs: int,
    data: str,
    sandbox: SandboxRequirement,
) -> tuple[RunSpec, tuple[SeedOutcome, ...]]:
    """Train many seeds; seeds that an earlier call has finished are not trained again.

    Args:
        captured: the model, with the initial weights of one seed.
        dataset: the data set, as loaded in this process.
        spec: the description of the runs; seed and engine are replaced for each run.
        options: engine, folder, and whether to start over instead of resuming.
        seeds: the seeds to train.
        jobs: number of seeds to train at the same time, if the device and the engine can.
        data: the value of ``--data``, from which each process loads the data set.
        sandbox: what must hold before code of the model runs.

    Returns:
        The description of the runs with the engine used, and the outcome of each seed.

    Raises:
        SeedsInterrupted: the user interrupted the training.
        InputError: the folder cannot be written, or another process trains into it.
    """
    from harness.training import opened, seeds_at_once, train_seeds

    spec, reason = with_engine(captured, spec, options.engine)
    folder = options.folder(spec, dataset, "seeds")
    job = seeds_job(spec, dataset, data, sandbox=sandbox)
    jobs = seeds_at_once(spec, jobs)
    announce(
        f"{captured.name}: {len(seeds)} seeds into {folder} on {spec.device}, {min(jobs, len(seeds))} at a time, "
        f"engine {spec.engine}"
    )
    with opened(folder), SeedsProgress(len(seeds)) as progress:
        if reason:
            progress.on_warning(f"the engine is {spec.engine}: {reason}")
        return spec, train_seeds(job, seeds, folder, processes=jobs, observer=progress, fresh=options.fresh)


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
