"""Finding a model: a shipped name, a file, a notebook, a folder, or a class in one of these or in a package.

A shipped model is built here. Anything else is imported in a child process, one for each file, which hands back graphs and
tensors as data: what a file does when it is imported (downloads, trainings, prints, exits) happens there and ends there.
"""

from __future__ import annotations

import ast
import difflib
import json
import os
import shlex
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mnist_models
from harness.errors import CaptureError, ExaminerError, GraphFormatError, ModelSourceError
from harness.graph.capture import CapturedModel, Fidelity, capture
from harness.graph.form import Graph
from harness.sources.child import end_child, last_words, start_child
from harness.sources.choice import Candidate, choose
from harness.sources.definitions import NOTEBOOK_SUFFIX
from harness.sources.folder import find_model_files

DEFAULT_SEED = 1
# Long enough for an import of torch on a busy machine and an export; short enough that a hanging import is told in a minute.
LOAD_TIMEOUT_SECONDS = 45.0
PROGRESS_FILE, REQUEST_FILE, RESULT_FILE = "progress.txt", "request.json", "result.json"

# An import of torch and a capture take some six seconds: more files than these are not done in time.
_MOST_FILES = 12
_CHILDREN_AT_ONCE = 2
_SHORTEST_TRY_SECONDS = 2.0
_LONGEST_ARGUMENTS = 2_000
# What a training feeds a model with.
_IMAGE_SHAPE = (1, 28, 28)


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """What a user's MODEL stands for.

    Args:
        text: as the user wrote it.
        shipped: the shipped model's name, or None.
        path: the file or the folder, or None.
        module: the dotted module, or None.
        class_name: the class, or None where the only candidate is meant.
    """

    text: str
    shipped: str | None = None
    path: Path | None = None
    module: str | None = None
    class_name: str | None = None


def parse_source(text: str) -> ModelSource:
    """Read a MODEL argument.

    It is ``name``, ``net.py``, ``net.ipynb``, ``folder``, one of the last three with ``:Class``, or ``package.module:Class``. A
    leading ``~`` is the home folder. A shipped name comes before a folder of that name.

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
        return ModelSource(text=text, path=path.resolve(), class_name=class_name or None)
    if is_code or "/" in place or os.sep in place:
        reason = "is no Python file or notebook" if path.exists() else "does not exist"
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


def parse_arguments(text: str) -> dict[str, Any]:
    """Read constructor arguments such as ``dropout_prob=0.1, width=16``; nothing is evaluated.

    Values are literals: numbers, texts in quotes, True, False, None, and tuples, lists, dictionaries and sets of these.

    Raises:
        ModelSourceError: it is anything else.
    """
    found: dict[str, Any] = {}
    reason = ""
    try:
        if len(text) > _LONGEST_ARGUMENTS:
            reason = f"it is longer than {_LONGEST_ARGUMENTS:,} characters"
        else:
            call = ast.parse(f"_({text}\n)", mode="eval").body
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
                reason = "a bracket is closed that was never opened"
            elif call.args:
                reason = f"{ast.unparse(call.args[0])} has no name"
            else:
                for keyword in call.keywords:
                    if keyword.arg is None or keyword.arg in found:
                        reason = f"{keyword.arg} stands there twice" if keyword.arg else "** is no name"
                        break
                    reason = f"{keyword.arg}={ast.unparse(keyword.value)} is no literal"
                    found[keyword.arg] = ast.literal_eval(keyword.value)
                    reason = ""
    except SyntaxError as error:
        reason = error.msg
    except (ValueError, TypeError, RecursionError, MemoryError) as error:
        reason = reason or f"{type(error).__name__}: {error}"
    if reason:
        msg = (
            f'expected constructor arguments as name=literal, such as "dropout_prob=0.1, width=16", got args={text[:200]!r}: '
            f"{reason}. Literals are numbers, quoted texts, True, False, None, and tuples and lists of them"
        )
        raise ModelSourceError(msg)
    return found


def load_model(
    text: str,
    *,
    seed: int = DEFAULT_SEED,
    input_shape: tuple[int, ...] = (1, 28, 28),
    arguments: str = "",
    timeout: float = LOAD_TIMEOUT_SECONDS,
    announce: Callable[[str], None] | None = None,
) -> CapturedModel:
    """Find, build and capture a model, its initial weights drawn under ``torch.manual_seed(seed)``.

    Args:
        text: MODEL, see `parse_source`.
        seed: seed of the initial weights.
        input_shape: shape of one input, without the batch dimension.
        arguments: arguments of the model's constructor, see `parse_arguments`; part of the captured model's name.
        timeout: seconds that loading may take, all files of a folder together.
        announce: takes a sentence on each choice made: which class was taken, which cell left out.

    Raises:
        ModelSourceError: the model cannot be found, imported or built, or more than one may be meant.
        CaptureError: it was built, but cannot be captured.
        ExaminerError: a child process failed in a way that is not the model's doing.
    """
    source = parse_source(text)
    named = bool(parse_arguments(arguments))
    if source.shipped is not None:
        if named:
            msg = f"{text} is a shipped model and takes no arguments, got args={arguments!r}. Leave --args out"
            raise ModelSourceError(msg)
        import torch  # noqa: PLC0415 - a wrong MODEL is told before torch is imported

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = mnist_models.create_model(source.shipped)
        return capture(module, input_shape, name=text)
    files = _files(source)
    asked = {"class": source.class_name, "seed": seed, "input_shape": list(input_shape), "args": arguments}
    with tempfile.TemporaryDirectory(prefix="harness-model-") as folder:
        loading = _Loading(folder=Path(folder), end=time.monotonic() + timeout, timeout=timeout)
        loaded = loading.run([file | asked for file in files])
    chosen, reason = choose([candidate for one in loaded for candidate in one.candidates], text)
    if chosen.model is None:
        msg = f"{chosen.name} was chosen, but never captured"
        raise ExaminerError(msg)
    if announce is not None:
        file_of_chosen = next(one for one in loaded if chosen in one.candidates)
        for note in (*file_of_chosen.notes, *([reason] if reason else [])):
            announce(note)
    name = chosen.name + (_suffix(arguments) if named else "")
    return CapturedModel(name=name, graph=chosen.model.graph, state=chosen.model.state, fidelity=chosen.model.fidelity)


def eager_source(text: str, captured: CapturedModel | None, *, arguments: str = "") -> dict[str, Any]:
    """What `harness.sources.worker.eager_builder` needs to build the module itself, as plain data.

    Args:
        text: MODEL, as `load_model` was given it.
        captured: what `load_model` gave back, which says which class was chosen; None where it could not be captured.
        arguments: as `load_model` was given them.

    Raises:
        ModelSourceError: nothing was captured, and the folder holds several files that may be meant.
    """
    source = parse_source(captured.name.removesuffix(_suffix(arguments)) if captured else text)
    if source.shipped is not None:
        return {"text": text, "shipped": source.shipped, "path": None, "input_shape": _IMAGE_SHAPE}
    files = _files(source)
    if len(files) > 1:
        listed = ", ".join(str(file["text"]) for file in files)
        msg = f"the folder {text!r} holds several files that define models: name the one that you mean, out of {listed}"
        raise ModelSourceError(msg)
    about = {"shipped": None, "class": source.class_name, "args": arguments, "input_shape": _IMAGE_SHAPE}
    return files[0] | about


def _suffix(arguments: str) -> str:
    """What a model that was built with arguments has behind its name."""
    return f"({' '.join(arguments.split())})"


def _files(source: ModelSource) -> list[dict[str, str | None]]:
    """The part of the request that says what to import: one for each file."""
    if source.path is None:
        return [{"text": source.text, "path": None, "module": source.module}]
    if source.path.is_file():
        return [{"text": _place(source), "path": str(source.path), "module": None}]
    folder = Path(_place(source))
    paths = [path.relative_to(source.path) for path in find_model_files(source.path, source.class_name)]
    if len(paths) > _MOST_FILES:
        listed = ", ".join(shlex.quote(str(folder / path)) for path in paths[:_MOST_FILES])
        msg = (
            f"the folder {str(folder)!r} holds {len(paths)} files that define models, too many to try each: name the file or the "
            f"folder that you mean, such as {listed} or another"
        )
        raise ModelSourceError(msg)
    return [{"text": str(folder / path), "path": str(source.path / path), "module": None} for path in paths]


def _place(source: ModelSource) -> str:
    """What the user wrote, without the class."""
    return source.text.removesuffix(f":{source.class_name}")


@dataclass(frozen=True, kw_only=True)
class _Loaded:
    """What came of one file."""

    candidates: tuple[Candidate, ...]
    notes: tuple[str, ...] = ()


@dataclass(kw_only=True)
class _Loading:
    """Child processes for some files, within one time limit.

    Args:
        folder: where they write.
        end: when the time is up, on the monotonic clock.
        timeout: the limit in seconds, for messages.
    """

    folder: Path
    end: float
    timeout: float
    children: set[subprocess.Popen[bytes]] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)
    stopped: bool = False

    def run(self, requests: Sequence[Mapping[str, Any]]) -> list[_Loaded]:
        """What came of each; a file of several that fails is a candidate with a refusal."""
        if len(requests) == 1:
            return [self._load(requests[0], self.folder)]
        with ThreadPoolExecutor(_CHILDREN_AT_ONCE) as threads:
            try:
                return list(threads.map(self._load_or_refuse, requests))
            except BaseException:
                # Interrupted: the threads wait for their children, so these must end first.
                with self.lock:
                    self.stopped = True
                    for child in self.children:
                        end_child(child)
                raise

    def _load_or_refuse(self, request: Mapping[str, Any]) -> _Loaded:
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        try:
            return self._load(request, folder)
        except (ModelSourceError, CaptureError) as error:
            return _Loaded(candidates=(Candidate(name=request["text"], key=str(request["path"]), refusal=error),))

    def _load(self, request: Mapping[str, Any], folder: Path) -> _Loaded:
        (folder / REQUEST_FILE).write_text(json.dumps(request), encoding="utf-8")
        last_words = self._run_child(request, folder)
        if not (folder / RESULT_FILE).is_file():
            msg = (
                f"{request['text']} ended the process that imported it, without an error: expected a file that defines a model. "
                f"Does it call exit() when imported?{f' Its last words: {last_words}' if last_words else ''}"
            )
            raise ModelSourceError(msg)
        return _read_result(folder, str(request["text"]))

    def _too_slow(self, text: str, folder: Path) -> str:
        late = f"{text} did not finish loading within {self.timeout:.0f} seconds: expected"
        try:
            name = (folder / PROGRESS_FILE).read_text(encoding="utf-8", errors="replace")[:200]
        except FileNotFoundError:
            return f"{late} PyTorch to be imported by then, and it was not. The machine must be busy: try again when it is not"
        if name:
            return (
                f"{late} a model that is captured in seconds, and it was still at {name}. Name the class that you mean, or try "
                "again when the machine is less busy"
            )
        return (
            f"{late} a file that only defines the model. Does it train, download or wait when imported? "
            'Put such code under `if __name__ == "__main__":`'
        )

    def _run_child(self, request: Mapping[str, Any], folder: Path) -> str:
        """Run a child in a process group of its own, in the model's folder; returns the last of what it printed."""
        text, path = request["text"], request["path"]
        output = folder / "output.txt"
        with self.lock:
            if self.stopped or self.end - time.monotonic() < min(_SHORTEST_TRY_SECONDS, self.timeout / 2):
                msg = f"{text} was not tried: the {self.timeout:.0f} seconds that loading may take were used up before"
                raise ModelSourceError(msg)
            place = Path(path).parent if path else Path.cwd()
            variables = {"CUDA_VISIBLE_DEVICES": ""}
            child = start_child("harness.sources.worker", folder, place=place, output=output, variables=variables)
            self.children.add(child)
        try:
            child.wait(max(self.end - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            raise ModelSourceError(self._too_slow(str(text), folder)) from None
        finally:
            end_child(child)
            self.children.discard(child)
        return last_words(output)


def _read_result(folder: Path, text: str) -> _Loaded:
    """What a child wrote, checked: it ran code that nobody trusts."""
    from safetensors import SafetensorError  # noqa: PLC0415 - imported with torch, and torch only when needed

    try:
        document = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))
        if document["error"] is not None:
            raise _refusal(document["error"])
        candidates = [_candidate(item, folder / str(number)) for number, item in enumerate(document["candidates"])]
        return _Loaded(candidates=tuple(candidates), notes=tuple(str(note) for note in document["notes"]))
    except (ModelSourceError, CaptureError):
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OSError, GraphFormatError, SafetensorError) as error:
        msg = f"the process that loaded {text} handed back something unreadable: {type(error).__name__}: {error}"
        raise ExaminerError(msg) from error


def _refusal(error: Mapping[str, Any]) -> ModelSourceError | CaptureError:
    if error["kind"] == "examiner":
        failure = ExaminerError(str(error["message"]))
        failure.add_note(str(error["traceback"]))
        raise failure
    kind = CaptureError if error["kind"] == "capture" else ModelSourceError
    refusal = kind(str(error["message"]))
    refusal.add_note(str(error["traceback"]))
    return refusal


def _candidate(item: Mapping[str, Any], stem: Path) -> Candidate:
    name = str(item["name"])
    refusal = None if item["error"] is None else _refusal(item["error"])
    return Candidate(
        name=name,
        key=str(item["key"]),
        parts=frozenset(str(part) for part in item["parts"]),
        model=read_model(stem, name) if refusal is None else None,
        refusal=refusal,
        runs=item["runs"] is True,
    )


def read_model(stem: Path, name: str) -> CapturedModel:
    """Read what `harness.sources.worker.write_model` wrote."""
    from safetensors.torch import load_file  # noqa: PLC0415 - imported with torch, and torch only when needed

    document = json.loads(stem.with_suffix(".json").read_text(encoding="utf-8"))
    fidelity = document.pop("fidelity")
    return CapturedModel(
        name=name,
        graph=Graph.from_json(document),
        state=load_file(stem.with_suffix(".safetensors")),
        fidelity=Fidelity(**{**fidelity, "differences": tuple(fidelity["differences"])}),
    )
