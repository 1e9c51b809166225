"""Running worker processes: starting them, watching their time and output, and killing them with their child processes."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import math
import os
import signal
import site
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol, TypeVar

from harness.errors import ExaminerError
from harness.files import read_limited, temporary_folder
from harness.sandbox.bubblewrap import bubblewrap_command, bubblewrap_state
from harness.sandbox.kernel import machine
from harness.sandbox.landlock import landlock_version
from harness.sandbox.layers import USERS, WORKER_DETAIL, Layer, LayerState, left_out, switched_off, unavailable_layers
from harness.sandbox.protocol import (
    MAX_MESSAGE_BYTES,
    OUTPUT_FILE,
    PROGRESS_FILE,
    Request,
    own_caches,
    read_result,
    write_request,
)
from harness.sandbox.requirement import NO_REQUIREMENT, Confinement, SandboxRequirement
from harness.tables import printable

_SECONDS_BETWEEN_CHECKS = 0.05
_SHOWN_OUTPUT_BYTES, _SHOWN_OUTPUT_CHARACTERS = 4_000, 300
_MAX_PROGRESS_BYTES = 2**20
# More than run at a time.
_USERS_OF_WORKER = 8
# A process that is killed ends at once, unless its worker is still importing.
_SECONDS_TO_KILL = 0.3
_SECONDS_BETWEEN_MEASUREMENTS, _BLOCK_BYTES = 1.0, 4096
# Of the environment, the names that begin so are passed on: what Python, its libraries and the devices are found by.
_PASSED_VARIABLES = (
    *("PATH", "PYTHON", "VIRTUAL_ENV", "LD_", "DYLD_", "LANG", "LC_", "TZ", "HOME", "USER", "LOGNAME", "TMPDIR"),
    *("OMP_", "MKL_", "KMP_", "GOMP_", "TORCH_", "CUDA_", "CUBLAS_", "NVIDIA_"),
)

R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits for worker processes.

    ``seconds`` limits the wall time of a process; if ``start_seconds`` is above 0, ``seconds`` counts from the first progress
    on, and ``start_seconds`` limits the time before, in which libraries are imported. ``idle_seconds`` limits the wall time
    without progress, ``output_bytes`` the size of the output, ``written_bytes`` that of all files in the workspace, and
    ``parallel`` the number of processes at a time.
    """

    seconds: float = math.inf
    start_seconds: float = 0.0
    idle_seconds: float = math.inf
    output_bytes: int = 64 * 2**20
    written_bytes: float = math.inf
    parallel: int = 2


@dataclass(frozen=True, kw_only=True)
class Job:
    """A request, with the working folder and the additional environment variables of the process that performs it.

    A process that is confined reads the project in the working folder and works in its workspace. ``title`` precedes each
    progress line that `run_processes` announces; an empty title is left out. ``sandbox`` is checked before the process
    runs code of a submission.
    """

    request: Request[Any]
    working_folder: Path
    variables: Mapping[str, str] = field(default_factory=dict)
    title: str = ""
    sandbox: SandboxRequirement = NO_REQUIREMENT


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
    signal if a signal ended the process. ``layers`` are the states of the layers when the process began to run code of a
    submission; empty if it did not get so far. Of a process that is not forked from a worker, only the filter is reported.
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
        text: str = printable(" ".join(output.decode(errors="replace").split())[-_SHOWN_OUTPUT_CHARACTERS:])
        return text

    @property
    def progress(self) -> tuple[str, ...]:
        """The complete lines of the progress file; empty if the file cannot be read."""
        return _progress(self.folder)

    def result(self, request: Request[R]) -> R | None:
        """Return the result of the request, or raise the error that the process reported, see `read_result`.

        None if the process did not end with exit code 0, whatever it has written.
        """
        return None if self.exit_code else read_result(request, self.folder)


class Process(Protocol):
    """The methods of a worker process that do not depend on how the process was started."""

    @property
    def layers(self) -> tuple[LayerState, ...]:
        """The states of the layers; empty if the process is not to be confined, or is not confined yet."""

    def poll(self) -> int | None:
        """Return the exit code of the process, which is negative for a signal; None while the process runs."""

    def end(self) -> int:
        """Kill the process and its child processes, wait for the end of the process, and return its exit code."""


class _GroupLeader(subprocess.Popen[bytes]):
    """A process that leads its own process group, so that its child processes can be killed with it."""

    layers: tuple[LayerState, ...] = ()

    def poll(self) -> int | None:
        code = super().poll()
        # The filter that the process begins with is seen from here, so that its code cannot lie about it.
        if code is None and not self.layers and _seccomp_filters(self.pid) > _seccomp_filters(os.getpid()):
            self.layers = (LayerState(layer=Layer.SECCOMP, holds=True, detail=WORKER_DETAIL),)
        return code

    def end(self) -> int:
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            self.kill()
        return self.wait()


@dataclass(frozen=True, kw_only=True)
class _Surroundings:
    """What a worker is started with: ``variables`` of the environment, and bubblewrap, if that holds.

    In bubblewrap, it sees the folder of `warm_workers` and, unless that is None, the folder ``project``.
    """

    variables: tuple[tuple[str, str], ...]
    bubblewrap: LayerState
    project: Path | None

    @staticmethod
    def of(job: Job, without: Collection[Layer]) -> _Surroundings:
        bubblewrap = LayerState(layer=Layer.BUBBLEWRAP, holds=False, detail="not required")
        if any(Layer.BUBBLEWRAP in alternative for alternative in job.sandbox.alternatives):
            bubblewrap = left_out(Layer.BUBBLEWRAP) if Layer.BUBBLEWRAP in without else bubblewrap_state()
        # Only Landlock hides from one job what others have left in the folder.
        has_landlock = Layer.LANDLOCK not in without and landlock_version() > 0
        is_shared = has_landlock and job.working_folder.is_relative_to(_area)
        return _Surroundings(
            variables=tuple(sorted(job.variables.items())),
            bubblewrap=bubblewrap,
            project=job.working_folder if bubblewrap.holds and not is_shared else None,
        )

    def command(self) -> list[str]:
        """The beginning of the worker's command line."""
        if not self.bubblewrap.holds:
            return []
        readable: list[Path] = []
        if self.project is not None:
            # A project's root is at most two folders above the model's file, as on the import path.
            above = (self.project, *self.project.parents[:2])
            readable = [place for place in above if place != Path(place.anchor)][-1:]
        return bubblewrap_command(readable=readable, writable=_area)


def _seccomp_filters(process: int) -> int:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8", errors="replace").splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("Seccomp_filters:")))
    return 0


class _Worker:
    """A worker process that imports PyTorch once and forks a process for each request, see `harness.sandbox.worker`."""

    def __init__(self, surroundings: _Surroundings) -> None:
        self.surroundings = surroundings
        self._resources = contextlib.ExitStack()
        self._slot = self._resources.enter_context(_reserved_slot())
        folder = self._resources.enter_context(temporary_folder("worker", inside=_area))
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # Libraries in the home folder are found without it.
        private = {"HOME": str(folder), "TMPDIR": str(folder), "PYTHONUSERBASE": site.getuserbase()}
        with theirs:
            self._process = _launched(
                ["--serve", str(theirs.fileno())],
                folder,
                private | dict(surroundings.variables),
                working_folder=folder,
                inside=surroundings.command(),
                descriptors=[theirs.fileno()],
            )
        self.is_closed = False
        self._codes: dict[str, int | None] = {}
        self.layers: dict[str, tuple[LayerState, ...]] = {}

    def start(self, folder: Path, requirement: SandboxRequirement, without: Collection[Layer]) -> _Forked:
        """Fork a process that performs the request in a workspace if the sandbox meets the requirement."""
        confinement = Confinement(
            requirement=str(requirement),
            user=self._slot + len(self._codes) % _USERS_OF_WORKER,
            without=tuple(without),
            bubblewrap=self.surroundings.bubblewrap,
        )
        self._codes[str(folder)] = None
        self._send({"start": str(folder), "confinement": dataclasses.asdict(confinement)})
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

    def _send(self, message: dict[str, Any]) -> None:
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


@contextlib.contextmanager
def _reserved_slot() -> Iterator[int]:
    """Reserve users for the processes of a worker, as long as the block lasts: on this machine, no other worker has them."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as holder:
        for slot in range(0, USERS, _USERS_OF_WORKER):
            try:
                # The name is free again when the socket is closed.
                holder.bind(f"\0mnist-harness-user-{slot}")
            except OSError:
                continue
            yield slot
            return
    raise ExaminerError(f"expected fewer than {USERS // _USERS_OF_WORKER} workers on this machine at a time, got more.")


_workers: dict[_Surroundings, _Worker] = {}
_area = Path()
_users_of_area = 0


@contextlib.contextmanager
def warm_workers() -> Iterator[Path]:
    """Keep worker processes, which have imported PyTorch, from one call of `run_processes` to the next in this block.

    Yields:
        A folder for temporary files. A worker in bubblewrap sees what is in it when it is started and later, but other
        folders only if they are the working folder of the job that it is started for; it ends with that job.
    """
    global _area, _users_of_area  # noqa: PLW0603 - one per process, like the workers
    with contextlib.ExitStack() as resources:
        if not _users_of_area:
            _area = resources.enter_context(temporary_folder("sandbox"))
            # Other users enter their own workspaces.
            _area.chmod(0o711)
        _users_of_area += 1
        try:
            yield _area
        finally:
            _users_of_area -= 1
            if not _users_of_area:
                _close_workers()


def _close_workers(of: Callable[[_Surroundings], bool] = lambda _: True) -> None:
    for surroundings in list(filter(of, _workers)):
        _workers.pop(surroundings).close()


def start_process(folder: Path, job: Job) -> Process:
    """Start the process that performs the request in a workspace; inside `warm_workers` only.

    Raises:
        SandboxError: layers are required, and none is implemented here.
    """
    if not (job.request.is_confined and machine()):
        layers = unavailable_layers() if job.request.is_confined else ()
        job.sandbox.require(layers)
        process = _launched([str(folder)], folder, job.variables, working_folder=job.working_folder)
        process.layers = layers
        return process
    without = switched_off()
    surroundings = _Surroundings.of(job, without)
    if surroundings not in _workers or _workers[surroundings].is_closed:
        _workers[surroundings] = _Worker(surroundings)
    folder.parent.chmod(0o711)
    return _workers[surroundings].start(folder, job.sandbox, without)


def _launched(
    arguments: Sequence[str],
    folder: Path,
    variables: Mapping[str, str],
    *,
    working_folder: Path,
    inside: Sequence[str] = (),
    descriptors: Sequence[int] = (),
) -> _GroupLeader:
    """Start a worker process; ``inside`` is the beginning of the command line.

    No other function sets the command line and the environment of such a process.
    """
    passed = {name: value for name, value in os.environ.items() if name.startswith(_PASSED_VARIABLES)}
    # A parent is a thread, whose end would end the process; in bubblewrap, the parent is bubblewrap.
    parent = os.getpid() if not inside and threading.current_thread() is threading.main_thread() else 0
    # The package that is imported here, wherever it was found.
    package = str(Path(__file__).parents[2])
    with (folder / OUTPUT_FILE).open("wb") as output:
        return _GroupLeader(
            [*inside, sys.executable, "-m", "harness.sandbox.worker", *arguments, str(parent)],
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

    The workspaces are created in ``folder``, which lies in the folder of `warm_workers` if processes are confined. A
    process that exceeds the limits is killed; no process is left running. ``announce`` is called with each new progress
    line, after the job's title; ``check``, with each outcome as soon as its process has ended. If one of these two
    functions raises an exception, the other processes are killed and the exception propagates.
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
            _close_workers(lambda surroundings: surroundings.project is not None)
    return [outcomes[number] for number in range(len(jobs))]


@dataclass(kw_only=True)
class _Running:
    """A running process, the time on the monotonic clock of its start or first progress, and the number of announced lines."""

    job: Job
    folder: Path
    process: Process
    started: float = field(default_factory=time.monotonic)
    has_begun: bool = False
    announced: int = 0
    measured: float = 0.0
    # Of the progress file, and when it was first seen: the clock of the file system may be set.
    modified: float = -math.inf
    moved: float = field(default_factory=time.monotonic)

    def ending(self, limits: Limits) -> Ending | None:
        """Return how the process ended or which limit was exceeded; None while the process may continue."""
        if self.process.poll() is not None:
            return Ending.EXITED
        if limits.start_seconds and not self.has_begun and _status(self.folder / PROGRESS_FILE)[1]:
            self.has_begun, self.started = True, time.monotonic()
        seconds = limits.seconds if self.has_begun else max(limits.seconds, limits.start_seconds)
        if time.monotonic() > self.started + seconds:
            return Ending.TIMED_OUT
        if (modified := _status(self.folder / PROGRESS_FILE)[0]) != self.modified:
            self.modified, self.moved = modified, time.monotonic()
        if time.monotonic() - self.moved > limits.idle_seconds:
            return Ending.IDLE
        if _status(self.folder / OUTPUT_FILE)[1] > limits.output_bytes:
            return Ending.PRINTED_TOO_MUCH
        if limits.written_bytes < math.inf and time.monotonic() > self.measured + _SECONDS_BETWEEN_MEASUREMENTS:
            self.measured = time.monotonic()
            if written_bytes(self.folder) > limits.written_bytes:
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
    return tuple(printable(content.decode(errors="replace").split("\n")[:-1]))


def written_bytes(folder: Path) -> float:
    """The size of all files in a folder, at least a block for each; infinite if their paths are too long to be read."""
    total = 0.0

    def report(problem: OSError) -> None:
        nonlocal total
        total += math.inf if problem.errno == errno.ENAMETOOLONG else 0

    for place, folders, files in os.walk(folder, onerror=report):
        total += _BLOCK_BYTES * len(folders)
        for name in files:
            with contextlib.suppress(OSError):
                total += max(Path(place, name).lstat().st_blocks * 512, _BLOCK_BYTES)
    return total


def _status(path: Path) -> tuple[float, int]:
    """Return the modification time of a file and its size in bytes; minus infinity and 0 if the file is missing."""
    try:
        status = path.stat(follow_symlinks=False)
    except OSError:
        return -math.inf, 0
    return status.st_mtime, status.st_size
