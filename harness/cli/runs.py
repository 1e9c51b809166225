"""Trainings as a command runs them: folders, progress, what is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli.console import TrainingProgress, announce

if TYPE_CHECKING:
    from harness.data import Dataset
    from harness.graph import CapturedModel
    from harness.training import RunRecord, RunSpec


def run_training(
    captured: CapturedModel, dataset: Dataset, spec: RunSpec, *, engine: str, out: str | None, fresh: bool
) -> tuple[RunRecord, Path]:
    """Train, or resume an unfinished run of the same spec; returns the record and its path.

    Args:
        captured: the model, with its initial weights.
        dataset: the data to train and test on.
        spec: the description of the run; its engine is replaced by the one that ``engine`` stands for.
        engine: name of an engine, or ``auto``.
        out: folder of the run; None for a folder under ``runs/`` that is named after the run.
        fresh: start over instead of resuming.

    Raises:
        TrainingInterrupted: the user interrupted the run.
        InputError: the folder cannot be written, or another process trains into it.
    """
    import torch

    from harness.training import RECORD_FILE, TrainingInterrupted, choose_engine, keep_freed_memory, train_into

    keep_freed_memory()
    module = captured.to_module()
    chosen, reason = choose_engine(engine, module, torch.device(spec.device))
    spec = replace(spec, engine=chosen.name)
    folder = Path(out) if out else run_folder(spec, dataset, f"seed{spec.seed}")
    path = folder / RECORD_FILE
    with TrainingProgress() as progress:
        if reason:
            progress.on_warning(f"the engine {chosen.name} is used: {reason}")
        try:
            record = train_into(folder, module, spec, dataset, engine=chosen, resume=not fresh, observer=progress)
        except TrainingInterrupted:
            announce(f"record so far: {path}; run the same command again to resume")
            raise
    return record, path


def run_folder(spec: RunSpec, dataset: Dataset, suffix: str) -> Path:
    """The default folder of a run."""
    plain = "".join(character if character.isalnum() or character in "-_" else "-" for character in spec.model)
    device = spec.device.partition(":")[0]
    return (
        Path("runs") / f"{plain}-{spec.recipe.name}-{spec.recipe.epochs}-{dataset.name}-{device}-{spec.engine}-{suffix}"
    )
