"""Checkpoints: the complete training state, saved after each epoch.

A run that is resumed from a checkpoint ends with the same bits as an uninterrupted run.

The name of a checkpoint file contains the epoch and the digest of the file's content, so that a damaged file is
detected. The content is plain data (tensors, numbers, strings), read by `torch.load` with ``weights_only``.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from harness.errors import CheckpointError
from harness.files import make_folder, write_whole

# Other files in the folder are not touched.
_NAME = re.compile(r"epoch-\d{4,}-[0-9a-f]{16}\.pt")


class Checkpoints:
    """Saves and restores the checkpoints of one run; the newest two are kept.

    ``folder`` belongs to this run alone. ``run`` identifies the run: plain data that are saved in each checkpoint and
    compared when a checkpoint is restored.

    Raises:
        InputError: the folder cannot be created.
    """

    def __init__(self, folder: Path, *, run: dict[str, Any]) -> None:
        make_folder(folder, option="--out", what="checkpoint folder")
        self._folder = folder
        self._run = run
        self._newest: Path | None = None

    def save(self, epoch: int, state: dict[str, Any]) -> None:
        """Write the training state after ``epoch`` to a new checkpoint, then delete all but the newest two checkpoints.

        Raises:
            InputError: the file cannot be written; the earlier checkpoints are kept.
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

    def restore(self, restore: Callable[[dict[str, Any]], None], *, warn: Callable[[str], None]) -> bool:
        """Load the newest usable checkpoint on the CPU and pass its state to ``restore``; return False if there is none.

        A file that is damaged, or that ``restore`` cannot use, is skipped, and ``warn`` is called with a message about
        the file.

        Raises:
            CheckpointError: the newest readable checkpoint in the folder belongs to another run.
        """
        for path in reversed(self._all()):
            try:
                content = path.read_bytes()
            except OSError as error:
                warn(f"checkpoint {path} cannot be read ({error.strerror}) and is skipped.")
                continue
            if not path.stem.endswith(_digest(content)):
                warn(
                    f"checkpoint {path} is damaged (its content does not match the digest in its name) and is skipped."
                )
                continue
            try:
                state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
                run = dict(state.pop("run"))
            except Exception as error:  # noqa: BLE001 - foreign content can fail in any way
                warn(f"checkpoint {path} is not a checkpoint of this package ({type(error).__name__}) and is skipped.")
                continue
            differing = [
                key for key in sorted(self._run.keys() | run.keys(), key=str) if run.get(key) != self._run.get(key)
            ]
            if differing:
                found = "; ".join(f"{key}={run.get(key)!r} instead of {self._run.get(key)!r}" for key in differing)
                raise CheckpointError(
                    f"expected a checkpoint of this run, got path={str(path)!r} of another run: {found}. "
                    "To resume the other run, repeat the settings that it was started with (OMP_NUM_THREADS sets the number of "
                    "threads). To start a new run, name another folder with --out, or pass --fresh to delete the checkpoints "
                    "in this folder."
                )
            try:
                restore(state)
            except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
                warn(f"checkpoint {path} cannot be restored ({type(error).__name__}) and is skipped.")
                continue
            self._newest = path
            return True
        return False

    def clear(self) -> None:
        """Delete all checkpoints in the folder, including those of other runs."""
        for path in self._all():
            path.unlink()

    def _all(self) -> list[Path]:
        return sorted(path for path in self._folder.iterdir() if _NAME.fullmatch(path.name))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
