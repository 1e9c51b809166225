"""In an unprivileged container, whose root can neither make namespaces nor start bubblewrap, the default requirement holds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.sandbox import DEFAULT_REQUIREMENT
from harness.sandbox.kernel import machine
from tests.security.attacks import NET

pytestmark = [
    pytest.mark.smoke,
    pytest.mark.skipif(machine() is None, reason="the layers are implemented for Linux on x86-64 and aarch64"),
]


def in_container(*command: str) -> subprocess.CompletedProcess[str]:
    """Run Python with arguments under the conditions of `tests.security.container`."""
    return subprocess.run(
        [sys.executable, "-m", "tests.security.container", sys.executable, *command],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )


def check(folder: Path) -> tuple[int, dict[str, bool], str]:
    """Run `harness check` with the default requirement; return the exit code, which layers hold, and the error."""
    (folder / "net.py").write_text(NET, encoding="utf-8")
    done = in_container(
        *("-m", "harness", "check", str(folder / "net.py"), "--json", "-"),
        *("--require-sandbox", str(DEFAULT_REQUIREMENT)),
    )
    layers = json.loads(done.stdout).get("sandbox", [])
    return done.returncode, {one["layer"]: one["holds"] for one in layers}, done.stderr


def test_the_conditions_are_those_of_a_container() -> None:
    """Namespaces are refused, threads and programs are not; bubblewrap does not work, and says why."""
    probe = (
        "import ctypes, subprocess, threading; from harness.sandbox.bubblewrap import bubblewrap_state\n"
        "print(ctypes.CDLL(None).unshare(0x10000000), bubblewrap_state().holds)\n"
        "thread = threading.Thread(target=print, args=('thread',)); thread.start(); thread.join()\n"
        "subprocess.run(['true'], check=True)\n"
    )

    assert "-1 False\nthread\n" == in_container("-c", probe).stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_the_default_requirement_holds_for_root(tmp_path: Path) -> None:
    """Another user, Landlock and the filter confine the code, and the model is examined."""
    code, layers, err = check(tmp_path)

    expected = {"bubblewrap": False, "limits": True, "user": True, "landlock": True, "seccomp": True}
    assert (1, expected) == (code, layers), err


@pytest.mark.skipif(os.geteuid() == 0, reason="root becomes another user")
def test_the_default_requirement_is_refused_to_others(tmp_path: Path) -> None:
    """Without root and namespaces, no other user confines the code; the message says what to do."""
    code, layers, err = check(tmp_path)

    assert (2, {}) == (code, layers)
    assert "user: needs root" in err
    assert "To get it, install bubblewrap, on a host that allows user namespaces or as root, or run as root" in err
