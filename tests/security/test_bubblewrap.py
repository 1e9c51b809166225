"""Bubblewrap: what a program inside sees and can change."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from harness.sandbox.bubblewrap import bubblewrap_command, bubblewrap_state
from harness.sandbox.kernel import machine

pytestmark = pytest.mark.skipif(
    machine() is None or not bubblewrap_state().holds, reason="bubblewrap does not work here"
)


def inside(code: str, writable: Path, *readable: Path) -> str:
    """Run Python code in bubblewrap, with the variable ``host`` set to this process; return what it prints, or its error."""
    command = bubblewrap_command(readable=readable, writable=writable)
    header = f"import os, socket; host = {os.getpid()}; writable = {str(writable)!r}\n"
    done = subprocess.run(
        [*command, sys.executable, "-I", "-S", "-c", header + code],
        env={"SECRET": "secret"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1].partition(":")[0]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("open('/etc/passwd')", "FileNotFoundError"),
        ("os.listdir('/home')", "FileNotFoundError"),
        ("os.stat(writable + '/../beside')", "FileNotFoundError"),
        ("open('/new', 'w')", "OSError"),
        ("open('/dev/new', 'w')", "OSError"),
        ("open(os.__file__, 'a')", "OSError"),
        ("os.kill(host, 0)", "ProcessLookupError"),
        ("print(os.uname().nodename and sorted(os.listdir('/dev')))", "['null', 'random', 'urandom', 'zero']"),
        ("open('mine', 'w').write('x'); print(open('mine').read())", "x"),
        ("print(max(int(name) for name in os.listdir('/proc') if name.isdigit()) < 10)", "True"),
    ],
)
def test_what_is_seen_and_changed(code: str, expected: str, tmp_path: Path) -> None:
    """Neither files, processes and network outside, nor memory in place of files; the writable folder is."""
    own = tmp_path / "own"
    own.mkdir()
    (tmp_path / "beside").touch()

    assert expected == inside(code, own)


def test_a_server_of_this_machine_cannot_be_reached(tmp_path: Path) -> None:
    """Neither a port nor an abstract socket leads outside."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local:
        local.bind("\0mnist-harness-test")
        local.listen()
        port = server.getsockname()[1]

        assert "ConnectionRefusedError" == inside(f"socket.create_connection(('127.0.0.1', {port}))", tmp_path)
        assert "ConnectionRefusedError" == inside(
            "socket.socket(socket.AF_UNIX).connect('\\0mnist-harness-test')", tmp_path
        )


def test_a_readable_folder_cannot_be_written(tmp_path: Path) -> None:
    """It is seen under its own path, also inside the writable folder."""
    given = tmp_path / "own" / "given"
    given.mkdir(parents=True)
    (given / "file").write_text("given", encoding="utf-8")

    assert "given" == inside(f"print(open({str(given / 'file')!r}).read())", given.parent, given)
    assert "OSError" == inside(f"open({str(given / 'file')!r}, 'a')", given.parent, given)
