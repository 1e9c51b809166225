"""Parsing a MODEL argument: a shipped model, a file, a notebook, a folder, or a class in these or in a package."""

from __future__ import annotations

import contextlib
import difflib
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import mnist_models
from harness.errors import ModelSourceError, one_a_line
from harness.files import expanded
from harness.graph import CapturedModel
from harness.sources.cells import NOTEBOOK_SUFFIX, read_cells
from harness.sources.definitions import base_names, bases_in_text, models_among

# Importing torch and capturing a model take some six seconds for each file.
_MAX_FILES = 12
# Environments, caches and build folders hold code that is not the user's. Hidden folders are left out, too.
_SKIPPED_FOLDERS = frozenset({"__pycache__", "build", "dist", "env", "node_modules", "site-packages", "venv"})
_MAX_ENTRIES = 20_000
# The syntax tree of a text takes up to a thousand times its size and, for each megabyte, ten seconds. Larger texts are searched.
_MAX_BYTES, _MAX_PARSED_TEXT, _MAX_PARSED_TEXTS = 16 * 2**20, 2**17, 2**21


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """A parsed MODEL argument, as plain data that can be sent to a worker process.

    ``text`` is the argument as the user wrote it or, for a file found in a folder, that file's path. Exactly one of
    ``shipped`` (a name), ``path`` (absolute, of a file or folder) and ``module`` (a dotted name) is set. ``class_name``
    is None if the user named no class. For a file found in a folder, ``root`` is that folder.
    """

    text: str
    shipped: str | None = None
    path: str | None = None
    module: str | None = None
    class_name: str | None = None
    root: str | None = None

    @property
    def working_folder(self) -> Path:
        """The working directory of a process that imports the model."""
        return Path(self.path).parent if self.path else Path.cwd()


def parse_source(text: str) -> ModelSource:
    """Parse a MODEL argument.

    The argument is ``name``, ``net.py``, ``net.ipynb``, ``folder``, one of the last three with ``:Class``, or
    ``package.module:Class``. A leading ``~`` is the home folder. The name of a shipped model takes precedence over a
    folder of that name.

    Raises:
        ModelSourceError: the argument has none of these forms, or names something that does not exist.
    """
    if text in mnist_models.list_models():
        return ModelSource(text=text, shipped=text)
    place, separator, class_name = text.rpartition(":")
    # A drive letter's colon is followed by a separator, never by a class name. The name of a file may have a colon.
    if not separator or not class_name.isidentifier() or os.path.lexists(expanded(text)):
        place, class_name = text, ""
    path = expanded(place)
    is_code = path.suffix in {".py", NOTEBOOK_SUFFIX}
    if place and (path.is_dir() or (is_code and path.is_file())):
        if any("\ud800" <= character <= "\udfff" for character in str(path.resolve())):
            msg = f"expected a path in UTF-8, which PyTorch needs to capture code, got {place!r}. Rename the file or folder"
            raise ModelSourceError(msg)
        return ModelSource(text=text, path=str(path.resolve()), class_name=class_name or None)
    if is_code or "/" in place or os.sep in place:
        reason = "is not a Python file or notebook" if path.exists() else "does not exist"
        raise ModelSourceError(
            f"model file {place!r} {reason}: expected a Python file (net.py), a notebook (net.ipynb) or a folder that defines "
            "the model, or a class in one of these, such as net.py:Net"
        )
    if class_name and all(part.isidentifier() for part in place.split(".")):
        return ModelSource(text=text, module=place, class_name=class_name)
    close = difflib.get_close_matches(text, mnist_models.list_models())
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    raise ModelSourceError(
        f"no shipped model is called {text!r}: {hint}Expected a name from `harness list`, a file (net.py, net.ipynb), a folder, "
        "a class in one of these (net.py:Net), or a class in a package (package.module:Net)"
    )


def candidate_files(source: ModelSource) -> list[ModelSource]:
    """Return the files that may define the model of a source: several for a folder, else one.

    The source must not be a shipped model.

    Raises:
        ModelSourceError: a folder holds no such file, or too many to load.
    """
    if source.path is None:
        return [source]
    place, path = source.text.removesuffix(f":{source.class_name}"), Path(source.path)
    if path.is_file():
        return [replace(source, text=place)]
    found = [file.relative_to(path) for file in find_model_files(path, source.class_name)]
    if len(found) > _MAX_FILES:
        listed = one_a_line(shlex.quote(str(Path(place, file))) for file in found[:_MAX_FILES])
        raise ModelSourceError(
            f"the folder {place!r} holds {len(found)} files that define models, more than the {_MAX_FILES} that are loaded: "
            f"name the file or the folder that you mean, such as one of these:{listed}"
        )
    return [replace(source, text=str(Path(place, file)), path=str(path / file), root=str(path)) for file in found]


def find_model_files(folder: Path, class_name: str | None = None) -> tuple[Path, ...]:
    """Return the Python files and notebooks under a folder that define a class derived from ``torch.nn.Module``, sorted.

    Sub-folders are included; links to folders are not followed. With a class name, only files that define this class
    are returned. The files are parsed, not run; if one cannot be parsed, or is large, its class headers are matched as text.
    Test files are returned only if no other file defines a model.

    Raises:
        ModelSourceError: there is no such file, or the folder holds more than 20,000 entries.
    """
    bases: dict[Path, dict[str, frozenset[str]]] = {}
    unparsed = _MAX_PARSED_TEXTS
    for path in _code_files(folder):
        found, parsed = _bases(path, most=min(unparsed, _MAX_PARSED_TEXT))
        unparsed -= parsed
        if found:
            bases[path] = found
    # A class may derive from a model of another file.
    models = models_among({name: parents for found in bases.values() for name, parents in found.items()})
    wanted = {class_name} if class_name else models
    files = tuple(path for path, found in bases.items() if found.keys() & models & wanted)
    if not files:
        sought = f"{class_name!r} that derives" if class_name else "that derives"
        raise ModelSourceError(
            f"the folder {str(folder)!r} holds no model: expected a Python file or a notebook with a class {sought} from "
            "torch.nn.Module, in the folder or in a sub-folder. If there is such a class, name its file"
        )
    return tuple(path for path in files if not _is_test(path.relative_to(folder))) or files


def _code_files(folder: Path) -> Iterator[Path]:
    entries = 0
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not _is_skipped(Path(place, name)))
        entries += len(folders) + len(files)
        if entries > _MAX_ENTRIES:
            raise ModelSourceError(
                f"the folder {str(folder)!r} holds more than {_MAX_ENTRIES:,} files: expected a project with a model in it. "
                "Name the model's own folder or file"
            )
        for name in sorted(files):
            path = Path(place, name)
            if path.suffix in {".py", NOTEBOOK_SUFFIX} and not name.startswith(".") and path.is_file():
                yield path


def _is_skipped(folder: Path) -> bool:
    return folder.name.startswith(".") or folder.name in _SKIPPED_FOLDERS or (folder / "pyvenv.cfg").exists()


def _is_test(path: Path) -> bool:
    return path.name.startswith("test_") or path.stem.endswith("_test") or "tests" in path.parts[:-1]


def _bases(path: Path, *, most: int) -> tuple[dict[str, frozenset[str]], int]:
    """Return the classes of a file with the names of their bases, and how many characters were parsed, ``most`` at the most."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            return {}, 0
        cells = read_cells(path)
        length = sum(len(cell.source) for cell in cells)
        if length > most:
            return bases_in_text("\n".join(cell.source for cell in cells)), 0
        return base_names(cells), length
    except ModelSourceError:
        # Text in another encoding: if it defines a model, loading the file says what is wrong with it.
        with contextlib.suppress(OSError):
            return bases_in_text(path.read_bytes().replace(b"\0", b"").decode("latin-1")), 0
    except OSError:
        pass
    return {}, 0


def module_source(text: str, captured: CapturedModel | None, *, arguments: str = "") -> ModelSource:
    """Resolve a MODEL argument to the file, class or shipped model that `harness.sources.building.module_builder` needs.

    ``text`` and ``arguments`` are those given to `load_model`; ``captured`` is the model that `load_model` returned, if
    any, and names the chosen class.

    Raises:
        ModelSourceError: ``captured`` is None, and the folder holds several files that define models.
    """
    source = parse_source(captured.name.removesuffix(name_suffix(arguments)) if captured else text)
    if source.shipped is not None:
        return source
    files = candidate_files(source)
    if len(files) > 1:
        listed = one_a_line(shlex.quote(file.text) for file in files)
        raise ModelSourceError(
            f"the folder {text!r} holds several files that define models. Name one of these:{listed}"
        )
    return files[0]


def name_suffix(arguments: str) -> str:
    """Return the suffix, such as ``(width=16)``, for the name of a model built with constructor arguments."""
    return f"({' '.join(arguments.split())})"
