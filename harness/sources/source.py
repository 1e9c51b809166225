"""What a MODEL argument names: a shipped model, a file, a notebook, a folder, or a class in one of these or in a package."""

from __future__ import annotations

import difflib
import os
import shlex
from dataclasses import dataclass, replace
from pathlib import Path

import mnist_models
from harness.errors import ModelSourceError
from harness.graph import CapturedModel
from harness.sources.cells import NOTEBOOK_SUFFIX
from harness.sources.folder import find_model_files

# Importing torch and capturing a model take some six seconds: more files than these exceed the time limit of loading.
_MAX_FILES = 12


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """What a MODEL argument names; plain data, so that it can be sent to a worker process.

    Args:
        text: as the user wrote it; for one file of several, how it can be typed, without the class.
        shipped: the shipped model's name, or None.
        path: absolute path of the file or the folder, or None.
        module: the dotted module, or None.
        class_name: the class; None to take the only one that can be meant.
    """

    text: str
    shipped: str | None = None
    path: str | None = None
    module: str | None = None
    class_name: str | None = None

    @property
    def working_folder(self) -> Path:
        """Where a process that imports the model has to run."""
        return Path(self.path).parent if self.path else Path.cwd()


def parse_source(text: str) -> ModelSource:
    """Read a MODEL argument.

    It is ``name``, ``net.py``, ``net.ipynb``, ``folder``, one of the last three with ``:Class``, or ``package.module:Class``. A
    leading ``~`` is the home folder. A shipped name takes precedence over a folder of that name.

    Raises:
        ModelSourceError: it is none of these, or what it names does not exist.
    """
    if text in mnist_models.list_models():
        return ModelSource(text=text, shipped=text)
    place, separator, class_name = text.rpartition(":")
    # A drive letter's colon is followed by a separator, never by a class name.
    if not separator or not class_name.isidentifier():
        place, class_name = text, ""
    path = Path(place).expanduser()
    is_code = path.suffix in {".py", NOTEBOOK_SUFFIX}
    if place and (path.is_dir() or (is_code and path.is_file())):
        return ModelSource(text=text, path=str(path.resolve()), class_name=class_name or None)
    if is_code or "/" in place or os.sep in place:
        reason = "is not a Python file or notebook" if path.exists() else "does not exist"
        msg = (
            f"model file {place!r} {reason}: expected a Python file (net.py), a notebook (net.ipynb) or a folder that defines "
            "the model, or a class in it, such as net.py:Net"
        )
        raise ModelSourceError(msg)
    if class_name and all(part.isidentifier() for part in place.split(".")):
        return ModelSource(text=text, module=place, class_name=class_name)
    close = difflib.get_close_matches(text, mnist_models.list_models())
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    msg = (
        f"no shipped model is called {text!r}: {hint}Expected a name from `harness list`, a file (net.py, net.ipynb), a folder, "
        "a class in one of these (net.py:Net), or a class in a package (package.module:Net)"
    )
    raise ModelSourceError(msg)


def candidate_files(source: ModelSource) -> list[ModelSource]:
    """The files that a source which is not shipped may mean: several for a folder, else one.

    Raises:
        ModelSourceError: a folder holds none, or too many to load each.
    """
    if source.path is None:
        return [source]
    place, path = source.text.removesuffix(f":{source.class_name}"), Path(source.path)
    if path.is_file():
        return [replace(source, text=place)]
    found = [file.relative_to(path) for file in find_model_files(path, source.class_name)]
    if len(found) > _MAX_FILES:
        listed = ", ".join(shlex.quote(str(Path(place, file))) for file in found[:_MAX_FILES])
        msg = (
            f"the folder {place!r} holds {len(found)} files that define models, more than the {_MAX_FILES} that are loaded: "
            f"name the file or the folder that you mean, such as {listed}"
        )
        raise ModelSourceError(msg)
    return [replace(source, text=str(Path(place, file)), path=str(path / file)) for file in found]


def module_source(text: str, captured: CapturedModel | None, *, arguments: str = "") -> ModelSource:
    """The one file, class or shipped model that `harness.sources.building.module_builder` builds a module from.

    Args:
        text: MODEL, as `load_model` was given it.
        captured: what `load_model` returned, which says which class was chosen; None where it could not be captured.
        arguments: as `load_model` was given them.

    Raises:
        ModelSourceError: nothing was captured, and the folder holds several files that may be meant.
    """
    source = parse_source(captured.name.removesuffix(name_suffix(arguments)) if captured else text)
    if source.shipped is not None:
        return source
    files = candidate_files(source)
    if len(files) > 1:
        listed = ", ".join(file.text for file in files)
        msg = f"the folder {text!r} holds several files that define models: name the one that you mean, out of {listed}"
        raise ModelSourceError(msg)
    return files[0]


def name_suffix(arguments: str) -> str:
    """What the name of a model that is built with arguments ends with."""
    return f"({' '.join(arguments.split())})"
