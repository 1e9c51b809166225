"""Running worker processes: starting them, watching their time and output, and killing them with their child processes."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol, TypeVar

from harness.errors import visible
from harness.files import temporary_folder
from harness.sandbox.kernel import machine
from harness.sandbox.layers import Layer, LayerState
from harness.sandbox.protocol import (
    MAX_MESSAGE_BYTES,
    OUTPUT_FILE,
    PROGRESS_FILE,
    Request,
    own_caches,
    read_limited,
    read_result,
    write_request,
)

_SECONDS_BETWEEN_CHECKS, _SECONDS_BETWEEN_MEASUREMENTS = 0.05, 1.0
_SHOWN_OUTPUT_BYTES, _SHOWN_OUTPUT_CHARACTERS = 4_000, 300
_MAX_PROGRESS_BYTES = 2**20
# In a workspace: more than are copied into it, and few enough to be counted quickly.
_MAX_ENTRIES = 50_000
# A process that is killed ends at once, unless its worker is still importing.
_SECONDS_TO_KILL = 1.0
# Of the environment, the names that begin so are passed on: what Python, its libraries and the devices are found by.
_PASSED_VARIABLES = (
    *("PATH", "PYTHON", "VIRTUAL_ENV", "LD_", "DYLD_", "LANG", "LC_", "TZ", "HOME", "USER", "LOGNAME", "TMPDIR"),
    *("OMP_", "MKL_", "KMP_", "GOMP_", "TORCH_", "CUDA_", "CUBLAS_", "NVIDIA_"),
)

R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits for worker processes.

    ``seconds`` limits the wall time of a process, ``idle_seconds`` the wall time without progress, ``output_bytes`` the
    size of the output, ``written_bytes`` the size of all files in the workspace, and ``parallel`` the number of processes
    at a time.
    """

    seconds: float = math.inf
    idle_seconds: float = math.inf
    output_bytes: int = 64 * 2**20
    written_bytes: int = 2 * 2**30
    parallel: int = 2


@dataclass(frozen=True, kw_only=True)
class Job:
    """A request, with the working folder and the additional environment variables of the process that performs it.

    ``title`` precedes each progress line that `run_processes` announces; an empty title is left out.
    """

    request: Request[Any]
    working_folder: Path
    variables: Mapping[str, str] = field(default_factory=dict)
    title: str = ""


class Ending(StrEnum):
    """The ways in which a worker process can end."""

    EXITED = "exited"
    TIMED_OUT = "timed out"
    IDLE = "made no progress"
    PRINTED_TOO_MUCH = "printed too much"
    WROTE_TOO_MUCH = "wrote too much"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a worker process ended, and its workspace folder.

    The harness killed the process unless ``ending`` is `Ending.EXITED`. ``exit_code`` is the negative number of the
    signal if a signal ended the process. ``layers`` are the layers that confined the process before it ran code of a
    submission; empty if it was not confined.
    """

    job: Job
    folder: Path
    ending: Ending
    exit_code: int
    layers: tuple[LayerState, ...] = ()

    @property
    def output(self) -> str:
        """The end of the stdout and stderr of the process, joined into one line."""
        output = b""
        with contextlib.suppress(OSError):
            output = read_limited(self.folder / OUTPUT_FILE, sys.maxsize, last_bytes=_SHOWN_OUTPUT_BYTES)
        return visible(" ".join(output.decode(errors="replace").split())[-_SHOWN_OUTPUT_CHARACTERS:])

    @property
    def progress(self) -> tuple[str, ...]:
        """The complete lines of the progress file; empty if the file cannot be read."""
        return _progress(self.folder)

    def result(self, request: Request[R]) -> R | None:
        """Return the result of the request, or raise the error that the process reported, see `read_result`."""
        return read_result(request, self.folder)


class Process(Protocol):
    """The methods of a worker process that do not depend on how the process was started."""

    @property
    def layers(self) -> tuple[LayerState, ...]:
        """The layers that confine the process; empty if it is not confined, or not yet."""

    def poll(self) -> int | None:
        """Return the exit code of the process, which is negative for a signal; None while the process runs."""

    def end(self) -> int:
        """Kill the process and its child processes, wait for the end of the process, and return its exit code."""


class _GroupLeader(subprocess.Popen[bytes]):
    """A process that leads its own process group, so that its child processes can be killed with it."""

    layers = ()

    def end(self) -> int:
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            self.kill()
        return self.wait()


class _Worker:
    """A worker process that imports PyTorch once and forks a process for each request, see `harness.sandbox.worker`."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._resources = contextlib.ExitStack()
        folder = self._resources.enter_context(temporary_folder("worker"))
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = _launched(
                ["--serve", str(theirs.fileno())],
                folder,
                variables,
                working_folder=folder,
                descriptors=[theirs.fileno()],
            )
        self.is_closed = False
        self._codes: dict[str, int | None] = {}
        self.layers: dict[str, tuple[LayerState, ...]] = {}

    def start(self, folder: Path) -> _Forked:
        """Fork a process that performs the request in a workspace."""
        self._codes[str(folder)] = None
        self._send({"start": str(folder)})
        return _Forked(self, folder)

    def kill(self, folder: Path) -> int:
        """Kill the process of a workspace, or the worker if it does not answer, and return the process's exit code."""
        self._send({"kill": str(folder)})
        code = self.exit_code(folder, seconds=_SECONDS_TO_KILL)
        return self.close() if code is None else code

    def exit_code(self, folder: Path, *, seconds: float = 0.0) -> int | None:
        """The exit code of the process of a workspace; None if it still runs after ``seconds``."""
        until = time.monotonic() + seconds
        while self._codes[str(folder)] is None:
            self._control.settimeout(max(until - time.monotonic(), 0.0))
            try:
                message = self._control.recv(MAX_MESSAGE_BYTES)
            except (TimeoutError, BlockingIOError):
                return None
            except OSError:
                message = b""
            if not message:
                self.close()
                break
            self._note(json.loads(message))
        return self._codes[str(folder)]

    def _note(self, message: dict[str, Any]) -> None:
        if "ended" in message:
            self._codes[message["ended"]] = message["code"]
        else:
            self.layers[message["confined"]] = tuple(
                LayerState(**state | {"layer": Layer(state["layer"])}) for state in message["layers"]
            )

    def _send(self, message: dict[str, str]) -> None:
        # If the worker is gone, `exit_code` finds out.
        with contextlib.suppress(OSError):
            self._control.settimeout(None)
            self._control.send(json.dumps(message).encode())

    def close(self) -> int:
        """End the worker and all processes that it forked, and return its exit code."""
        self.is_closed = True
        self._control.close()
        code = self._process.end()
        self._codes = {name: code if known is None else known for name, known in self._codes.items()}
        self._resources.close()
        return code


@dataclass(frozen=True)
class _Forked:
    """A process that a worker forked."""

    worker: _Worker
    folder: Path

    @property
    def layers(self) -> tuple[LayerState, ...]:
        return self.worker.layers.get(str(self.folder), ())

    def poll(self) -> int | None:
        return self.worker.exit_code(self.folder)

    def end(self) -> int:
        code = self.poll()
        return self.worker.kill(self.folder) if code is None else code


_workers: dict[tuple[tuple[str, str], ...], _Worker] = {}
_users_of_workers = 0


@contextlib.contextmanager
def warm_workers() -> Iterator[None]:
    """Keep worker processes, which have imported PyTorch, from one call of `run_processes` to the next in this block."""
    global _users_of_workers  # noqa: PLW0603 - one per process, like the workers
    _users_of_workers += 1
    try:
        yield
    finally:
        _users_of_workers -= 1
        if not _users_of_workers:
            while _workers:
                _workers.popitem()[1].close()


def start_process(folder: Path, job: Job) -> Process:
    """Start the process that performs the request in a workspace; inside `warm_workers` only."""
    if not (job.request.is_confined and machine()):
        return _launched([str(folder)], folder, job.variables, working_folder=job.working_folder)
    key = tuple(sorted(job.variables.items()))
    if key not in _workers or _workers[key].is_closed:
        _workers[key] = _Worker(job.variables)
    return _workers[key].start(folder)


def _launched(
    arguments: Sequence[str],
    folder: Path,
    variables: Mapping[str, str],
    *,
    working_folder: Path,
    descriptors: Sequence[int] = (),
) -> _GroupLeader:
    """Start a worker process.

    No other function sets the command line and the environment of such a process.
    """
    passed = {name: value for name, value in os.environ.items() if name.startswith(_PASSED_VARIABLES)}
    # The package that is imported here, wherever it was found.
    package = str(Path(__file__).parents[2])
    with (folder / OUTPUT_FILE).open("wb") as output:
        return _GroupLeader(
            [sys.executable, "-m", "harness.sandbox.worker", *arguments],
            cwd=working_folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # PYTHONSAFEPATH keeps the working directory off the path until the libraries are imported: a file called
            # torch.py beside the model must not be taken for the library. MPLBACKEND: plots open no windows.
            env={
                **passed,
                "PYTHONPATH": os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH")))),
                "PYTHONSAFEPATH": "1",
                "MPLBACKEND": "Agg",
                **own_caches(folder),
                **variables,
            },
            pass_fds=descriptors,
            start_new_session=True,
        )


def run_processes(
    jobs: Sequence[Job],
    folder: Path,
    *,
    limits: Limits,
    announce: Callable[[str], None] = lambda _: None,
    check: Callable[[Outcome], object] = lambda _: None,
) -> list[Outcome]:
    """Run a worker process for each job, some in parallel, and return their outcomes in the order of the jobs.

    The workspaces are created in ``folder``. A process that exceeds the limits is killed; no process is left running.
    ``announce`` is called with each new progress line, after the job's title; ``check``, with each outcome as soon as
    its process has ended. If one of these two functions raises an exception, the other processes are killed and the
    exception propagates.
    """
    waiting = list(enumerate(jobs))
    running: dict[int, _Running] = {}
    outcomes: dict[int, Outcome] = {}
    with warm_workers():
        try:
            while waiting or running:
                while waiting and len(running) < limits.parallel:
                    number, job = waiting.pop(0)
                    workspace = Path(tempfile.mkdtemp(dir=folder))
                    (workspace / PROGRESS_FILE).touch()
                    write_request(job.request, workspace)
                    running[number] = _Running(job=job, folder=workspace, process=start_process(workspace, job))
                for number, one in list(running.items()):
                    ending = one.ending(limits)
                    one.announce(announce)
                    if ending is not None:
                        process = running.pop(number).process
                        exit_code = process.end()
                        outcomes[number] = Outcome(
                            job=one.job, folder=one.folder, ending=ending, exit_code=exit_code, layers=process.layers
                        )
                        check(outcomes[number])
                if running:
                    time.sleep(_SECONDS_BETWEEN_CHECKS)
        finally:
            for one in running.values():
                one.process.end()
    return [outcomes[number] for number in range(len(jobs))]


@dataclass(kw_only=True)
class _Running:
    """A running process, the number of its progress lines already announced, and two times on the monotonic clock.

    It started at ``started``, and the size of its files was ``measured`` last.
    """

    job: Job
    folder: Path
    process: Process
    started: float = field(default_factory=time.monotonic)
    measured: float = field(default_factory=time.monotonic)
    announced: int = 0

    def ending(self, limits: Limits) -> Ending | None:
        """Return how the process ended or which limit was exceeded; None while the process may continue."""
        if self.process.poll() is not None:
            return Ending.EXITED
        if time.monotonic() > self.started + limits.seconds:
            return Ending.TIMED_OUT
        if time.time() - _status(self.folder / PROGRESS_FILE)[0] > limits.idle_seconds:
            return Ending.IDLE
        if _status(self.folder / OUTPUT_FILE)[1] > limits.output_bytes:
            return Ending.PRINTED_TOO_MUCH
        if time.monotonic() > self.measured + _SECONDS_BETWEEN_MEASUREMENTS:
            self.measured = time.monotonic()
            if _exceeds(self.folder, limits.written_bytes):
                return Ending.WROTE_TOO_MUCH
        return None

    def announce(self, announce: Callable[[str], None]) -> None:
        lines = _progress(self.folder)
        for line in lines[self.announced :]:
            announce(f"{self.job.title}: {line}" if self.job.title else line)
        self.announced = len(lines)


def _progress(folder: Path) -> tuple[str, ...]:
    try:
        content = read_limited(folder / PROGRESS_FILE, _MAX_PROGRESS_BYTES)
    except OSError:
        return ()
    return tuple(visible(content.decode(errors="replace")).split("\n")[:-1])


def _status(path: Path) -> tuple[float, int]:
    """Return the modification time of a file and its size in bytes; minus infinity and 0 if the file is missing."""
    try:
        status = path.stat(follow_symlinks=False)
    except OSError:
        return -math.inf, 0
    return status.st_mtime, status.st_size


def _exceeds(folder: Path, most_bytes: int) -> bool:
    """Whether the files in a folder, which a process may be changing, are larger than a limit together, or too many."""
    size = entries = 0
    for place, folders, files in os.walk(folder):
        entries += len(folders) + len(files)
        size += sum(_status(Path(place, name))[1] for name in files)
        if size > most_bytes or entries > _MAX_ENTRIES:
            return True
    return False
