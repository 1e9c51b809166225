"""Loading a model: a shipped model is built in this process; each user's file is imported in a worker process.

A worker process returns graphs and tensors as data. Side effects of importing a file (downloads, training, printing,
exiting) happen in the worker process and end with the process.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import torch

from harness.errors import CaptureError, ExaminerError, GraphFormatError, InputError, ModelSourceError
from harness.files import temporary_folder
from harness.graph import CapturedModel, capture, read_captured
from harness.sandbox import Ending, Failure, Job, Limits, Outcome, run_processes
from harness.sandbox.protocol import unreadable
from harness.sources.building import build_shipped, parse_arguments
from harness.sources.capturing import CaptureRequest
from harness.sources.choice import Candidate, choose
from harness.sources.source import ModelSource, candidate_files, name_suffix, parse_source

DEFAULT_SEED = 1
# Long enough to import torch on a busy machine and to export; short enough that a hanging import is reported within a minute.
LOAD_TIMEOUT_SECONDS = 45.0
# Torch imports this module when a rebuilt module first computes shapes on the meta device. Until then this process only waits.
_IMPORTED_LATE = "torch._dynamo"


def load_model(
    text: str,
    *,
    seed: int = DEFAULT_SEED,
    input_shape: tuple[int, ...] = (1, 28, 28),
    arguments: str = "",
    timeout: float = LOAD_TIMEOUT_SECONDS,
    announce: Callable[[str], None] = lambda _: None,
) -> CapturedModel:
    """Find a model, build it after ``torch.manual_seed(seed)`` and capture its graph.

    ``text`` is the MODEL argument, see `parse_source`; ``input_shape`` is the shape of one input, without the batch
    dimension. ``arguments`` are those of the constructor, see `parse_arguments`, and become part of the captured
    model's name. Each file may take ``timeout`` seconds. ``announce`` is called with messages for the user: the file
    that is being imported, if there are several, the class that was chosen, and the classes that were left out.

    Raises:
        ModelSourceError: the model cannot be found, imported or built, or is ambiguous.
        CaptureError: the model was built, but cannot be captured.
        ExaminerError: a worker process failed for a reason other than the model's code.
    """
    source = parse_source(text)
    has_arguments = bool(parse_arguments(arguments))
    if source.shipped is not None:
        if has_arguments:
            msg = f"{text} is a shipped model and takes no arguments, got args={arguments!r}. Omit --args"
            raise ModelSourceError(msg)
        with torch.random.fork_rng(devices=[]):
            module = build_shipped(source.shipped, seed)
        # Each shipped model is tested to be captured alike again.
        return capture(module, input_shape, name=text, twice=False)
    files = candidate_files(source)
    load = _load_file if len(files) == 1 else _load_file_or_report
    loaded = _load_files(
        files, load, arguments=arguments, seed=seed, shape=input_shape, timeout=timeout, announce=announce
    )
    candidates = [candidate for of_file in loaded for candidate in of_file]
    chosen, reasons = choose(candidates, text)
    if chosen.model is None:
        raise ExaminerError(f"expected the graph of {chosen.name}, which was chosen as the model, got none")
    for note in dict.fromkeys(note for candidate in candidates for note in candidate.notes):
        announce(note)
    for reason in reasons:
        announce(reason)
    name = chosen.name + (name_suffix(arguments) if has_arguments else "")
    return replace(chosen.model, name=name)


def load_each(
    texts: Sequence[str], announce: Callable[[str], None] = lambda _: None
) -> list[CapturedModel | InputError]:
    """Load the model of each of several files, as `load_model` does, or return the error that says why it cannot be loaded.

    The files are Python files or notebooks; all are loaded by one worker.
    """
    results: list[CapturedModel | InputError] = []
    loaded = _load_files([parse_source(text) for text in texts], _load_file_or_report, announce=announce)
    for text, candidates in zip(texts, loaded, strict=True):
        try:
            chosen, _ = choose(candidates, text)
            results.append(chosen.model or ModelSourceError(f"{text} defines no model that can be captured."))
        except (ModelSourceError, CaptureError) as error:
            results.append(error)
    return results


def _load_files(
    files: Sequence[ModelSource],
    load: Callable[[CaptureRequest, Outcome, float], list[Candidate]],
    *,
    announce: Callable[[str], None],
    timeout: float = LOAD_TIMEOUT_SECONDS,
    arguments: str = "",
    seed: int = DEFAULT_SEED,
    shape: tuple[int, ...] = (1, 28, 28),
) -> list[list[Candidate]]:
    """Return the candidates of each file."""
    requests = [CaptureRequest(source=file, arguments=arguments, seed=seed, input_shape=shape) for file in files]
    numbers = {file.text: f"({number} of {len(files)})" for number, file in enumerate(files, start=1)}

    def announce_file(line: str) -> None:
        # The progress names the file before its classes.
        if len(files) > 1 and line in numbers:
            announce(f"importing {line} {numbers[line]}")

    no_gpu = {"CUDA_VISIBLE_DEVICES": ""}
    jobs = [Job(request=one, working_folder=one.source.working_folder, variables=no_gpu) for one in requests]
    with ThreadPoolExecutor(1) as meanwhile, temporary_folder("model") as folder:
        meanwhile.submit(importlib.import_module, _IMPORTED_LATE)
        outcomes = run_processes(jobs, folder, limits=Limits(seconds=timeout), announce=announce_file)
        return [load(request, outcome, timeout) for request, outcome in zip(requests, outcomes, strict=True)]


def _load_file_or_report(request: CaptureRequest, outcome: Outcome, timeout: float) -> list[Candidate]:
    """Load one of several files; if this fails, return a candidate that holds the error."""
    try:
        return _load_file(request, outcome, timeout)
    except (ModelSourceError, CaptureError) as error:
        name, key = request.source.text, str(request.source.path)
        failure = Failure.of(error)
        return [Candidate(name=name, key=key, parts=(), optional=(), failure=failure, excuse="", model=None, notes=())]


def _load_file(request: CaptureRequest, outcome: Outcome, timeout: float) -> list[Candidate]:
    text = request.source.text
    if outcome.ending is not Ending.EXITED:
        raise ModelSourceError(_limit_message(outcome, text, timeout))
    result = outcome.result(request)
    if result is None:
        raise ModelSourceError(
            f"importing {text} ended the process without an error: expected a file that defines a model. "
            f"Does the file call exit() when imported?{f' The last output was: {outcome.output}' if outcome.output else ''}"
        )
    try:
        models = [
            read_captured(outcome.folder / str(number), report.name) if report.failure is None else None
            for number, report in enumerate(result.classes)
        ]
    except GraphFormatError as error:
        raise unreadable(error) from error
    reports = zip(result.classes, models, strict=True)
    return [Candidate(**vars(report), model=model, notes=result.notes) for report, model in reports]


def _limit_message(outcome: Outcome, text: str, timeout: float) -> str:
    if outcome.ending is Ending.PRINTED_TOO_MUCH:
        return (
            f"{text} printed more than {Limits().output_bytes:,} bytes while it was loaded: expected a file that only defines "
            'the model. Put code that prints under `if __name__ == "__main__":`'
        )
    late = f"{text} did not finish loading within {timeout:.0f} seconds: expected"
    if not outcome.progress:
        return (
            f"{late} PyTorch to be imported by then, and that was not the case. The machine seems busy: try again later"
        )
    if len(outcome.progress) == 1:
        return (
            f"{late} a file that only defines the model. Does the file train, download or wait when imported? "
            'Put such code under `if __name__ == "__main__":`'
        )
    return (
        f"{late} a model that is captured in seconds, but {outcome.progress[-1][:200]} took longer. Name the class that "
        "you mean, or try again when the machine is less busy"
    )
