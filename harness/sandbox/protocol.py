"""The data that the harness and a worker process exchange: a request, the progress, and a result or an error.

Requests and results are frozen dataclasses of plain data. They are written as JSON files to a folder that belongs to
one process, its workspace; tensors are written there as safetensors. Nothing is pickled. A worker process runs
untrusted code, so its files are validated as untrusted input: regular files only, of limited size, checked against the
types.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import os
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from json import dumps  # bound before a user's file can replace it
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar, cast

from harness.errors import (
    CaptureError,
    ExaminerError,
    HarnessError,
    InputError,
    ModelSourceError,
    SandboxError,
    first_line,
)
from harness.files import read_limited, write_whole
from harness.tables import parse_document, printable, read_table

REQUEST_FILE, PROGRESS_FILE, RESULT_FILE, OUTPUT_FILE = "request.json", "progress.txt", "result.json", "output.txt"
# Parsed, a result needs up to thirty times its size.
MAX_RESULT_BYTES, MAX_MESSAGE_BYTES = 4 * 2**20, 2**16

# More take seconds to read.
_MAX_RESULT_VALUES = 200_000

R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """The folder of one worker process, with the request, the progress, the result and all files that belong to them.

    `Request.perform` calls ``confine`` before it runs code of a submission, with the paths that can be read from then on.
    ``confine`` does nothing where the process is not confined.
    """

    folder: Path
    confine: Callable[[Iterable[Path]], None] = lambda _: None

    def report(self, words: str) -> None:
        """Append a line with ``words`` to the progress file, unless code of a submission has put something else in its place."""
        with (
            contextlib.suppress(OSError),
            (self.folder / PROGRESS_FILE).open("a", encoding="utf-8", errors="backslashreplace") as file,
        ):
            file.write(f"{words}\n")

    def keep_alive(self) -> None:
        """Touch the progress file without adding a line, which restarts the time-out `Limits.idle_seconds`."""
        os.utime(self.folder / PROGRESS_FILE)


class Request(ABC, Generic[R]):
    """A task for a worker process: a frozen dataclass of plain data, see `harness.tables.read_table`.

    The class is imported by the parent and by the worker process, but only the worker process calls `prepare` and
    `perform`. The result of `perform` is an instance of ``result_type``, which is also a frozen dataclass of plain
    data.
    """

    result_type: ClassVar[type[Any]]
    # Whether it is performed in a forked process, in which `perform` calls `Workspace.confine`.
    is_confined: ClassVar[bool] = False

    def fields(self) -> dict[str, Any]:
        """Return the fields as plain data, from which `harness.tables.read_table` builds an equal request."""
        return dataclasses.asdict(cast("Any", self))

    @abstractmethod
    def prepare(self) -> None:
        """Import the Python modules that `perform` needs.

        Later, a file in the user's folder with the name of a library could be imported instead of the library.
        """

    @abstractmethod
    def perform(self, workspace: Workspace) -> R:
        """Perform the task in the worker process and return the result.

        Raises:
            HarnessError: the task failed; the parent process raises an error of the same kind.
        """


ErrorKind = Literal["source", "capture", "sandbox", "input", "internal"]
# The kind of an error is that of the first of these classes that it is an instance of.
_ERROR_CLASSES: Mapping[ErrorKind, type[HarnessError]] = {
    "source": ModelSourceError,
    "capture": CaptureError,
    "sandbox": SandboxError,
    "internal": ExaminerError,
    "input": InputError,
}


@dataclass(frozen=True, kw_only=True)
class Failure:
    """An error in a worker process, as plain data, with the formatted traceback of the error and of chained exceptions.

    ``kind`` stands for a class of `harness.errors`: ``source`` for `ModelSourceError`, ``capture`` for `CaptureError`,
    ``sandbox`` for `SandboxError`, ``internal`` for an error of the harness itself, ``input`` for any other error that the
    user can correct.
    """

    kind: ErrorKind
    message: str
    traceback: str

    @staticmethod
    def of(error: Exception) -> Failure:
        """Convert an exception to a `Failure`; any exception other than a `HarnessError` gets the kind ``internal``."""
        lines = traceback.format_exception(error)
        if not isinstance(error, HarnessError):
            error = ExaminerError(f"a worker process failed with {type(error).__name__}: {first_line(error)}")
        kind: ErrorKind = next((kind for kind, cls in _ERROR_CLASSES.items() if isinstance(error, cls)), "input")
        return Failure(kind=kind, message=str(error), traceback="".join(lines))

    def error(self) -> HarnessError:
        """Return the error to raise in the parent process, with the worker's traceback as its note."""
        error = _ERROR_CLASSES[self.kind](self.message)
        error.add_note(self.traceback)
        return error


def own_caches(folder: Path) -> dict[str, str]:
    """Return environment variables that give a process its own cache folders for compiled code.

    A process that is killed may leave a partial file, which other processes must not read.
    """
    variables = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "TORCH_EXTENSIONS_DIR")
    return {variable: str(folder / variable.lower()) for variable in variables}


def write_request(request: Request[Any], folder: Path) -> None:
    """Write a request to the folder of a worker process, where `read_request` reads it."""
    kind = type(request)
    document = {"type": f"{kind.__module__}:{kind.__qualname__}", "fields": request.fields()}
    (folder / REQUEST_FILE).write_text(dumps(document), encoding="utf-8")


def read_request(folder: Path) -> Request[Any]:
    """Read the request in a folder; raise an `ExaminerError` if its type is unknown or its fields do not fit the type."""
    document = json.loads(read_limited(folder / REQUEST_FILE, MAX_RESULT_BYTES))
    module, _, name = str(document["type"]).partition(":")
    kind = getattr(importlib.import_module(module), name, None) if module.startswith("harness.") else None
    if not (isinstance(kind, type) and issubclass(kind, Request)):
        raise ExaminerError(f"expected a request of a type that the harness defines, got type={document['type']!r}.")
    try:
        return read_table(kind, document["fields"], where=document["type"], error=InputError)
    except InputError as problem:
        raise ExaminerError(str(problem)) from problem


def write_result(result: object, folder: Path) -> None:
    """Write a `Failure`, or the dataclass that `Request.perform` returned, to a folder, where `read_result` reads it."""
    key = "error" if isinstance(result, Failure) else "value"
    document = {"error": None, "value": None, key: dataclasses.asdict(cast("Any", result))}
    write_whole(folder / RESULT_FILE, dumps(document).encode())


def read_result(request: Request[R], folder: Path) -> R | None:
    """Read the result that the worker process of a request wrote to ``folder``; None if there is no result.

    Raises:
        HarnessError: the error that the worker process reported.
        ModelSourceError: the file is not a valid result of this request.
    """
    try:
        content = read_limited(folder / RESULT_FILE, MAX_RESULT_BYTES)
    except FileNotFoundError:
        return None
    except OSError as problem:
        raise unreadable(problem) from problem
    try:
        document = parse_document(content, "JSON", where="result", error=InputError, most_values=_MAX_RESULT_VALUES)
        document = printable(document)
        if document["error"] is None:
            return cast("R", read_table(request.result_type, document["value"], where="value", error=InputError))
        failure = read_table(Failure, document["error"], where="error", error=InputError)
    except (InputError, KeyError, TypeError) as problem:
        raise unreadable(problem) from problem
    raise failure.error()


def unreadable(problem: Exception) -> ModelSourceError:
    """Return the error for invalid files from a worker process, of which only the model's code can be the cause."""
    return ModelSourceError(
        f"expected the process that runs the model's code to return its result, got unreadable data: {type(problem).__name__}: "
        f"{problem}. Does the code write or delete files when it is imported, or replace functions of Python's library?"
    )
