"""Each layer of the sandbox: what a confined process tries is refused, and allowed without the layer that refuses it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection
from pathlib import Path

import pytest

from harness.sandbox.kernel import machine
from harness.sandbox.landlock import landlock_version
from harness.sandbox.layers import Layer, confine_submission

pytestmark = pytest.mark.skipif(machine() is None, reason="the layers are implemented for Linux on x86-64 and aarch64")

CALLS = "import ctypes, fcntl, os, resource, signal, socket, subprocess, sys, threading; parent = os.getppid()\n"
LIBRARY = "library = ctypes.CDLL(None, use_errno=True)\n"
BLOCKED = "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGRTMIN})\n"
CHECKED = "\nif result < 0: raise OSError(ctypes.get_errno(), 'refused')"


def attempt(code: str, folder: Path, *, without: Collection[Layer] = ()) -> str:
    """Run code in a forked process that is confined to ``folder``; returns "done", or the name of the error it raised."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        outcome = "not run"
        try:
            own = folder / "own"
            own.mkdir(exist_ok=True)
            os.chdir(own)
            confine_submission(own, readable=(), user=1, without=without)
            exec(CALLS + LIBRARY + code, {"outside": folder})  # noqa: S102 - the attack
            outcome = "done"
        except BaseException as error:  # noqa: BLE001 - the outcome
            outcome = type(error).__name__
        os.write(writing, outcome.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        outcome = pipe.read()
    os.waitpid(process, 0)
    return outcome or "killed"


def made_folder() -> Path:
    """Make a folder that everybody may read and write, with a file of which the same holds."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o777)
    (path / "file").write_text("secret", encoding="utf-8")
    (path / "file").chmod(0o666)
    return path


@pytest.fixture
def folder() -> Path:
    """A folder made by `made_folder`."""
    return made_folder()


def states(folder: Path) -> dict[str, tuple[str, str]]:
    """Whether each layer holds for a process that is confined here, and its detail."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        (folder / "own").mkdir(exist_ok=True)
        found = confine_submission(folder / "own", readable=(), user=1)
        os.write(writing, "\n".join(f"{state.layer}|{state.holds}|{state.detail}" for state in found).encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(process, 0)
    with os.fdopen(reading) as pipe:
        lines = [line.split("|", 2) for line in pipe.read().splitlines()]
    return {layer: (holds, detail) for layer, holds, detail in lines}


def require(layer: Layer, folder: Path) -> None:
    """Skip the test if a layer does not hold on this machine."""
    holds, detail = states(folder)[layer]
    if holds != "True":
        pytest.skip(f"{layer} does not hold here: {detail}")


REFUSED = [
    # Files outside
    ("open(outside / 'file').read()", Layer.LANDLOCK),
    ("open(outside / 'file', 'a').write('x')", Layer.LANDLOCK),
    ("open(outside / 'new', 'w').write('x')", Layer.LANDLOCK),
    ("os.truncate(outside / 'file', 0)", Layer.LANDLOCK),
    ("os.remove(outside / 'file')", Layer.LANDLOCK),
    ("os.rename(outside / 'file', outside / 'other')", Layer.LANDLOCK),
    ("os.mkdir(outside / 'folder')", Layer.LANDLOCK),
    ("os.listdir(outside)", Layer.LANDLOCK),
    ("open('/etc/passwd').read()", Layer.LANDLOCK),
    ("open(f'/proc/{parent}/environ').read()", Layer.LANDLOCK),
    ("fcntl.fcntl(os.open('.', os.O_RDONLY), fcntl.F_NOTIFY, 1)", Layer.SECCOMP),
    # Metadata and links
    ("os.chmod('.', 0o700)", Layer.SECCOMP),
    ("os.utime('.')", Layer.SECCOMP),
    ("os.setxattr('.', 'user.name', b'x')", Layer.SECCOMP),
    ("os.symlink('/', 'link')", Layer.SECCOMP),
    ("os.mkfifo('pipe')", Layer.SECCOMP),
    ("open('one', 'w').close(); os.link('one', 'two')", Layer.SECCOMP),
    # Programs and processes
    ("os.fork() or os._exit(0)", Layer.SECCOMP),
    ("os.posix_spawn('/bin/true', ['true'], {})", Layer.SECCOMP),
    ("subprocess.run(['true'])", Layer.SECCOMP),
    ("os.execv('/bin/true', ['true'])", Layer.SECCOMP),
    ("os.setsid() if os.getpid() != os.getsid(0) else os.setpgid(0, 0)", Layer.SECCOMP),
    # Others' processes
    ("os.setpriority(os.PRIO_PROCESS, os.getpid(), 19)", Layer.SECCOMP),
    # Network, and memory that no limit counts
    ("socket.socket()", Layer.SECCOMP),
    ("socket.socket(socket.AF_UNIX)", Layer.SECCOMP),
    ("socket.socketpair()", Layer.SECCOMP),
    ("os.memfd_create('memory')", Layer.SECCOMP),
    ("fcntl.fcntl(os.pipe()[0], fcntl.F_SETPIPE_SZ, 2**20)", Layer.SECCOMP),
    ("result = library.shmget(1234, 4096, 0o1600)" + CHECKED, Layer.SECCOMP),
    (
        "result = library.syscall(250, 0, -3, 0, 0, 0) if os.uname().machine == 'x86_64' else -1" + CHECKED,
        Layer.SECCOMP,
    ),
    # Limits
    ("bytearray(6 * 2**30)", Layer.LIMITS),
    ("open('sparse', 'w').truncate(2**40)", Layer.LIMITS),
    ("[open('/dev/null') for _ in range(1000)]", Layer.LIMITS),
    (f"{BLOCKED}for _ in range(5_000): signal.pthread_kill(threading.get_ident(), signal.SIGRTMIN)", Layer.LIMITS),
]


@pytest.mark.parametrize(("code", "layer"), REFUSED, ids=[code.partition("+")[0][:60] for code, _ in REFUSED])
def test_what_a_submission_must_not_do(code: str, layer: Layer, folder: Path) -> None:
    """It is refused with an error, and nothing outside has changed; without the layer that refuses it, it succeeds."""
    require(layer, folder)
    before = (folder / "file").stat()

    assert attempt(code, folder) in (
        "PermissionError",
        "OSError",
        "MemoryError",
        "BlockingIOError",
        "FileNotFoundError",
    )
    after = (folder / "file").stat()
    assert ("secret", before.st_mode, before.st_mtime_ns) == (
        (folder / "file").read_text("utf-8"), after.st_mode, after.st_mtime_ns,
    )  # fmt: skip
    assert {"file", "own"} == {path.name for path in folder.iterdir()}
    # Where it fails without the sandbox, too, that it fails without one layer shows nothing.
    if (
        layer is not Layer.LIMITS
        and "parent" not in code
        and attempt(code, made_folder(), without=list(Layer)) == "done"
    ):
        # A program that takes the place of the process writes no outcome.
        assert attempt(code, made_folder(), without=[layer, Layer.USER]) in ("done", "killed")


def test_threads_are_limited(folder: Path) -> None:
    """However small their stacks are, a process starts some threads, not a thousand."""
    if "threads" not in states(folder)[Layer.LIMITS][1]:
        pytest.skip("the kernel does not limit the threads of root")
    few, many = (
        "threading.stack_size(2**15)\n"
        f"for _ in range({count}): threading.Thread(target=signal.pause, daemon=True).start()"
        for count in (100, 1000)
    )
    assert ("done", "RuntimeError") == (attempt(few, folder), attempt(many, folder))


@pytest.mark.parametrize(
    "code",
    [
        "os.kill(parent, 0)",
        "os.kill(-1, signal.SIGTERM) if False else os.kill(parent, signal.SIGCONT)",
        "resource.prlimit(parent, resource.RLIMIT_CORE, (0, 0))",
        "os.sched_setaffinity(parent, {0})",
        "fcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, parent)",
        "os.setpriority(os.PRIO_PROCESS, parent, 19)",
        "result = library.ptrace(16, parent, 0, 0)" + CHECKED,
    ],
)
@pytest.mark.parametrize("without", [(), (Layer.USER,), (Layer.LANDLOCK,), (Layer.USER, Layer.LANDLOCK)])
def test_the_parent_cannot_be_touched(code: str, without: tuple[Layer, ...], folder: Path) -> None:
    """Signals, limits, priorities and debugging of another process are refused, also if other layers are missing."""
    require(Layer.SECCOMP, folder)
    assert attempt(code, folder, without=without) in ("PermissionError", "OSError")


@pytest.mark.parametrize(
    "code",
    [
        "open('new', 'w').write('x'); os.rename('new', 'other'); os.remove('other')",
        "thread = threading.Thread(target=len, args=('',)); thread.start(); thread.join()",
        "os.kill(os.getpid(), 0); resource.getrlimit(resource.RLIMIT_AS); os.sched_setaffinity(0, os.sched_getaffinity(0))",
        "import json, random, decimal; open(json.__file__).read(); open('/dev/urandom', 'rb').read(1)",
        "open('/proc/self/status').read(); open('/dev/null', 'w').write('x')",
        "import tempfile; os.environ['TMPDIR'] = os.getcwd(); tempfile.tempdir = None; tempfile.TemporaryFile()",
    ],
)
def test_what_a_submission_may_do(code: str, folder: Path) -> None:
    """Files of its own, threads, and the libraries are available."""
    assert "done" == attempt(code, folder)


def test_the_layers_say_what_holds(folder: Path) -> None:
    """Each layer reports its version or extent, or why it does not hold."""
    found = states(folder)

    assert list(Layer)[1:] == list(found)
    version = landlock_version()
    landlock = ("True", f"version {version}") if version else ("False", "the kernel does not offer Landlock")
    assert landlock == found[Layer.LANDLOCK]
    assert found[Layer.USER] == ("True", "user 60002") or found[Layer.USER][0] == "False"
    assert [] == [layer for layer, (_, detail) in found.items() if not detail]
