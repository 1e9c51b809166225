"""The files of a folder that define models, found by reading them, not by running them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from harness.errors import ModelSourceError
from harness.sources.definitions import NOTEBOOK_SUFFIX, base_names, models_among, parse, read_pieces

# Environments, caches and builds: other people's code. Hidden folders are left out besides.
_FOREIGN = frozenset({"__pycache__", "build", "dist", "env", "node_modules", "site-packages", "venv"})
_MOST_ENTRIES = 20_000
_LARGEST_BYTES = 20_000_000


def find_model_files(folder: Path, class_name: str | None = None) -> tuple[Path, ...]:
    """The Python files and notebooks under a folder that define a class derived from ``torch.nn.Module``, in order of path.

    Tests count only where nothing else does. What cannot be read or parsed defines nothing.

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
            "torch.nn.Module, in it or in a sub-folder. Point at the file itself if it is there"
        )
        raise ModelSourceError(msg)
    return tuple(path for path in files if not _is_test(path.relative_to(folder))) or files


def _code_files(folder: Path) -> Iterator[Path]:
    entries = 0
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if _is_own(Path(place, name)))
        entries += len(folders) + len(files)
        if entries > _MOST_ENTRIES:
            msg = (
                f"the folder {str(folder)!r} holds more than {_MOST_ENTRIES:,} files: expected a project with a model in it. "
                "Point at the model's own folder or file"
            )
            raise ModelSourceError(msg)
        for name in sorted(files):
            path = Path(place, name)
            if path.suffix in {".py", NOTEBOOK_SUFFIX} and not name.startswith(".") and path.is_file():
                yield path


def _is_own(folder: Path) -> bool:
    return not (folder.name.startswith(".") or folder.name in _FOREIGN or (folder / "pyvenv.cfg").exists())


def _is_test(path: Path) -> bool:
    return path.name.startswith("test_") or path.stem.endswith("_test") or "tests" in path.parts[:-1]


def _bases(path: Path) -> dict[str, frozenset[str]]:
    if path.stat().st_size > _LARGEST_BYTES:
        return {}
    found: dict[str, frozenset[str]] = {}
    try:
        pieces = read_pieces(path)
    except ModelSourceError:
        return {}
    for piece in pieces:
        try:
            found |= base_names(parse(piece.source))
        except SyntaxError:
            continue
    return found
