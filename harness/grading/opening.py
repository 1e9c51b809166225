"""Interim: a submission's folder and its three builds, until `harness.sandbox` and `harness.sources` offer both."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import InputError
from harness.graph import CapturedModel
from harness.sandbox import LayerState, warm_workers
from harness.sources import load_model


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A submission: its folder, name and digest."""

    folder: Path
    name: str
    digest: str
    notes: tuple[str, ...] = ()


@contextlib.contextmanager
def open_submission(path: Path) -> Iterator[Submission]:
    """Yield a submission."""
    if not path.exists():
        raise InputError(f"expected a submission, got {str(path)!r}, which does not exist.")
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(path)}\0".encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    yield Submission(folder=path, name=path.name, digest=digest.hexdigest())


@dataclass(frozen=True, kw_only=True)
class Builds:
    """Models of several builds."""

    models: tuple[CapturedModel, ...]
    layers: tuple[LayerState, ...]
    notes: tuple[str, ...]


def load_builds(text: str, *, seeds: Sequence[int], input_shape: tuple[int, ...], timeout: float) -> Builds:
    """Build the model once per seed."""
    notes: list[str] = []
    with warm_workers():
        models = [
            load_model(text, seed=seed, input_shape=input_shape, timeout=timeout, announce=notes.append)
            for seed in seeds
        ]
    return Builds(models=tuple(models), layers=(), notes=tuple(dict.fromkeys(notes)))
