"""Finding a model: a shipped name, a file, a class in a file, or a class in a package.

A shipped model is built here. Anything else is imported in a child process, which hands back a graph and tensors as data: what
a file does when it is imported (downloads, trainings, prints, exits) happens there and ends there.
"""

from __future__ import annotations

import difflib
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import mnist_models
from harness.errors import CaptureError, ExaminerError, GraphFormatError, ModelSourceError
from harness.graph.capture import CapturedModel, Fidelity, capture
from harness.graph.form import Graph

DEFAULT_SEED = 1
# Long enough for an import of torch on a busy machine and an export; short enough that a hanging import is told in a minute.
LOAD_TIMEOUT_SECONDS = 45.0
GRAPH_FILE, STATE_FILE, ERROR_FILE = "graph.json", "state.safetensors", "error.json"


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """What a user's MODEL stands for.

    Args:
        text: as the user wrote it.
        shipped: the shipped model's name, or None.
        path: the file, or None.
        module: the dotted module, or None.
        class_name: the class, or None when the file's only candidate is meant.
    """

    text: str
    shipped: str | None = None
    path: Path | None = None
    module: str | None = None
    class_name: str | None = None


def parse_source(text: str) -> ModelSource:
    """Read a MODEL argument: ``name``, ``file.py``, ``file.py:Class`` or ``package.module:Class``.

    Raises:
        ModelSourceError: it is none of these, or the file does not exist.
    """
    if text in mnist_models.list_models():
        return ModelSource(text=text, shipped=text)
    place, separator, class_name = text.rpartition(":")
    # A drive letter's colon is followed by a separator, never by a class name.
    if not separator or not class_name.isidentifier():
        place, class_name = text, ""
    if place.endswith(".py") or os.sep in place:
        path = Path(place)
        if not path.is_file():
            reason = "is a folder" if path.is_dir() else "does not exist"
            msg = f"model file {str(path)!r} {reason}: expected a Python file that defines the model, such as net.py or net.py:Net"
            raise ModelSourceError(msg)
        return ModelSource(text=text, path=path.resolve(), class_name=class_name or None)
    if class_name and all(part.isidentifier() for part in place.split(".")):
        return ModelSource(text=text, module=place, class_name=class_name)
    close = difflib.get_close_matches(text, mnist_models.list_models())
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    msg = (
        f"no shipped model is called {text!r}: {hint}Expected a name from `harness list`, a file (net.py), a class in a file "
        "(net.py:Net), or a class in a package (package.module:Net)"
    )
    raise ModelSourceError(msg)


def load_model(
    text: str,
    *,
    seed: int = DEFAULT_SEED,
    input_shape: tuple[int, ...] = (1, 28, 28),
    timeout: float = LOAD_TIMEOUT_SECONDS,
) -> CapturedModel:
    """Find, build and capture a model, its initial weights drawn under ``torch.manual_seed(seed)``.

    Args:
        text: MODEL, see `parse_source`.
        seed: seed of the initial weights.
        input_shape: shape of one input, without the batch dimension.
        timeout: seconds that loading a file may take.

    Raises:
        ModelSourceError: the model cannot be found, imported or built.
        CaptureError: it was built, but cannot be captured.
        ExaminerError: the child process failed in a way that is not the model's doing.
    """
    source = parse_source(text)
    if source.shipped is not None:
        import torch  # noqa: PLC0415 - a wrong MODEL is told before torch is imported

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = mnist_models.create_model(source.shipped)
        return capture(module, input_shape, name=text)
    with tempfile.TemporaryDirectory(prefix="harness-model-") as folder:
        return _load_in_child(source, Path(folder), seed=seed, input_shape=input_shape, timeout=timeout)


def _load_in_child(
    source: ModelSource, folder: Path, *, seed: int, input_shape: tuple[int, ...], timeout: float
) -> CapturedModel:
    request = {
        "text": source.text,
        "path": str(source.path) if source.path else None,
        "module": source.module,
        "class": source.class_name,
        "seed": seed,
        "input_shape": list(input_shape),
        "out": str(folder),
    }
    output = _run_worker(request, source, folder, timeout)
    error_file = folder / ERROR_FILE
    if error_file.is_file():
        error = json.loads(error_file.read_text(encoding="utf-8"))
        kind = CaptureError if error["kind"] == "capture" else ModelSourceError
        exception = kind(error["message"])
        exception.add_note(error["traceback"])
        raise exception
    if not (folder / GRAPH_FILE).is_file() or not (folder / STATE_FILE).is_file():
        tail = " ".join(output.split())[-300:]
        msg = (
            f"{source.text} ended the process that imported it, without an error: expected a file that defines a model. "
            f"Does it call exit() when imported?{f' Its last words: {tail}' if tail else ''}"
        )
        raise ModelSourceError(msg)
    return _read_result(source.text, folder)


def _run_worker(request: dict[str, object], source: ModelSource, folder: Path, timeout: float) -> str:
    """Run the child in a process group of its own, in the model's folder; returns what it printed."""
    place = source.path.parent if source.path else Path.cwd()
    log = folder / "output.txt"
    with log.open("wb") as sink:
        child = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-m", "harness.graph.worker", json.dumps(request)],
            cwd=place,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            # "-P" keeps the folder off the path until torch and the harness are imported: a file called torch.py beside the
            # model must not be taken for the library.
            env={**os.environ, "PYTHONSAFEPATH": "1", "CUDA_VISIBLE_DEVICES": ""},
            start_new_session=True,
        )
        try:
            child.wait(timeout)
        except subprocess.TimeoutExpired:
            msg = (
                f"{source.text} did not finish loading within {timeout:.0f} seconds: expected a file that only defines the model. "
                'Does it train, download or wait when imported? Put such code under `if __name__ == "__main__":`'
            )
            raise ModelSourceError(msg) from None
        finally:
            _end_group(child)
    return log.read_text(encoding="utf-8", errors="replace")


def _end_group(child: subprocess.Popen[bytes]) -> None:
    """End the child and everything it started."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        child.kill()
    child.wait()


def _read_result(text: str, folder: Path) -> CapturedModel:
    from safetensors import SafetensorError  # noqa: PLC0415 - imported with torch, and torch only when needed
    from safetensors.torch import load_file  # noqa: PLC0415

    try:
        document = json.loads((folder / GRAPH_FILE).read_text(encoding="utf-8"))
        fidelity = document.pop("fidelity")
        return CapturedModel(
            name=text,
            graph=Graph.from_json(document),
            state=load_file(folder / STATE_FILE),
            fidelity=Fidelity(**{**fidelity, "differences": tuple(fidelity["differences"])}),
        )
    except (ValueError, KeyError, TypeError, GraphFormatError, SafetensorError) as error:
        msg = f"the process that loaded {text} handed back something unreadable: {error}"
        raise ExaminerError(msg) from error
