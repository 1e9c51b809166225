"""Interim: a submission's folder and its three builds, until `harness.sandbox` and `harness.sources` offer both."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.errors import InputError


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
