"""Model files that attack when they are imported: the honest network is examined, and nothing outside changes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.errors import ModelSourceError
from harness.sandbox import Layer, available_layers, runner, warm_workers
from harness.sandbox.kernel import machine
from harness.sources import load_model

pytestmark = [
    pytest.mark.smoke,
    pytest.mark.skipif(machine() is None, reason="the layers are implemented for Linux on x86-64 and aarch64"),
]

NET = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(1, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
"""
HIDDEN = """
import contextlib, ctypes, os, pathlib, resource, shutil, signal, socket, subprocess, sys, tempfile, threading, time
with contextlib.suppress(OSError, subprocess.SubprocessError):
    {attack}
"""
ATTACKS = {
    "read a file": "pathlib.Path('{secret}').read_text() and os._exit(7)",
    "read the parent's environment": "pathlib.Path(f'/proc/{{os.getppid()}}/environ').read_bytes() and os._exit(7)",
    "read the accounts": "open('/etc/passwd').read() and os._exit(7)",
    "list the folder of temporary files": "os.listdir(os.path.dirname('{outside}')) and os._exit(7)",
    "write beside": "pathlib.Path('{outside}', 'written').touch()",
    "append": "open('{secret}', 'a').write('x')",
    "truncate": "os.truncate('{secret}', 0)",
    "replace": "pathlib.Path('mine').write_text('x'); os.replace('mine', '{secret}')",
    "delete": "shutil.rmtree('{outside}')",
    "change the mode": "os.chmod('{secret}', 0o000)",
    "change the time": "os.utime('{secret}', (0, 0))",
    "link": "os.link('{secret}', 'linked'); open('linked', 'a').write('x')",
    "symbolic link": "os.symlink('{secret}', 'linked'); open('linked', 'a').write('x')",
    "program": "subprocess.run(['touch', '{outside}/written'])",
    "shell": "os.system('touch {outside}/written')",
    "fork": "os.fork() or pathlib.Path('{outside}', 'written').touch()",
    "daemon": "os.fork() or (os.setsid(), os.fork() or time.sleep(60))",
    "network": "socket.create_connection(('127.0.0.1', 9)) and os._exit(7)",
    "local socket": "socket.socket(socket.AF_UNIX).connect('\\0anything') and os._exit(7)",
    "kill the worker": "os.kill(os.getppid(), signal.SIGKILL)",
    "stop everything": "os.kill(-1, signal.SIGSTOP)",
    "limit the worker": "resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (0, 0))",
    "slow the worker down": "os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)",
    "debug the worker": "ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0)",
    "shared memory": "os.memfd_create('memory') and os._exit(7)",
    "fill the disk": "open('sparse', 'w').truncate(2**42) and os._exit(7)",
    "leave a thread": "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
    "leave an exit function": "__import__('atexit').register(time.sleep, 60)",
}


@pytest.fixture(scope="module", autouse=True)
def warm() -> Iterator[None]:
    """Keep one worker for all tests of this module."""
    with warm_workers():
        yield


@pytest.fixture(scope="module")
def holding() -> frozenset[str]:
    """The layers that hold on this machine."""
    return frozenset(one.layer for one in available_layers() if one.holds)


def snapshot(folder: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """Mode, owner, time and content of each file."""
    found = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        found[str(path)] = (status.st_mode, status.st_uid, status.st_mtime_ns, content)
    return found


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_changes_nothing(attack: str, tmp_path: Path, holding: frozenset[str]) -> None:
    """The graph is that of the honest network; outside nothing was read or changed, and nothing is left running."""
    if not {Layer.LANDLOCK, Layer.SECCOMP} <= holding:
        pytest.skip("needs Landlock and seccomp")
    outside, project = tmp_path / "outside", tmp_path / "a" / "b" / "c" / "project"
    outside.mkdir()
    project.mkdir(parents=True)
    secret = outside / "secret"
    secret.write_text("secret", encoding="utf-8")
    secret.chmod(0o666)
    outside.chmod(0o777)
    code = ATTACKS[attack].format(outside=outside, secret=secret)
    (project / "net.py").write_text(HIDDEN.format(attack=code) + NET, encoding="utf-8")
    (tmp_path / "honest.py").write_text(NET, encoding="utf-8")
    honest = load_model(str(tmp_path / "honest.py"))
    worker = loading_worker()
    before = snapshot(outside)

    found = load_model(str(project / "net.py"))

    assert honest.graph.exact_digest() == found.graph.exact_digest()
    assert before == snapshot(outside)
    assert worker is loading_worker()
    assert [] == children_of(worker._process.pid)  # noqa: SLF001 - which process it is


def loading_worker() -> Any:  # noqa: ANN401 - a private class
    """The worker that models are loaded by; the one of `available_layers` has no environment variables of its own."""
    return next(worker for variables, worker in runner._workers.items() if variables)  # noqa: SLF001 - as above


def children_of(process: int) -> list[str]:
    """The numbers of the child processes of a process."""
    return Path(f"/proc/{process}/task/{process}/children").read_text("utf-8").split()


@pytest.mark.parametrize(
    ("attack", "words"),
    [
        ("import os; os.system('true') == 0 or open('/etc/passwd')", "can only read files of their own project"),
        ("import socket; socket.socket()", "Models are imported without network and other programs"),
        ("import os; os.fork()", "Models are imported without network and other programs"),
    ],
)
def test_a_refusal_is_explained(attack: str, words: str, tmp_path: Path, holding: frozenset[str]) -> None:
    """A file that fails because it is confined is told so."""
    if not {Layer.LANDLOCK, Layer.SECCOMP} <= holding:
        pytest.skip("needs Landlock and seccomp")
    (tmp_path / "net.py").write_text(f"class Net: pass\n{attack}\n", encoding="utf-8")

    with pytest.raises(ModelSourceError, match=words):
        load_model(str(tmp_path / "net.py"))


def test_a_worker_that_died_is_replaced(tmp_path: Path) -> None:
    """The death of a worker costs the next submission nothing but time."""
    (tmp_path / "net.py").write_text(NET, encoding="utf-8")
    first = load_model(str(tmp_path / "net.py"))
    os.kill(loading_worker()._process.pid, 9)  # noqa: SLF001 - to end it
    with pytest.raises(ModelSourceError, match="ended the process"):
        load_model(str(tmp_path / "net.py"))

    assert first.graph == load_model(str(tmp_path / "net.py")).graph
