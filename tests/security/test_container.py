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


def in_container(*command: str, user: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run Python with arguments under the conditions of `tests.security.container`."""
    return subprocess.run(
        [sys.executable, "-m", "tests.security.container", sys.executable, *command],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        user=user,
        extra_groups=None if user is None else [],
    )


def check(folder: Path, **options: int) -> tuple[int, dict[str, bool], str]:
    """Run `harness check` with the default requirement; return the exit code, which layers hold, and the error."""
    (folder / "net.py").write_text(NET, encoding="utf-8")
    done = in_container(
        *("-m", "harness", "check", str(folder / "net.py"), "--json", "-"),
        *("--require-sandbox", str(DEFAULT_REQUIREMENT)),
        **options,
    )
    layers = json.loads(done.stdout)["sandbox"] if done.stdout else []
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


def test_the_default_requirement_is_refused_to_others(tmp_path: Path) -> None:
    """Without root and namespaces, files are protected from writing only; the message says what to do."""
    if os.geteuid() == 0:
        tmp_path.chmod(0o777)
        for folder in (*tmp_path.parents, Path(sys.base_prefix), *Path(sys.base_prefix).parents):
            if not folder.stat().st_mode & 0o001:
                pytest.skip(f"{folder} can be entered by root only")
    code, layers, err = check(tmp_path, **({"user": 65534} if os.geteuid() == 0 else {}))

    assert (2, {}) == (code, layers)
    assert "user: needs root. To get it, install bubblewrap" in err
