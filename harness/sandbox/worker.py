"""The worker process: imports PyTorch, then forks a process for each request, which runs a submission confined.

Started by `harness.sandbox.runner`, either as ``python -m harness.sandbox.worker FOLDER PARENT`` to perform the request in that
workspace in this process, or as ``python -m harness.sandbox.worker --serve DESCRIPTOR PARENT`` to perform many: messages on
a local socket name the workspaces of requests to start and to kill, and report those that have ended. It ends with the
process PARENT, unless that is 0.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import os
import select
import signal
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from harness.errors import InputError
from harness.sandbox.kernel import end_with_parent, machine, process_control
from harness.sandbox.layers import confine_worker
from harness.sandbox.protocol import (
    MAX_MESSAGE_BYTES,
    OUTPUT_FILE,
    Failure,
    Request,
    Workspace,
    own_caches,
    read_request,
    write_result,
)
from harness.sandbox.requirement import Confinement, SandboxRequirement
from harness.tables import read_table

_PR_SET_CHILD_SUBREAPER = 36


def main(folder: Path, *, prepare: bool = True) -> None:
    """Perform the request in a workspace; write the result, or the error that was raised, to the workspace.

    With ``prepare``, the method `prepare` of the request is called first.
    """
    with _failure_written(folder):
        request = read_request(folder)
        if prepare:
            request.prepare()
        write_result(request.perform(Workspace(folder=folder)), folder)


@contextlib.contextmanager
def _failure_written(folder: Path) -> Iterator[None]:
    """Write an error that the block raises to the workspace ``folder`` as the result."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent raises it
        write_result(Failure.of(error), folder)


class Server:
    """Forks a process for each request that the runner sends, and ends them all when the runner is gone.

    Args:
        control: the socket to the runner; each message is one JSON object.
    """

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._running: dict[int, str] = {}
        self._prepared: set[type] = set()

    def serve(self) -> None:
        """Handle messages until the runner closes its end of the socket."""
        wake, awake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(awake)
        # Processes that lose their parent become children of this one, which ends them.
        process_control(_PR_SET_CHILD_SUBREAPER, 1)
        confine_worker()
        sources: list[socket.socket | int] = [self._control, wake]
        try:
            while True:
                ready, _, _ = select.select(sources, [], [])
                if wake in ready:
                    os.read(wake, MAX_MESSAGE_BYTES)
                    self._reap()
                if self._control in ready:
                    message = self._control.recv(MAX_MESSAGE_BYTES)
                    if not message:
                        return
                    self._handle(json.loads(message))
        finally:
            for process in self._running:
                os.kill(process, signal.SIGKILL)

    def _handle(self, message: dict[str, Any]) -> None:
        if "start" in message:
            confinement = read_table(Confinement, message["confinement"], where="confinement", error=InputError)
            self._start(message["start"], confinement)
        elif message["kill"] in self._running.values():
            os.kill(next(key for key, name in self._running.items() if name == message["kill"]), signal.SIGKILL)

    def _start(self, name: str, confinement: Confinement) -> None:
        folder = Path(name)
        with _failure_written(folder):
            request = read_request(folder)
            if type(request) not in self._prepared:
                request.prepare()
                self._prepared.add(type(request))
                # What is there already is left alone, so that the memory pages stay shared.
                gc.collect()
                gc.freeze()
            parent = os.getpid()
            process = os.fork()
            if process == 0:
                self._run(request, folder, parent, confinement)
            self._running[process] = name
            return
        self._send({"ended": name, "code": 0})

    def _run(self, request: Request[Any], folder: Path, parent: int, confinement: Confinement) -> NoReturn:
        """Perform a request in the forked process, which ends here."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            end_with_parent(parent)
            self._close_other_files()
            _redirect_output(folder / OUTPUT_FILE)
            _use_private_folders(folder)
            with _failure_written(folder):
                confine = self._confined(folder, confinement)
                write_result(request.perform(Workspace(folder=folder, confine=confine)), folder)
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        except BaseException:  # noqa: BLE001 - Ctrl-C, or a class of the submission's own
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            # Neither the exit functions nor the finalisers of the submission run.
            os._exit(code & 0xFF)

    def _close_other_files(self) -> None:
        """Close what the worker has open, except standard streams and the socket to the runner."""
        kept = self._control.fileno()
        os.closerange(3, kept)
        os.closerange(kept + 1, os.sysconf("SC_OPEN_MAX"))

    def _confined(self, folder: Path, confinement: Confinement) -> Callable[[Iterable[Path]], None]:
        """Return the function `Workspace.confine` of a forked process.

        It also reports the layers to the runner, and raises a `SandboxError` if they do not meet the requirement.
        """

        def confine(readable: Iterable[Path]) -> None:
            layers = confinement.apply(folder, readable)
            self._send({"confined": str(folder), "layers": [dataclasses.asdict(state) for state in layers]})
            self._control.close()
            SandboxRequirement.parse(confinement.requirement).require(layers)

        return confine

    def _reap(self) -> None:
        """Report the processes that have ended, after all that they started."""
        while True:
            try:
                process, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if process == 0:
                return
            name = self._running.pop(process, None)
            if name is not None:
                for orphan in _children() - self._running.keys():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(orphan, signal.SIGKILL)
                self._send({"ended": name, "code": os.waitstatus_to_exitcode(status)})

    def _send(self, message: dict[str, Any]) -> None:
        # The runner may be gone; then the next message received is empty.
        with contextlib.suppress(OSError):
            self._control.send(json.dumps(message).encode())


def _children() -> set[int]:
    with contextlib.suppress(OSError):
        return {int(number) for number in Path(f"/proc/self/task/{os.getpid()}/children").read_text("ascii").split()}
    return set()


def _redirect_output(path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    os.close(descriptor)


def _use_private_folders(folder: Path) -> None:
    """Make a workspace the working directory, and subfolders of it the home, the temporary folder and the caches."""
    os.chdir(folder)
    for variable in ("HOME", "TMPDIR", "XDG_CACHE_HOME"):
        private = folder / variable.lower()
        private.mkdir()
        os.environ[variable] = str(private)
    os.environ.update(own_caches(folder))
    tempfile.tempdir = None


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    *arguments, started_by = sys.argv[1:]
    if int(started_by) and machine():
        end_with_parent(int(started_by))
    if arguments[0] == "--serve":
        Server(socket.socket(fileno=int(arguments[1]))).serve()
    else:
        confine_worker()
        main(Path(arguments[0]))
        sys.stdout.flush()
        sys.stderr.flush()
        # Threads and exit functions that the user's code left must not delay the result.
        os._exit(0)
