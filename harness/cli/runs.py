"""Trainings as a command runs them: folders, progress, what is said."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli.console import TrainingProgress, announce

if TYPE_CHECKING:
    import torch

    from harness.data import Dataset
    from harness.graph import CapturedModel
    from harness.training import Recipe, RunRecord


def run_training(
    captured: CapturedModel,
    recipe: Recipe,
    dataset: Dataset,
    *,
    seed: int,
    device: torch.device,
    engine: str,
    out: str | None,
    fresh: bool,
    source: str,
    arguments: str,
    digest_every: int | None = None,
) -> tuple[RunRecord, Path]:
    """Train, or go on with an unfinished run of the same kind; returns the record and where it was written.

    Raises:
        TrainingInterrupted: the user interrupted it.
        InputError: the folder cannot be written, or another process trains into it.
    """
    from harness.training import (
        DIGEST_EVERY,
        RECORD_FILE,
        TrainingInterrupted,
        choose_engine,
        keep_freed_memory,
        train_into,
    )

    keep_freed_memory()
    module = captured.to_module()
    chosen, reason = choose_engine(engine, module, device)
    folder = Path(out) if out else run_folder(captured.name, recipe, dataset, device, chosen.name, f"seed{seed}")
    path = folder / RECORD_FILE
    with TrainingProgress() as progress:
        if reason:
            progress.on_warning(f"the engine {chosen.name} is used: {reason}")
        try:
            record = train_into(
                folder,
                module,
                recipe,
                dataset,
                seed=seed,
                device=device,
                model_name=captured.name,
                graph_digest=captured.graph.exact_digest(),
                observer=progress,
                resume=not fresh,
                engine=chosen,
                digest_every=digest_every or DIGEST_EVERY,
                source=source,
                arguments=arguments,
            )
        except TrainingInterrupted:
            announce(f"record so far: {path}; the same command goes on from there")
            raise
    return record, path


def run_folder(name: str, recipe: Recipe, dataset: Dataset, device: torch.device, engine: str, which: str) -> Path:
    """Where a run goes that is named no folder."""
    plain = "".join(character if character.isalnum() or character in "-_" else "-" for character in name)
    return Path("runs") / f"{plain}-{recipe.name}-{recipe.epochs}-{dataset.name}-{device.type}-{engine}-{which}"
