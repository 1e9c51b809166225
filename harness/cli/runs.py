"""One training as a command runs it: folder, checkpoints, progress, record."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli.console import TrainingProgress, announce

if TYPE_CHECKING:
    import torch

    from harness.data import Dataset
    from harness.graph import CapturedModel
    from harness.training import Recipe, RunRecord

RECORD_FILE = "record.json"
WEIGHTS_FILE = "weights.safetensors"
CHECKPOINT_FOLDER = "checkpoints"


def run_training(
    captured: CapturedModel,
    recipe: Recipe,
    dataset: Dataset,
    *,
    seed: int,
    device: torch.device,
    out: str | None,
    fresh: bool,
    source: str,
    arguments: str,
    digest_every: int | None = None,
) -> tuple[RunRecord, Path]:
    """Train, or go on with an unfinished run of the same kind; returns the record and where it was written.

    The weights of a complete run are written beside it. An interrupted run writes its record, too, before the interruption
    goes on.

    Raises:
        TrainingInterrupted: the user interrupted it.
        InputError: the folder cannot be written, or another process trains into it.
    """
    from harness.files import sole_writer
    from harness.training import DIGEST_EVERY, TrainingInterrupted, save_weights, train

    folder = Path(out) if out else _folder(captured.name, recipe, dataset, seed, device)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"expected a folder that can be made, found --out {folder}: {error.strerror}"
        raise click.UsageError(message) from error
    path = folder / RECORD_FILE
    module = captured.to_module()
    with sole_writer(folder), TrainingProgress() as progress:
        try:
            record = train(
                module,
                recipe,
                dataset,
                seed=seed,
                device=device,
                model_name=captured.name,
                graph_digest=captured.graph.exact_digest(),
                observer=progress,
                checkpoint_dir=folder / CHECKPOINT_FOLDER,
                resume=not fresh,
                digest_every=digest_every or DIGEST_EVERY,
                source=source,
                arguments=arguments,
            )
        except TrainingInterrupted as interruption:
            _keep_earlier(path)
            interruption.record.write(path)
            announce(f"record so far: {path}; the same command goes on from there")
            raise
        _keep_earlier(path)
        if record.status == "complete":
            about = {"model": record.model, "graph_digest": record.graph_digest, "state_digest": record.state_digest}
            save_weights(module, folder / WEIGHTS_FILE, about=about)
        record.write(path)
    return record, path


def _keep_earlier(path: Path) -> None:
    """A finished run's record is never written over: it gets the time it was started as part of its name, like its weights."""
    from harness.errors import InputError
    from harness.training import RunRecord

    if not path.exists():
        return
    try:
        earlier = RunRecord.read(path)
    except InputError:
        path.rename(path.with_suffix(".unreadable.json"))
        return
    if earlier.status != "interrupted":
        stamp = "".join(character for character in earlier.started if character.isalnum())
        path.rename(path.with_name(f"record-{stamp}.json"))
        weights = path.with_name(WEIGHTS_FILE)
        if weights.exists():
            weights.rename(weights.with_stem(f"{weights.stem}-{stamp}"))


def _folder(name: str, recipe: Recipe, dataset: Dataset, seed: int, device: torch.device) -> Path:
    plain = "".join(character if character.isalnum() or character in "-_" else "-" for character in name)
    return Path("runs") / f"{plain}-{recipe.name}-{recipe.epochs}-{dataset.name}-{device.type}-seed{seed}"
