"""Training one model under many seeds.

On a CPU, each seed is trained in a process of its own with one thread, a given number at a time. On a GPU, seeds are
trained in this process: as the branches of one CUDA graph, or one after the other with an engine that captures no
graph.

Each result is bit-equal to that of a separate run with the same engine (and, on a CPU, one thread). A seed that fails
does not affect the others, and the results of finished seeds are kept: a repeated call trains only the remaining seeds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol, cast

import torch

from harness.data import Dataset
from harness.errors import HarnessError, InputError
from harness.graph import CapturedModel
from harness.training.digests import initial_digests
from harness.training.engines import ENGINES
from harness.training.group import Member, train_group
from harness.training.machine import environment, keep_freed_memory
from harness.training.observer import Observer
from harness.training.processes import process_context
from harness.training.record import EpochResult, RunRecord
from harness.training.run_folder import (
    CHECKPOINT_FOLDER,
    RECORD_FILE,
    finished_record,
    opened,
    start_over,
    train_into,
    write_end,
)
from harness.training.run_spec import RunSpec

_SECONDS_TO_STOP = 60
# torch._dynamo takes seconds to import, and the first optimizer imports it.
_PRELOADED_MODULES = ["harness.training", "torch._dynamo"]
# Besides the seed: fields in which a finished run must agree with the requested spec, so that it is not trained again.
_IDENTITY = ("graph_digest", "recipe", "engine", "device")


@dataclass(frozen=True, kw_only=True)
class SeedsJob:
    """The model, the data and the spec that all seeds share; pickled and sent to the training processes.

    ``load_model`` is called with ``seed=`` and returns the captured model with the initial weights of that seed;
    ``load_data`` returns the data set; ``spec`` describes the runs, with another ``seed`` for each run.
    """

    load_model: Callable[..., CapturedModel]
    load_data: Callable[[], Dataset]
    spec: RunSpec

    def __post_init__(self) -> None:
        if self.spec.engine not in ENGINES:
            msg = f"expected the name of an engine, got engine={self.spec.engine!r}. Use one of: {', '.join(ENGINES)}."
            raise InputError(msg)

    def load(self, seed: int) -> tuple[CapturedModel, RunSpec]:
        """Load the model with the initial weights of one seed; return the model and the spec of its run.

        Raises:
            InputError: the network is not that of the spec.
        """
        captured = self.load_model(seed=seed)
        digest = captured.graph.exact_digest()
        if digest != self.spec.graph_digest:
            raise InputError(
                f"expected the network that was captured before the first run, graph_digest={self.spec.graph_digest[:12]}, got "
                f"graph_digest={digest[:12]} for seed {seed}. The code of the model has changed since, or builds another network "
                "for this seed: run the command again."
            )
        return captured, dataclasses.replace(self.spec, seed=seed, model=captured.name)

    def train(self, seed: int, folder: Path, observer: Observer) -> RunRecord:
        """Train the run of one seed in this process, or resume it, with checkpoints and results in ``folder``."""
        captured, spec = self.load(seed)
        return train_into(folder, captured.to_module(), spec, self.load_data(), observer=observer)


@dataclass(frozen=True, kw_only=True)
class SeedOutcome:
    """How the training of one seed ended.

    ``record`` is the record of the run, ``complete`` or ``diverged``; the file with this record is in ``folder``, with
    checkpoints and weights. If the run did not reach such an end, ``record`` is None and ``problem`` is the reason.
    """

    seed: int
    folder: Path
    record: RunRecord | None
    problem: str = ""


class SeedsObserver(Protocol):
    """The methods that `train_seeds` calls as seeds proceed: those of `Observer`, with the seed as an additional argument."""

    def on_seed_start(self, seed: int, *, epochs: int, steps: int, done: int) -> None:
        """Called before the first step of a seed.

        ``epochs`` is the declared number of epochs, ``steps`` the number of steps per epoch, and ``done`` the number of
        epochs that were restored from a checkpoint.
        """

    def on_seed_step(self, seed: int, *, epoch: int, step: int) -> None:
        """Called about ten times a second for each seed that is being trained."""

    def on_seed_epoch(self, seed: int, result: EpochResult) -> None:
        """Called after each epoch of a seed, with the results of the epoch."""

    def on_seed_warning(self, seed: int, message: str) -> None:
        """Called with a message for the user about a problem that does not stop the seed, such as a damaged checkpoint."""

    def on_seed_end(self, outcome: SeedOutcome) -> None:
        """Called when the training of a seed has ended, and for each seed that an earlier call of `train_seeds` has finished."""


class SeedsInterrupted(KeyboardInterrupt):
    """Raised if a KeyboardInterrupt stops the training of ``seeds`` seeds; ``outcomes`` are those of the finished seeds."""

    def __init__(self, outcomes: tuple[SeedOutcome, ...], seeds: int) -> None:
        super().__init__(f"interrupted; {len(outcomes)} of {seeds} seeds are finished, and their results are kept")
        self.outcomes = outcomes


def seed_folder(folder: Path, seed: int) -> Path:
    """Return the subfolder of ``folder`` that holds the run of one seed."""
    return folder / f"seed-{seed}"


def seeds_at_once(spec: RunSpec, wanted: int) -> int:
    """Return how many of the seeds wanted at a time `train_seeds` trains: one on a GPU, unless the engine can group runs."""
    return wanted if ENGINES[spec.engine].supports_groups or torch.device(spec.device).type == "cpu" else 1


def train_seeds(
    job: SeedsJob,
    seeds: Iterable[int],
    folder: Path,
    *,
    processes: int,
    observer: SeedsObserver,
    fresh: bool = False,
    enough: Callable[[SeedOutcome], bool] = lambda _: False,
) -> tuple[SeedOutcome, ...]:
    """Train many seeds, each as a separate run.

    A seed whose folder holds a record of the same training, ``complete`` or ``diverged``, is not trained again; a seed with a
    checkpoint is resumed.

    Args:
        job: the model, the data and the spec.
        seeds: the seed of each run.
        folder: contains one subfolder per seed. No other process may write to the folder during the call.
        processes: how many seeds to train at a time; on a GPU, how many branches a graph has.
        observer: the object whose methods are called as the seeds proceed.
        fresh: whether to set aside the results of earlier calls for these seeds first, and to delete their checkpoints.
        enough: called with the outcome of each seed that has ended, first with those of earlier calls; when ``enough`` returns
            True, no further seed is started, and the running seeds are interrupted.

    Returns:
        The outcome of each seed that has ended, in the order of ``seeds``.

    Raises:
        SeedsInterrupted: a KeyboardInterrupt came; the running seeds have written their checkpoints.
        InputError: the data cannot be loaded.
    """
    seeds = tuple(seeds)
    if fresh:
        for seed in seeds:
            start_over(seed_folder(folder, seed))
    call = _Call(job=job, folder=folder, observer=observer, enough=enough)
    for outcome in _finished(job, seeds, folder):
        call.add(outcome)
    finished = call.outcomes
    waiting = [] if call.is_enough else [seed for seed in seeds if seed not in finished]
    try:
        if ENGINES[job.spec.engine].supports_groups:
            _train_in_groups(call, waiting, processes)
        elif torch.device(job.spec.device).type == "cpu":
            _train_in_processes(call, waiting, processes)
        else:
            _train_in_turn(call, waiting)
    except KeyboardInterrupt as stop:
        ended = tuple(finished[seed] for seed in seeds if seed in finished and finished[seed].record)
        raise SeedsInterrupted(ended, len(seeds)) from stop
    return tuple(finished[seed] for seed in seeds if seed in finished)


def _finished(job: SeedsJob, seeds: tuple[int, ...], folder: Path) -> list[SeedOutcome]:
    """Return the outcomes of the seeds whose folder holds a complete or diverged record of the same training."""
    found: list[SeedOutcome] = []
    data = None
    for seed in seeds:
        path = seed_folder(folder, seed)
        try:
            record = finished_record(path)
        except InputError:
            continue
        if record is None:
            continue
        data = data or job.load_data().digest
        same_training = all(getattr(record, name) == getattr(job.spec, name) for name in _IDENTITY)
        if same_training and record.seed == seed and record.data_digest == data:
            if not found and not _starts_equally(job, record):
                break
            found.append(SeedOutcome(seed=seed, folder=path, record=record))
    return found


def _starts_equally(job: SeedsJob, record: RunRecord) -> bool:
    """Whether the model has the initial weights of a recorded run.

    True if they cannot be compared: on another machine, the same seed can give weights that differ by rounding errors.
    """
    here = environment(torch.device(job.spec.device))
    if any(getattr(here, name) != getattr(record.environment, name) for name in ("torch", "processor", "platform")):
        return True
    try:
        captured, _ = job.load(record.seed)
    except Exception:  # noqa: BLE001 - reported for each seed that is trained
        return True
    initial = record.digests[0]
    return initial_digests(captured.to_module()) == (initial.parameters, initial.buffers)


@dataclass(kw_only=True)
class _Call:
    """The arguments of one call of `train_seeds`, the outcomes of the seeds so far, and whether ``enough`` has returned True."""

    job: SeedsJob
    folder: Path
    observer: SeedsObserver
    enough: Callable[[SeedOutcome], bool]
    outcomes: dict[int, SeedOutcome] = field(default_factory=dict)
    is_enough: bool = False

    def forward(self, seed: int, method: str, arguments: dict[str, Any]) -> None:
        getattr(self.observer, method)(seed, **arguments)

    def observer_of(self, seed: int) -> Observer:
        return _EventForwarder(functools.partial(self.forward, seed))

    def end(self, seed: int, result: RunRecord | str) -> None:
        """Store the outcome of a seed and report it to the observer; ``result`` is the record or the reason why there is none."""
        record, problem = (result, "") if isinstance(result, RunRecord) else (None, result)
        self.add(SeedOutcome(seed=seed, folder=seed_folder(self.folder, seed), record=record, problem=problem))

    def add(self, outcome: SeedOutcome) -> None:
        self.outcomes[outcome.seed] = outcome
        self.observer.on_seed_end(outcome)
        self.is_enough |= self.enough(outcome)


def _train_in_processes(call: _Call, seeds: list[int], count: int) -> None:
    """Train each seed in a process of its own, ``count`` processes at a time."""
    context = process_context(_PRELOADED_MODULES)
    waiting = seeds[::-1]
    # Seed and process, by the connection on which the process reports.
    running: dict[Connection, tuple[int, BaseProcess]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < count:
                seed = waiting.pop()
                receiver, sender = context.Pipe(duplex=False)
                arguments = (call.job, seed, seed_folder(call.folder, seed), sender)
                process: BaseProcess = getattr(context, "Process")(target=_train_in_child, args=arguments)  # noqa: B009 - typeshed's base context has none
                process.start()
                sender.close()
                running[receiver] = (seed, process)
            for ready in wait(list(running)):
                connection = cast("Connection", ready)
                if _receive(call, *running[connection], connection):
                    del running[connection]
                    if call.is_enough:
                        return
    finally:
        _stop([process for _, process in running.values()])


def _receive(call: _Call, seed: int, process: BaseProcess, connection: Connection) -> bool:
    """Receive one event of a process and forward it to the observer; return True if the process has ended."""
    try:
        method, arguments = connection.recv()
    except EOFError:
        process.join()
        method, arguments = "end", {"problem": _exit_reason(process.exitcode)}
    if method != "end":
        call.forward(seed, method, arguments)
        return False
    process.join()
    call.end(seed, arguments["problem"] or RunRecord.read(seed_folder(call.folder, seed) / RECORD_FILE))
    return True


def _stop(processes: list[BaseProcess]) -> None:
    """Interrupt the processes and wait until they have written their checkpoints; kill those that do not end in time."""
    for process in processes:
        if process.pid and process.is_alive():
            os.kill(process.pid, signal.SIGINT)
    deadline = time.monotonic() + _SECONDS_TO_STOP
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        process.kill()
        process.join()


def _train_in_child(job: SeedsJob, seed: int, folder: Path, connection: Connection) -> None:
    # Ctrl-C sends SIGINT to all processes of the terminal's process group. This process gets a group of its own, so that
    # only the parent interrupts it. A shell makes background processes ignore SIGINT, so the handler is set again.
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    problem = ""
    try:
        torch.set_num_threads(1)
        keep_freed_memory()
        job.train(seed, folder, _EventForwarder(lambda *event: connection.send(event)))
    except KeyboardInterrupt:
        problem = "interrupted"
    except BrokenPipeError:
        # The parent has ended; the state of the run is on disk.
        return
    except Exception as error:  # noqa: BLE001 - any failure ends this seed only
        problem = _problem(error)
    with contextlib.suppress(BrokenPipeError):
        connection.send(("end", {"problem": problem}))


def _exit_reason(code: int | None) -> str:
    if code is not None and code < 0:
        return f"the process that trained this seed was killed by {signal.Signals(-code).name}"
    return f"the process that trained this seed ended with exit code {code} before the end of the run"


def _train_in_turn(call: _Call, seeds: list[int]) -> None:
    for seed in seeds:
        result: RunRecord | str
        try:
            result = call.job.train(seed, seed_folder(call.folder, seed), call.observer_of(seed))
        except Exception as error:  # noqa: BLE001 - any failure ends this seed only
            result = _problem(error)
        call.end(seed, result)
        if call.is_enough:
            return


def _train_in_groups(call: _Call, seeds: list[int], count: int) -> None:
    """Train ``count`` seeds at a time in this process, as the branches of one CUDA graph."""
    if not seeds:
        return
    data = call.job.load_data().to(torch.device(call.job.spec.device))
    for start in range(0, len(seeds), count):
        members = []
        with contextlib.ExitStack() as folders:
            for seed in seeds[start : start + count]:
                folder = seed_folder(call.folder, seed)
                try:
                    folders.enter_context(opened(folder))
                    captured, spec = call.job.load(seed)
                except Exception as error:  # noqa: BLE001 - any failure ends this seed only
                    call.end(seed, _problem(error))
                else:
                    members.append(
                        Member(
                            module=captured.to_module(),
                            spec=spec,
                            observer=call.observer_of(seed),
                            checkpoint_dir=folder / CHECKPOINT_FOLDER,
                        )
                    )
            train_group(members, data, on_end=functools.partial(_end_member, call, data))
        if call.is_enough:
            return


def _end_member(call: _Call, data: Dataset, member: Member, result: RunRecord | Exception) -> None:
    seed = member.spec.seed
    if isinstance(result, RunRecord):
        try:
            write_end(seed_folder(call.folder, seed), member.module, result, data)
        except Exception as error:  # noqa: BLE001 - a full disk, for example, ends this seed only
            result = error
    if isinstance(result, Exception):
        call.end(seed, _problem(result))
    elif result.status != "interrupted":
        call.end(seed, result)


def _problem(error: Exception) -> str:
    return str(error) if isinstance(error, HarnessError) else f"{type(error).__name__}: {error}"


class _EventForwarder:
    """An observer of one run that passes each call to ``send``, as the name of a `SeedsObserver` method and its arguments."""

    def __init__(self, send: Callable[[str, dict[str, object]], object]) -> None:
        self._send = send

    def on_start(self, *, spec: RunSpec, steps: int, done: tuple[EpochResult, ...]) -> None:
        self._send("on_seed_start", {"epochs": spec.recipe.epochs, "steps": steps, "done": len(done)})

    def on_step(self, *, epoch: int, step: int, **_: object) -> None:
        self._send("on_seed_step", {"epoch": epoch, "step": step})

    def on_epoch(self, result: EpochResult) -> None:
        self._send("on_seed_epoch", {"result": result})

    def on_warning(self, message: str) -> None:
        self._send("on_seed_warning", {"message": message})
