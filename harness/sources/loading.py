"""Loading a model: a shipped model is built in this process; each user's file is imported in a worker process.

A worker process returns graphs and tensors as data. Side effects of importing a file (downloads, training, printing,
exiting) happen in the worker process and end with the process.
"""

from __future__ import annotations

import importlib
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from harness.errors import (
    BusyError,
    CaptureError,
    ExaminerError,
    GraphFormatError,
    HarnessError,
    ModelSourceError,
    SlowModelError,
)
from harness.files import temporary_folder
from harness.graph import CapturedModel, capture, read_captured
from harness.sandbox import (
    NO_REQUIREMENT,
    Ending,
    Failure,
    Job,
    LayerState,
    Limits,
    Outcome,
    SandboxRequirement,
    run_processes,
    warm_workers,
)
from harness.sandbox.protocol import unreadable
from harness.sources.building import build_shipped, parse_arguments
from harness.sources.capturing import CaptureRequest
from harness.sources.choice import Candidate, choose
from harness.sources.source import ModelSource, candidate_files, name_suffix, parse_source

DEFAULT_SEED = 1
# Long enough to export on a busy machine; short enough that a hanging import is reported within a minute.
LOAD_TIMEOUT_SECONDS = 45.0
_MAX_WRITTEN_BYTES = 2**30
# Of the tensors of a model: of one's own, and of a submission.
_MAX_OWN_TENSOR_BYTES, _MAX_TENSOR_BYTES = 2**30, 2**26
# Before, PyTorch is imported, which is no fault of the model if the machine is busy.
START_TIMEOUT_SECONDS = 300.0
# Torch imports this module when a rebuilt module first computes shapes on the meta device. Until then this process only waits.
_IMPORTED_LATE = "torch._dynamo"


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model, its source with the class that was chosen, and how its code was run.

    ``layers`` are those that confined the code; empty for a shipped model, which needs no sandbox. ``notes`` say which
    class was chosen, which were left out, and how the file was imported.
    """

    model: CapturedModel
    source: ModelSource
    layers: tuple[LayerState, ...] = ()
    notes: tuple[str, ...] = ()


# For each seed, the model or the error; the first error is the last entry.
Builds = tuple[LoadedModel | HarnessError, ...]


def load(
    text: str | ModelSource,
    *,
    seed: int = DEFAULT_SEED,
    input_shape: tuple[int, ...] = (1, 28, 28),
    arguments: str = "",
    timeout: float = LOAD_TIMEOUT_SECONDS,
    announce: Callable[[str], None] = lambda _: None,
    sandbox: SandboxRequirement = NO_REQUIREMENT,
    twice: bool = True,
) -> LoadedModel:
    """Find a model, build it after ``torch.manual_seed(seed)`` and capture its graph.

    ``text`` is the MODEL argument, see `parse_source`; ``input_shape`` is the shape of one input, without the batch
    dimension. ``arguments`` are those of the constructor, see `parse_arguments`, and become part of the captured
    model's name. Each file may take ``timeout`` seconds from its import on. ``announce`` is called with messages for the
    user: the file that is being imported, if there are several, and the notes. ``sandbox`` is what must hold before a
    file is imported; ``twice`` is that of `harness.graph.capture`.

    Raises:
        ModelSourceError: the model cannot be found, imported or built, or is ambiguous.
        SlowModelError: the same, where a file took longer than ``timeout``.
        BusyError: the same, where the machine was too busy to import PyTorch in time.
        CaptureError: the model was built, but cannot be captured.
        SandboxError: the sandbox does not meet the requirement; no code of the model has run.
        ExaminerError: a worker process failed for a reason other than the model's code.
    """
    source = parse_source(text) if isinstance(text, str) else text
    has_arguments = bool(parse_arguments(arguments))
    if source.shipped is not None:
        if has_arguments:
            msg = f"{source.text} is a shipped model and takes no arguments, got args={arguments!r}. Omit --args"
            raise ModelSourceError(msg)
        with torch.random.fork_rng(devices=[]):
            module = build_shipped(source.shipped, seed)
        # Each shipped model is tested to be captured alike again.
        return LoadedModel(model=capture(module, input_shape, name=source.text, twice=False), source=source)
    files = candidate_files(source)
    requests = [
        CaptureRequest(source=file, arguments=arguments, seed=seed, input_shape=input_shape, twice=twice)
        for file in files
    ]
    results = _load_files(requests, timeout, announce, sandbox)
    loaded = [_candidates(found, file, alone=len(files) == 1) for file, (found, _) in zip(files, results, strict=True)]
    try:
        chosen, model, notes = _chosen([one for of_file in loaded for one in of_file], source.text, announce)
    except ModelSourceError as problem:
        for late in (BusyError, SlowModelError):
            if any(isinstance(found, late) for found, _ in results):
                raise late(str(problem)) from problem
        raise
    number = next(number for number, found in enumerate(loaded) if any(one is chosen for one in found))
    name = chosen.name + (name_suffix(arguments) if has_arguments else "")
    return LoadedModel(
        model=replace(model, name=name),
        source=replace(files[number], text=chosen.name, class_name=chosen.name.rpartition(":")[2]),
        layers=results[number][1],
        notes=notes,
    )


def _project(source: ModelSource) -> Path:
    return Path(source.root) if source.root else source.working_folder


def load_model(text: str | ModelSource, **options: Any) -> CapturedModel:  # noqa: ANN401 - those of `load`
    """Return the model that `load` returns for the same arguments."""
    return load(text, **options).model


def load_each(
    texts: Sequence[str], announce: Callable[[str], None] = lambda _: None
) -> list[CapturedModel | HarnessError]:
    """Load each of several files, some in parallel: return the model of each, or the error that `load` raises for it.

    Each graph is captured once.
    """
    found: dict[str, CapturedModel | HarnessError] = {}
    requests = []
    for text in texts:
        try:
            source = parse_source(text)
        except ModelSourceError as error:
            found[text] = error
        else:
            requests.append(
                CaptureRequest(source=source, arguments="", seed=DEFAULT_SEED, input_shape=(1, 28, 28), twice=False)
            )
    results = _load_files(requests, LOAD_TIMEOUT_SECONDS, announce, NO_REQUIREMENT)
    for request, (of_file, _) in zip(requests, results, strict=True):
        text = request.source.text
        try:
            found[text] = _chosen(_candidates(of_file, request.source, alone=True), text, announce)[1]
        except HarnessError as error:
            found[text] = error
    return [found[text] for text in texts]


def load_builds(
    text: str | ModelSource,
    *,
    seeds: tuple[int, ...],
    input_shape: tuple[int, ...] = (1, 28, 28),
    arguments: str = "",
    timeout: float = LOAD_TIMEOUT_SECONDS,
    sandbox: SandboxRequirement = NO_REQUIREMENT,
) -> Builds:
    """Build a model once after each seed, as `load` does, each time in a new process forked from the same worker.

    The class that the first build chooses is that of all later ones. No build follows one that fails.

    Returns:
        For each seed, the model or, as the last entry, the error that `load` raised.
    """
    builds: list[LoadedModel | HarnessError] = []
    with warm_workers():
        for seed in seeds:
            try:
                build = load(
                    text,
                    seed=seed,
                    input_shape=input_shape,
                    arguments=arguments,
                    timeout=timeout,
                    sandbox=sandbox,
                    # The later builds capture it again, and the comparison with the graph finds what changes from call to call.
                    twice=False,
                )
            except HarnessError as error:
                builds.append(error)
                break
            builds.append(build)
            text = build.source
    return tuple(builds)


def _load_files(
    requests: Sequence[CaptureRequest], timeout: float, announce: Callable[[str], None], sandbox: SandboxRequirement
) -> list[tuple[list[Candidate] | HarnessError, tuple[LayerState, ...]]]:
    """Load files, some in parallel: for each the candidates in it or the error, and the layers that confined its code."""
    numbers = {one.source.text: f"({number} of {len(requests)})" for number, one in enumerate(requests, start=1)}

    def announce_file(line: str) -> None:
        # The progress names the file before its classes.
        if len(requests) > 1 and line in numbers:
            announce(f"importing {line} {numbers[line]}")

    jobs = [
        Job(
            request=one,
            working_folder=_project(one.source),
            variables={"CUDA_VISIBLE_DEVICES": ""},
            sandbox=sandbox,
        )
        for one in requests
    ]
    # A daemon, so that an interruption does not wait for it.
    meanwhile = threading.Thread(target=importlib.import_module, args=(_IMPORTED_LATE,), daemon=True)
    meanwhile.start()
    results: list[tuple[list[Candidate] | HarnessError, tuple[LayerState, ...]]] = []
    with warm_workers() as area, temporary_folder("model", inside=area) as folder:
        limits = Limits(seconds=timeout, start_seconds=START_TIMEOUT_SECONDS, written_bytes=_MAX_WRITTEN_BYTES)
        outcomes = run_processes(jobs, folder, limits=limits, announce=announce_file)
        meanwhile.join()
        for request, outcome in zip(requests, outcomes, strict=True):
            try:
                results.append((_load_file(request, outcome, timeout), outcome.layers))
            except HarnessError as error:
                results.append((error, outcome.layers))
    return results


def _candidates(found: list[Candidate] | HarnessError, file: ModelSource, *, alone: bool) -> list[Candidate]:
    """Return the candidates in a file; if it is not loaded ``alone``, its failure is a candidate that holds the error."""
    if not isinstance(found, HarnessError):
        return found
    if alone or not isinstance(found, ModelSourceError | CaptureError):
        raise found
    name, key, failure = file.text, str(file.path), Failure.of(found)
    return [Candidate(name=name, key=key, parts=(), optional=(), failure=failure, excuse="", model=None, notes=())]


def _chosen(
    candidates: list[Candidate], text: str, announce: Callable[[str], None]
) -> tuple[Candidate, CapturedModel, tuple[str, ...]]:
    """Choose the model, see `choose`, and announce the notes; return the candidate, its model and the notes."""
    chosen, reasons = choose(candidates, text)
    if chosen.model is None:
        raise ExaminerError(f"expected the graph of {chosen.name}, which was chosen as the model, got none")
    notes = (*dict.fromkeys(note for candidate in candidates for note in candidate.notes), *reasons)
    for note in notes:
        announce(note)
    return chosen, chosen.model, notes


def _load_file(request: CaptureRequest, outcome: Outcome, timeout: float) -> list[Candidate]:
    text = request.source.text
    if outcome.ending is not Ending.EXITED:
        late = SlowModelError if outcome.progress else BusyError
        kind = late if outcome.ending is Ending.TIMED_OUT else ModelSourceError
        raise kind(_limit_message(outcome, text, timeout))
    result = outcome.result(request)
    printed = f" The last output was: {outcome.output}" if outcome.output else ""
    if result is None and outcome.exit_code < 0:
        raise ModelSourceError(
            f"the process that imports {text} was ended by {signal.Signals(-outcome.exit_code).name}: expected code that runs. "
            f"Does the file call compiled code that crashes, or need too much memory?{printed}"
        )
    if result is None:
        raise ModelSourceError(
            f"importing {text} ended the process without an error (exit code {outcome.exit_code}): expected a file that defines "
            f"a model. Does the file call exit() when imported?{printed}"
        )
    most = _MAX_OWN_TENSOR_BYTES if outcome.job.sandbox == NO_REQUIREMENT else _MAX_TENSOR_BYTES
    models = []
    for number, report in enumerate(result.classes):
        place, _, name = report.name.rpartition(":")
        if place != text.removesuffix(f":{name}") or not name.isidentifier():
            raise unreadable(ValueError(f"{report.name!r} is not a class of {text}"))
        try:
            stem = outcome.folder / str(number)
            model = read_captured(stem, report.name, max_bytes=most) if report.failure is None else None
        except GraphFormatError as error:
            raise unreadable(error) from error
        models.append(model and replace(model, is_own_statement=True))
    reports = zip(result.classes, models, strict=True)
    return [Candidate(**vars(report), model=model, notes=result.notes) for report, model in reports]


def _limit_message(outcome: Outcome, text: str, timeout: float) -> str:
    if outcome.ending is Ending.PRINTED_TOO_MUCH:
        return (
            f"{text} printed more than {Limits().output_bytes:,} bytes while it was loaded: expected a file that only defines "
            'the model. Put code that prints under `if __name__ == "__main__":`'
        )
    if outcome.ending is Ending.WROTE_TOO_MUCH:
        return (
            f"{text} wrote more than {_MAX_WRITTEN_BYTES:,} bytes while it was loaded: expected a file that only defines the "
            'model. Put code that writes files under `if __name__ == "__main__":`'
        )
    seconds = timeout if outcome.progress else START_TIMEOUT_SECONDS
    late = f"{text} did not finish loading within {seconds:.0f} seconds: expected"
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
