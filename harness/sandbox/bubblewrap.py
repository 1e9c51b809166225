"""Bubblewrap: a worker in namespaces of its own, without network, that sees only the folders that are mounted for it.

https://github.com/containers/bubblewrap
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

from harness.sandbox.layers import SYSTEM_FILES, Layer, LayerState

_NAMESPACES = ("--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try")
# What a worker of root needs: to give a workspace to another user, become this user and end its processes, and to read
# folders that only root can read.
_CAPABILITIES = ("CAP_CHOWN", "CAP_SETUID", "CAP_SETGID", "CAP_KILL", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
_DEVICE_FOLDER_BYTES = 2**16
_PROBE_SECONDS = 10.0


def bubblewrap_command(*, readable: Iterable[Path], writable: Path) -> list[str]:
    """Return the beginning of a command line that runs the rest of it in bubblewrap.

    The program sees Python and its libraries, ``readable``, and can change what is in ``writable``.
    """
    is_root = os.geteuid() == 0
    paths = [*python_folders(), *map(Path, SYSTEM_FILES), *readable]
    # Of these two, bubblewrap makes new ones.
    mounts = {path: "--ro-bind-try" for path in paths if path.parts[1] not in {"proc", "dev"}} | {writable: "--bind"}
    command = [
        *("bwrap", *_NAMESPACES),
        # A parent is a thread: a worker that another thread starts ends when the examiner closes its socket.
        *["--die-with-parent"] * (threading.current_thread() is threading.main_thread()),
        *(("--cap-drop", "ALL") if is_root else ("--unshare-user",)),
        *(word for name in _CAPABILITIES * is_root for word in ("--cap-add", name)),
        *("--proc", "/proc", "--size", str(_DEVICE_FOLDER_BYTES), "--perms", "0755", "--tmpfs", "/dev"),
        *(word for device in _DEVICES for word in ("--dev-bind", device, device)),
    ]
    made = {Path("/")}
    for path, mount in sorted(mounts.items(), key=lambda item: len(item[0].parts)):
        around = next((parent for parent in path.parents if parent in mounts), None)
        if around is None:
            # Parents that bubblewrap makes by itself cannot be entered by other users.
            parents = [parent for parent in reversed(path.parents) if parent not in made]
            command += [word for parent in parents for word in ("--perms", "0755", "--dir", str(parent))]
            made.update(parents)
        if around is None or mounts[around] != mount:
            command += [mount, str(path), str(path)]
    return [*command, "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", str(writable), "--"]


def python_folders() -> list[Path]:
    """The folders of Python, its libraries and the harness."""
    # Unless it is safe, the first entry is the folder of the script, or the working directory.
    found = sys.path[0 if sys.flags.safe_path else 1 :]
    return [Path(__file__).parents[2], *map(Path, (sys.prefix, sys.base_prefix, *filter(os.path.isabs, found)))]


@functools.cache
def bubblewrap_state() -> LayerState:
    """Whether Python can be started in bubblewrap, which is tried once."""
    if shutil.which("bwrap") is None:
        return LayerState(layer=Layer.BUBBLEWRAP, holds=False, detail="bwrap is not installed")
    try:
        version = _output(["bwrap", "--version"]).split()[-1]
        here = Path(__file__).parent
        _output([*bubblewrap_command(readable=(), writable=here), sys.executable, "-I", "-S", "-c", ""])
    except (OSError, subprocess.SubprocessError, IndexError) as problem:
        said = (getattr(problem, "stderr", None) or str(problem)).strip().splitlines()
        return LayerState(layer=Layer.BUBBLEWRAP, holds=False, detail=said[-1] if said else "bwrap failed")
    return LayerState(layer=Layer.BUBBLEWRAP, holds=True, detail=f"version {version}")


def _output(command: Sequence[str]) -> str:
    done = subprocess.run(
        command, env={"PATH": os.defpath}, capture_output=True, text=True, check=True, timeout=_PROBE_SECONDS
    )
    return done.stdout
