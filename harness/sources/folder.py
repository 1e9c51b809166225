"""The files of a folder that define models, found by parsing them; nothing is run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from harness.errors import ModelSourceError
from harness.sources.cells import NOTEBOOK_SUFFIX, read_cells
from harness.sources.definitions import base_names, models_among

# Environments, caches and builds hold other people's code. Hidden folders are left out, too.
_SKIPPED_FOLDERS = frozenset({"__pycache__", "build", "dist", "env", "node_modules", "site-packages", "venv"})
_MAX_ENTRIES = 20_000
_MAX_BYTES = 20_000_000


def find_model_files(folder: Path, class_name: str | None = None) -> tuple[Path, ...]:
    """The Python files and notebooks under a folder that define a class derived from ``torch.nn.Module``, sorted by path.

    Tests count only if no other file defines one. A file that cannot be read or parsed defines nothing.

    Args:
        folder: where to look, sub-folders included; links to folders are not followed.
        class_name: only files that define this model.

    Raises:
        ModelSourceError: there is no such file, or the folder holds more than 20,000 entries.
    """
    bases = {path: found for path in _code_files(folder) if (found := _bases(path))}
    # A class may derive from a model of another file.
    models = models_among({name: parents for found in bases.values() for name, parents in found.items()})
    wanted = {class_name} if class_name else models
    files = tuple(path for path, found in bases.items() if found.keys() & models & wanted)
    if not files:
        sought = f"{class_name!r} that derives" if class_name else "that derives"
        msg = (
            f"the folder {str(folder)!r} holds no model: expected a Python file or a notebook with a class {sought} from "
            "torch.nn.Module, in it or in a sub-folder. If there is one, name its file"
        )
        raise ModelSourceError(msg)
    return tuple(path for path in files if not _is_test(path.relative_to(folder))) or files


def _code_files(folder: Path) -> Iterator[Path]:
    entries = 0
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not _is_skipped(Path(place, name)))
        entries += len(folders) + len(files)
        if entries > _MAX_ENTRIES:
            msg = (
                f"the folder {str(folder)!r} holds more than {_MAX_ENTRIES:,} files: expected a project with a model in it. "
                "Name the model's own folder or file"
            )
            raise ModelSourceError(msg)
        for name in sorted(files):
            path = Path(place, name)
            if path.suffix in {".py", NOTEBOOK_SUFFIX} and not name.startswith(".") and path.is_file():
                yield path


def _is_skipped(folder: Path) -> bool:
    return folder.name.startswith(".") or folder.name in _SKIPPED_FOLDERS or (folder / "pyvenv.cfg").exists()


def _is_test(path: Path) -> bool:
    return path.name.startswith("test_") or path.stem.endswith("_test") or "tests" in path.parts[:-1]


def _bases(path: Path) -> dict[str, frozenset[str]]:
    try:
        return base_names(read_cells(path)) if path.stat().st_size <= _MAX_BYTES else {}
    except ModelSourceError:
        return {}
