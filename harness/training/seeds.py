"""Many seeds of one training.

On a CPU: a process of one thread for each, as many at a time as there are cores. On a GPU, in this process: some at a time as
branches of one graph, or, with an engine that captures no graph, one after the other.

A seed's bits are those of a solo run with the same engine (and, on a CPU, one thread). One that fails costs nobody else
anything, and what is finished is finished: the same call goes on with what is not.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol, cast

import torch

from harness.data import Dataset
from harness.errors import HarnessError, InputError
from harness.graph import CapturedModel
from harness.training.engines import ENGINES
from harness.training.loop import DIGEST_EVERY, Member, Observer, train_group
from harness.training.machine import keep_freed_memory
from harness.training.recipe import Recipe
from harness.training.record import EpochResult, RunRecord
from harness.training.run_folder import CHECKPOINT_FOLDER, RECORD_FILE, opened, train_into, write_end

_SECONDS_TO_STOP = 60
# The second is imported by the first optimizer, for seconds.
_IMPORTED_ONCE = ["harness.training", "torch._dynamo"]


@dataclass(frozen=True, kw_only=True)
class SeedsJob:
    """What all seeds have in common; it is pickled into their processes.

    Args:
        load_model: called with ``seed=``: the captured network with the initial weights of that seed.
        load_data: the data.
        recipe: how to train.
        engine: what computes the steps, by its own name: ``auto`` could choose another one the next time.
        source: what the user named the network by, for the records.
        arguments: what it was built with, likewise.
        digest_every: steps between two digests in the records.
        device: where to train.

    Raises:
        InputError: there is no such engine.
    """

    load_model: Callable[..., CapturedModel]
    load_data: Callable[[], Dataset]
    recipe: Recipe
    engine: str
    source: str = ""
    arguments: str = ""
    digest_every: int = DIGEST_EVERY
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - it cannot be changed

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            msg = f"expected an engine by its name, got engine={self.engine!r}. Use one of: {', '.join(ENGINES)}."
            raise InputError(msg)

    def train(self, seed: int, folder: Path, observer: Observer, *, fresh: bool) -> RunRecord:
        """Train one seed here, into its folder."""
        captured = self.load_model(seed=seed)
        return train_into(
            folder,
            captured.to_module(),
            self.recipe,
            self.load_data(),
            seed=seed,
            device=self.device,
            model_name=captured.name,
            graph_digest=captured.graph.exact_digest(),
            observer=observer,
            resume=not fresh,
            engine=self.engine,
            digest_every=self.digest_every,
            source=self.source,
            arguments=self.arguments,
        )


@dataclass(frozen=True, kw_only=True)
class SeedOutcome:
    """How one seed ended.

    Args:
        seed: which.
        folder: where its record, weights and checkpoints are.
        record: its record, ``complete`` or ``diverged``; None where it did not come to an end.
        problem: why not; empty where there is a record.
    """

    seed: int
    folder: Path
    record: RunRecord | None
    problem: str = ""


class SeedsObserver(Protocol):
    """Whoever wants to see the seeds as they go."""

    def on_seed_start(self, seed: int, *, epochs: int, steps: int, done: int) -> None:
        """A seed begins its steps: so many epochs of so many; ``done`` epochs were brought by a checkpoint."""

    def on_seed_step(self, seed: int, *, epoch: int, step: int) -> None:
        """Now and then."""

    def on_seed_epoch(self, seed: int, result: EpochResult) -> None:
        """An epoch of a seed is whole."""

    def on_seed_warning(self, seed: int, message: str) -> None:
        """Something the user should know that does not stop the seed."""

    def on_seed_end(self, outcome: SeedOutcome) -> None:
        """A seed has ended, or had ended in an earlier call."""


class SeedsInterrupted(KeyboardInterrupt):
    """The seeds were stopped from outside; ``outcomes`` are those that had ended by then."""

    def __init__(self, outcomes: tuple[SeedOutcome, ...], seeds: int) -> None:
        super().__init__(f"interrupted; {len(outcomes)} of {seeds} seeds are finished and kept")
        self.outcomes = outcomes


def seed_folder(folder: Path, seed: int) -> Path:
    """Where one seed's files are in the folder of many."""
    return folder / f"seed-{seed}"


def train_seeds(
    job: SeedsJob, seeds: Iterable[int], folder: Path, *, processes: int, observer: SeedsObserver, fresh: bool = False
) -> tuple[SeedOutcome, ...]:
    """Train many seeds, each as if it were alone.

    A seed that has a complete record of this training in its folder is not trained again; one with a checkpoint goes on
    from there.

    Args:
        job: what to train.
        seeds: which seeds.
        folder: where their folders go. Nobody else may write there meanwhile.
        processes: how many at a time; on a GPU, branches of a graph.
        observer: who is told how it goes.
        fresh: start all over.

    Returns:
        How each seed ended, in the order of ``seeds``.

    Raises:
        SeedsInterrupted: a KeyboardInterrupt came; the running seeds have written what they had.
        InputError: the model or the data cannot be loaded.
    """
    seeds = tuple(seeds)
    finished = {} if fresh else _finished(job, seeds, folder)
    for outcome in finished.values():
        observer.on_seed_end(outcome)
    in_processes = job.device.type == "cpu" and ENGINES[job.engine].capturer is None
    group = (_Processes if in_processes else _Here)(job, folder, observer, finished, fresh=fresh)
    waiting = [seed for seed in reversed(seeds) if seed not in finished]
    try:
        while waiting or group.running:
            while waiting and len(group.running) < processes:
                group.start(waiting.pop())
            group.listen()
    except BaseException as stop:
        group.stop()
        if isinstance(stop, KeyboardInterrupt):
            ended = tuple(finished[seed] for seed in seeds if seed in finished and finished[seed].record)
            raise SeedsInterrupted(ended, len(seeds)) from stop
        raise
    return tuple(finished[seed] for seed in seeds)


def _finished(job: SeedsJob, seeds: tuple[int, ...], folder: Path) -> dict[int, SeedOutcome]:
    """Seeds that an earlier call has finished."""
    found: dict[int, SeedOutcome] = {}
    graph = data = None
    for seed in seeds:
        where = seed_folder(folder, seed)
        try:
            record = RunRecord.read(where / RECORD_FILE)
        except InputError:
            continue
        graph = graph or job.load_model(seed=seed).graph.exact_digest()
        data = data or job.load_data().digest
        made_of = (record.graph_digest, record.data_digest, record.recipe, record.engine, record.seed, record.device)
        if record.status == "complete" and made_of == (graph, data, job.recipe, job.engine, seed, str(job.device)):
            found[seed] = SeedOutcome(seed=seed, folder=where, record=record)
    return found


class _Group:
    """Seeds that are trained at one time; how they end is put into ``ended``."""

    def __init__(
        self,
        job: SeedsJob,
        folder: Path,
        observer: SeedsObserver,
        ended: dict[int, SeedOutcome],
        *,
        fresh: bool,
    ) -> None:
        self._job = job
        self._folder = folder
        self._observer = observer
        self._ended = ended
        self._fresh = fresh


class _Processes(_Group):
    """A process a seed; ``running`` has them by the connection that each tells on."""

    def __init__(self, *common: Any, fresh: bool) -> None:  # noqa: ANN401 - those of _Group
        super().__init__(*common, fresh=fresh)
        # A fork server imports PyTorch once for all; forking this process itself would copy its threads' locks.
        method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        self._context = multiprocessing.get_context(method)
        self._context.set_forkserver_preload(_IMPORTED_ONCE)
        self.running: dict[Connection, tuple[int, BaseProcess]] = {}

    def start(self, seed: int) -> None:
        receiver, sender = self._context.Pipe(duplex=False)
        arguments = (self._job, seed, seed_folder(self._folder, seed), self._fresh, sender)
        process: BaseProcess = getattr(self._context, "Process")(target=_train_in_child, args=arguments)  # noqa: B009 - typeshed's base context has none
        process.start()
        sender.close()
        self.running[receiver] = (seed, process)

    def listen(self) -> None:
        """Wait until something is told, and pass it on."""
        for told in wait(list(self.running)):
            self._hear(cast("Connection", told))

    def _hear(self, connection: Connection) -> None:
        seed, process = self.running[connection]
        try:
            call, arguments, figures = connection.recv()
        except EOFError:
            process.join()
            call, arguments = "end", (_without_a_word(process.exitcode),)
        if call != "end":
            getattr(self._observer, call)(seed, *arguments, **figures)
            return
        process.join()
        del self.running[connection]
        (problem,) = arguments
        folder = seed_folder(self._folder, seed)
        self._ended[seed] = SeedOutcome(
            seed=seed,
            folder=folder,
            record=None if problem else RunRecord.read(folder / RECORD_FILE),
            problem=problem,
        )
        self._observer.on_seed_end(self._ended[seed])

    def stop(self) -> None:
        """Interrupt the processes and wait for what they write; one that does not end is killed."""
        for _, process in self.running.values():
            if process.pid and process.is_alive():
                os.kill(process.pid, signal.SIGINT)
        deadline = time.monotonic() + _SECONDS_TO_STOP
        for _, process in self.running.values():
            process.join(max(0.0, deadline - time.monotonic()))
            process.kill()
            process.join()


class _Here(_Group):
    """Seeds in this process; as `_Processes`, but `listen` comes back when they have ended."""

    def __init__(self, *common: Any, fresh: bool) -> None:  # noqa: ANN401 - those of _Group
        super().__init__(*common, fresh=fresh)
        self._data: Dataset | None = None
        self.running: list[int] = []

    def start(self, seed: int) -> None:
        self.running.append(seed)

    def listen(self) -> None:
        """Train them."""
        if ENGINES[self._job.engine].capturer:
            self._train_together()
        else:
            self._train_in_turn()
        self.running = []

    def _train_in_turn(self) -> None:
        for seed in self.running:
            result: RunRecord | Exception
            try:
                folder = seed_folder(self._folder, seed)
                result = self._job.train(seed, folder, self._teller(seed), fresh=self._fresh)
            except Exception as error:  # noqa: BLE001 - whatever it is, it costs this seed only
                result = error
            self._end(seed, result)

    def _train_together(self) -> None:
        job, members = self._job, []
        self._data = self._data or job.load_data().to(job.device)
        with contextlib.ExitStack() as folders:
            for seed in self.running:
                folder = seed_folder(self._folder, seed)
                try:
                    folders.enter_context(opened(folder))
                    captured = job.load_model(seed=seed)
                    member = Member(
                        module=captured.to_module(),
                        seed=seed,
                        model_name=captured.name,
                        graph_digest=captured.graph.exact_digest(),
                        observer=self._teller(seed),
                        checkpoint_dir=folder / CHECKPOINT_FOLDER,
                    )
                except Exception as error:  # noqa: BLE001 - as above
                    self._end(seed, error)
                else:
                    members.append(member)
            train_group(
                members,
                job.recipe,
                self._data,
                device=job.device,
                engine=job.engine,
                on_end=self._write,
                resume=not self._fresh,
                digest_every=job.digest_every,
                source=job.source,
                arguments=job.arguments,
            )

    def _write(self, member: Member, result: RunRecord | Exception) -> None:
        if isinstance(result, RunRecord):
            try:
                write_end(seed_folder(self._folder, member.seed), member.module, result)
            except Exception as error:  # noqa: BLE001 - a full disk, for one: as above
                result = error
        self._end(member.seed, result)

    def _end(self, seed: int, result: RunRecord | Exception) -> None:
        folder = seed_folder(self._folder, seed)
        if isinstance(result, Exception):
            outcome = SeedOutcome(seed=seed, folder=folder, record=None, problem=_problem(result))
        elif result.status == "interrupted":
            return
        else:
            outcome = SeedOutcome(seed=seed, folder=folder, record=result)
        self._ended[seed] = outcome
        self._observer.on_seed_end(outcome)

    def _teller(self, seed: int) -> _Teller:
        return _Teller(lambda call, arguments, figures: getattr(self._observer, call)(seed, *arguments, **figures))

    def stop(self) -> None:
        """Nothing runs any more: what interrupted the call has interrupted the training."""


def _train_in_child(job: SeedsJob, seed: int, folder: Path, fresh: bool, connection: Connection) -> None:  # noqa: FBT001 - a process takes positions
    # Ctrl-C reaches all processes of a terminal's group: out of it, only the parent says when to stop, and once. A shell lets
    # processes in the background ignore it: then the parent must be heard all the same.
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    problem = ""
    try:
        torch.set_num_threads(1)
        keep_freed_memory()
        job.train(seed, folder, _Teller(lambda *told: connection.send(told)), fresh=fresh)
    except KeyboardInterrupt:
        problem = "interrupted"
    except BrokenPipeError:
        # Nobody is there any more; what there is of the run is on disk.
        return
    except Exception as error:  # noqa: BLE001 - whatever it is, it costs this seed only
        problem = _problem(error)
    with contextlib.suppress(BrokenPipeError):
        connection.send(("end", (problem,), {}))


def _problem(error: Exception) -> str:
    return str(error) if isinstance(error, HarnessError) else f"{type(error).__name__}: {error}"


def _without_a_word(code: int | None) -> str:
    if code is not None and code < 0:
        return f"its process was killed by {signal.Signals(-code).name}"
    return f"its process ended with code {code} and without a word"


class _Teller:
    """Passes what a training tells on, as the name of a call, its arguments and its figures."""

    def __init__(self, tell: Callable[[str, tuple[object, ...], dict[str, object]], object]) -> None:
        self._pass_on = tell

    def on_start(self, *, recipe: Recipe, steps: int, done: tuple[EpochResult, ...], **_: object) -> None:
        self._tell("on_seed_start", epochs=recipe.epochs, steps=steps, done=len(done))

    def on_step(self, *, epoch: int, step: int, **_: object) -> None:
        self._tell("on_seed_step", epoch=epoch, step=step)

    def on_epoch(self, result: EpochResult) -> None:
        self._tell("on_seed_epoch", result)

    def on_warning(self, message: str) -> None:
        self._tell("on_seed_warning", message)

    def _tell(self, call: str, *arguments: object, **figures: object) -> None:
        self._pass_on(call, arguments, figures)
