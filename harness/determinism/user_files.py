"""The user's files in a worker process: imported again when needed, and distinguished from libraries."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

from harness.determinism.model_under_test import ImportedModel
from harness.determinism.training_hooks import load_training_hooks
from harness.errors import HarnessError, InputError
from harness.sources.building import module_builder
from harness.sources.source import ModelSource
from harness.training import TrainingHooks

# Modules in these folders are libraries, which cannot be imported a second time.
_LIBRARY_FOLDERS = {"site-packages", "dist-packages"}
_HARNESS_FOLDER = Path(__file__).parents[1]
_STANDARD_LIBRARY_FOLDER = Path(os.__file__).parent


class UserFiles:
    """The files of a model and of its training hooks.

    Args:
        source: the model.
        arguments: arguments of its constructor.
        hooks_file: the file of the training hooks, or None.
    """

    def __init__(self, source: ModelSource, arguments: str, hooks_file: Path | None) -> None:
        self._source = source
        self._arguments = arguments
        self._hooks_file = hooks_file
        self._path = [*sys.path]
        self._before = set(sys.modules)

    def load(self) -> ImportedModel:
        """Import the files, again at each call.

        Raises:
            InputError: one of them cannot be imported.
        """
        self.forget()
        build = module_builder(self._source, self._arguments)
        hooks = load_training_hooks(self._hooks_file) if self._hooks_file else TrainingHooks()
        return ImportedModel(build=build, hooks=hooks)

    def forget(self) -> None:
        """Remove the user's modules from this process, so that the next import runs them again."""
        sys.path[:] = self._path
        for name in set(sys.modules) - self._before:
            if is_user_file(getattr(sys.modules[name], "__file__", None)):
                del sys.modules[name]


def is_user_file(file: str | None) -> bool:
    """Whether a file is Python code of the user's own: not a library's and not the harness's."""
    if not file or not file.endswith((".py", ".ipynb")):
        return False
    path = Path(file)
    own = any(path.is_relative_to(folder) for folder in (_HARNESS_FOLDER, _STANDARD_LIBRARY_FOLDER))
    return not own and not _LIBRARY_FOLDERS & set(path.parts)


def explained_error(error: Exception, text: str) -> Exception:
    """The error to report for one that ended a training.

    An error that a harness module raised, on purpose or not, is returned as it is. Any other is the user's: it becomes an
    `InputError` with the line of the user's file.
    """
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, HarnessError) or Path(frames[-1].filename).is_relative_to(_HARNESS_FOLDER):
        return error
    lines = [f"line {frame.lineno} of {Path(frame.filename).name}" for frame in frames if is_user_file(frame.filename)]
    where = f" in {lines[-1]}" if lines else ""
    msg = (
        f"{text} failed{where} during a training: {type(error).__name__}: {error}. Expected a model that completes "
        "all steps. Correct it and try again."
    )
    return InputError(msg)
