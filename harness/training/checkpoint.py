"""Checkpoints: after each epoch, everything that the rest of the run depends on.

A run resumed from one ends with the same bits as a run that was never stopped.

A file's name carries its epoch and the digest of its content, which makes a damaged file visible without a second file
that could be damaged apart. Its content is plain data (tensors, numbers, text) for `torch.load` with ``weights_only``.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from harness.errors import CheckpointError, InputError
from harness.files import write_whole


class Checkpoints:
    """The checkpoints of one run in one folder: the newest, and the one before as a spare.

    Args:
        folder: where they are; made when it is not there. One run's only.
        run: what identifies the run, as plain data.

    Raises:
        InputError: the folder cannot be made.
    """

    def __init__(self, folder: Path, *, run: dict[str, Any]) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            msg = f"expected a folder for checkpoints, got {str(folder)!r}, which cannot be made: {problem.strerror}."
            raise InputError(msg) from problem
        self._folder = folder
        self._run = run
        self._newest: Path | None = None

    def save(self, epoch: int, state: dict[str, Any]) -> None:
        """Write the state after ``epoch``; only then is the last but one removed.

        Raises:
            InputError: it cannot be written; the earlier ones are untouched.
        """
        buffer = io.BytesIO()
        torch.save({"run": self._run, **state}, buffer)
        content = buffer.getvalue()
        path = self._folder / f"epoch-{epoch:04d}-{_digest(content)}.pt"
        write_whole(path, content)
        for old in self._all():
            if old not in (path, self._newest):
                old.unlink()
        self._newest = path

    def load(self, *, warn: Callable[[str], None]) -> dict[str, Any] | None:
        """The newest whole state, on the CPU; None if there is none.

        Damaged files are named to ``warn`` and passed over.

        Raises:
            CheckpointError: the folder holds the checkpoints of another run.
        """
        for path in reversed(self._all()):
            content = path.read_bytes()
            if not path.stem.endswith(_digest(content)):
                warn(f"checkpoint {path} is damaged (its content is not what its name says) and is passed over.")
                continue
            state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            run = state.pop("run")
            differing = [key for key in sorted(self._run.keys() | run.keys()) if run.get(key) != self._run.get(key)]
            if differing:
                found = "; ".join(f"{key}={run.get(key)!r} instead of {self._run.get(key)!r}" for key in differing)
                msg = (
                    f"expected a checkpoint of this run, got path={str(path)!r} of another one: {found}. "
                    "Name another folder (--out), or start over (--fresh), which removes it."
                )
                raise CheckpointError(msg)
            self._newest = path
            return state
        return None

    def clear(self) -> None:
        """Remove the checkpoints in the folder, whichever run's they are."""
        for path in self._all():
            path.unlink()

    def _all(self) -> list[Path]:
        return sorted(self._folder.glob("epoch-*-*.pt"))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
