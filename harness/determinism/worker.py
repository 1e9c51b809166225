"""The child process of the determinism audit: it imports the user's files, trains, and hands back what it found as data.

Run as ``python -m harness.determinism.worker FOLDER`` by `harness.determinism.conduct`, which leaves ``request.json``
and ``data.safetensors`` in the folder. What comes back is ``result.json`` and traces; ``progress.txt`` says what has been
done so far, and is touched at every step.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from harness.data import Dataset
from harness.determinism.axes import (
    Axis,
    another_seed,
    deterministic_algorithms,
    frozen_draws,
    investigated,
    not_applicable,
    one_thread,
    rebuilt_graph,
    repeat,
    resume,
)
from harness.determinism.evaluation import evaluation_between, pure_evaluation
from harness.determinism.procedure import load_procedure
from harness.determinism.subject import Imported, Subject
from harness.determinism.suspects import GLOBALS, SUSPECTS, Interventions, ordered_arithmetic
from harness.errors import ExaminerError, HarnessError, InputError
from harness.findings import Finding, Status
from harness.graph import CapturedModel
from harness.reproducibility.trace import Trace, write_trace
from harness.sources.source import read_model
from harness.sources.worker import eager_builder
from harness.training import Recipe, TrainingHooks, train_step

REQUEST_FILE, RESULT_FILE, PROGRESS_FILE, DATA_FILE = "request.json", "result.json", "progress.txt", "data.safetensors"
PLAIN_TRACE = "plain.safetensors"
GRAPH_STEM = "graph"
HELD_STILL = "all held still"

# Files of these are the libraries', not the user's; a module of theirs cannot be imported a second time.
_LIBRARY_FOLDERS = {"site-packages", "dist-packages"}
_OWN_FOLDERS = (Path(__file__).parents[1], Path(os.__file__).parent)


def main(folder: Path) -> None:
    """Set this process up for strange files, and answer the request."""
    sys.dont_write_bytecode = True
    # What a training imports is imported by the first one: from now on a file beside the model that has the name of a
    # library is the model's own affair.
    layer = nn.Linear(1, 10)
    with ordered_arithmetic():
        train_step(layer, torch.optim.SGD(layer.parameters(), lr=0.1), torch.zeros(1, 1), torch.zeros(1).long())
    answer(folder)


def answer(folder: Path) -> None:
    """Do what ``request.json`` in the folder asks, and write what came of it there."""
    request = json.loads((folder / REQUEST_FILE).read_text(encoding="utf-8"))
    result: dict[str, Any] = {"error": None, "findings": [], "callers": {}}
    imports = _Imports(request)
    try:
        with Interventions() as interventions:
            subject = _subject(request, imports, folder)
            if request["task"] == "suspects":
                _investigate(subject, interventions, request["upto"], folder)
                result["callers"] = interventions.callers
            else:
                _progress(folder, f"a training of {subject.steps} steps")
                plain = _plain(subject)
                write_trace(plain, folder / PLAIN_TRACE)
                if request["task"] == "axes":
                    result["findings"] = _vary(subject, plain, interventions, request, folder)
    except Exception as error:  # noqa: BLE001 - whatever it is, the examiner hears of it
        result["error"] = _refusal(error, request["model"]["text"])
    finally:
        imports.forget()
    (folder / RESULT_FILE).write_text(json.dumps(result), encoding="utf-8")


def _subject(request: Mapping[str, Any], imports: _Imports, folder: Path) -> Subject:
    tensors = load_file(Path(request["inputs"]) / DATA_FILE)
    return Subject(
        imports.load,
        recipe=Recipe.from_mapping(request["recipe"], name=request["recipe_name"]),
        data=Dataset(**{**request["data"], **tensors}),
        seed=request["seed"],
        device=torch.device(request["device"]),
        alive=lambda: os.utime(folder / PROGRESS_FILE),
    )


def _plain(subject: Subject) -> Trace:
    """The training that all others are compared with.

    Raises:
        InputError: it does not get through.
    """
    plain = subject.trace()
    if len(plain) < subject.steps:
        msg = (
            f"expected a training of {subject.steps} steps whose loss stays a finite number, got one that was none by "
            f"step {len(plain)}: there is nothing to compare. Use another --recipe or fewer --steps."
        )
        raise InputError(msg)
    return plain


def _vary(
    subject: Subject, plain: Trace, interventions: Interventions, request: Mapping[str, Any], folder: Path
) -> list[dict[str, Any]]:
    """Vary each axis that one process can vary."""
    why_not = request["why_no_graph"]
    captured = read_model(Path(request["inputs"]) / GRAPH_STEM, request["model"]["text"]) if why_not is None else None
    findings = []
    for finding in vary(subject, plain, interventions, captured, why_not or ""):
        findings.append(finding.to_json())
        _progress(folder, f"{finding.requirement}: {finding.status.value}")
    return findings


def vary(
    subject: Subject, plain: Trace, interventions: Interventions, captured: CapturedModel | None, why_not: str
) -> Iterator[Finding]:
    """Vary each axis that one process can vary.

    Args:
        subject: the model.
        plain: its first training in this process.
        interventions: in place since before the model was imported.
        captured: its graph; None where it could not be captured.
        why_not: why not, then.
    """
    repeated = repeat(subject, plain, interventions)
    yield repeated
    dependent: dict[Axis, Callable[[], Finding]] = {
        Axis.THREADS: lambda: one_thread(subject, plain),
        Axis.EVALUATION: lambda: evaluation_between(subject, plain),
        Axis.RESUME: lambda: resume(subject, plain),
        Axis.GRAPH: lambda: rebuilt_graph(subject, plain, captured, why_not),
        Axis.DETERMINISTIC: lambda: deterministic_algorithms(subject, plain),
    }
    for axis, variation in dependent.items():
        if repeated.status is Status.PASS:
            yield variation()
        else:
            yield not_applicable(axis, "the training does not repeat itself")
    if captured is not None and not captured.fidelity.holds:
        yield frozen_draws(captured)
    yield from another_seed(subject)
    yield pure_evaluation(subject, interventions)


def _investigate(subject: Subject, interventions: Interventions, upto: int, folder: Path) -> None:
    """A trace for each suspect that a new process can make differ, released alone, and one with all held still."""
    for name in (HELD_STILL, *(suspect.name for suspect in SUSPECTS if suspect is not GLOBALS)):
        _progress(folder, f"the suspect {name}")
        trace = investigated(subject, interventions, frozenset({name}), upto)
        write_trace(trace, folder / trace_file(name))


def trace_file(name: str) -> str:
    """The file of the trace with this suspect released."""
    return f"{''.join(character if character.isalnum() else '-' for character in name)}.safetensors"


def _progress(folder: Path, words: str) -> None:
    with (folder / PROGRESS_FILE).open("a", encoding="utf-8") as file:
        file.write(f"{words}\n")


class _Imports:
    """The user's files, imported as often as asked, each time from the beginning."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        self._request = request
        self._path = [*sys.path]
        self._before = set(sys.modules)

    def load(self) -> Imported:
        """Import the model and, where there is one, the procedure.

        Raises:
            InputError: one of them cannot be imported.
        """
        self.forget()
        procedure = self._request["procedure"]
        _, build = eager_builder(self._request["model"])
        return Imported(build=build, procedure=load_procedure(Path(procedure)) if procedure else TrainingHooks())

    def forget(self) -> None:
        """Take the user's files out of this process."""
        sys.path[:] = self._path
        for name in set(sys.modules) - self._before:
            if is_users(getattr(sys.modules[name], "__file__", None)):
                del sys.modules[name]


def is_users(file: str | None) -> bool:
    """Whether a file is the user's own: no library's, not the harness's, and Python."""
    if not file or not file.endswith((".py", ".ipynb")):
        return False
    path = Path(file)
    return not _LIBRARY_FOLDERS & set(path.parts) and not any(path.is_relative_to(folder) for folder in _OWN_FOLDERS)


def _refusal(error: Exception, text: str) -> dict[str, str]:
    """An error as data: of the input, if the input is at fault."""
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, HarnessError):
        kind, message = "examiner" if isinstance(error, ExaminerError) else "input", str(error)
    elif Path(frames[-1].filename).is_relative_to(_OWN_FOLDERS[0]):
        kind, message = "examiner", f"the process of the audit failed: {type(error).__name__}: {error}"
    else:
        own = [f"line {frame.lineno} of {Path(frame.filename).name}" for frame in frames if is_users(frame.filename)]
        where = f" in {own[-1]}" if own else ""
        message = (
            f"{text} failed{where} in the middle of a training: {type(error).__name__}: {error}. Expected a model that "
            "takes all steps. Mend it and try again."
        )
        kind = "input"
    return {"kind": kind, "message": message, "traceback": "".join(traceback.format_exception(error))}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
