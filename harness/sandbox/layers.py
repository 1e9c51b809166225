"""The layers that confine a process before it runs a submission, and which of them hold on this machine."""

from __future__ import annotations

import bisect
import contextlib
import ctypes
import os
import sys
import threading
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from harness.errors import InputError
from harness.sandbox.kernel import (
    SUPPORTED,
    end_with_parent,
    forbid_new_privileges,
    process_control,
    require_machine,
    system_call,
)
from harness.sandbox.landlock import landlock_version, restrict_files
from harness.sandbox.seccomp import install_filter, refusals_for_submissions, refusals_for_workers

# Names layers that are left out, for tests and for hosts on which a layer fails.
WITHOUT = "HARNESS_SANDBOX_WITHOUT"

with contextlib.suppress(ImportError):  # not on Windows, where no layer holds
    import resource

_PR_SET_KEEPCAPS = 8
_CAPSET, _CAPABILITY_VERSION = {"x86_64": 126, "aarch64": 91}, 0x20080522
_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 1, 2
# Below the range of systemd's dynamic users; above that of people.
_FIRST_USER, USERS = 60_001, 1_000
_ADDITIONAL_MEMORY, _FILE_BYTES, _OPEN_FILES, _THREADS, _PENDING_SIGNALS = 4 * 2**30, 2**29, 256, 128, 1024
# The kernel's own limit.
_MOST_THREADS = 2**22
# What Python and torch read at any time, beside their own folders.
SYSTEM_FILES = (
    *("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/localtime", "/etc/mime.types"),
    *("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"),
    *("/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/sys/kernel", "/sys/devices/system/cpu"),
)


class Layer(StrEnum):
    """A layer of the sandbox, by the name that `SandboxRequirement.parse` reads."""

    BUBBLEWRAP = "bubblewrap"
    USER = "user"
    LIMITS = "limits"
    LANDLOCK = "landlock"
    SECCOMP = "seccomp"


@dataclass(frozen=True, kw_only=True)
class LayerState:
    """Whether a layer holds; ``detail`` is its version or extent, or the reason why it does not."""

    layer: Layer
    holds: bool
    detail: str


def layers_line(layers: Iterable[LayerState]) -> str:
    """Return the layers that hold and, with the reasons, those that do not, as one line."""
    layers = tuple(layers)
    holding = ", ".join(one.layer for one in layers if one.holds) or "none of the layers"
    return holding + "".join(f"; not {one.layer}: {one.detail}" for one in layers if not one.holds)


def unavailable_layers() -> tuple[LayerState, ...]:
    """The state of each layer where the sandbox is not implemented."""
    return tuple(LayerState(layer=layer, holds=False, detail=f"needs {SUPPORTED}") for layer in Layer)


WORKER_DETAIL = "no network; programs, processes and changes of files are allowed"


def confine_worker() -> None:
    """Refuse this process, which imports only libraries, all system calls that no training needs, where that is possible."""
    with contextlib.suppress(OSError):
        install_filter(refusals_for_workers(require_machine()))


def switched_off() -> frozenset[Layer]:
    """The layers that the environment variable `WITHOUT` names, separated by commas.

    Raises:
        InputError: it names something else.
    """
    names = [name.strip() for name in os.environ.get(WITHOUT, "").split(",")]
    unknown = [name for name in names if name and name not in list(Layer)]
    if unknown:
        raise InputError(
            f"expected layers of the sandbox in {WITHOUT}, got {unknown[0]!r}. Layers: {', '.join(Layer)}."
        )
    return frozenset(Layer(name) for name in names if name)


def confine_submission(
    folder: Path, *, readable: Iterable[Path], user: int, without: Collection[Layer] = ()
) -> tuple[LayerState, ...]:
    """Confine this process, which has one thread and has run no code of a submission yet, for good.

    It can then change files in ``folder`` only, read only there, in ``readable``, and in the folders of Python and of its
    libraries, and start threads but no processes. ``user``, from 0 to `USERS`, is the number of an unused user, another one
    for each process at a time. The layers ``without`` are left out. Bubblewrap, in which the process was started or not, is
    not among the returned states.
    """
    project = list(readable)
    libraries = [Path(name) for name in (sys.prefix, sys.base_prefix, *filter(os.path.isabs, sys.path), *SYSTEM_FILES)]
    has_landlock = Layer.LANDLOCK not in without and landlock_version() > 0
    parent = os.getppid()
    steps: dict[Layer, Callable[[], str]] = {
        Layer.USER: lambda: _become_other_user(
            folder, project, libraries, _FIRST_USER + user, may_read_all=has_landlock
        ),
        # After it, since threads are counted for each user.
        Layer.LIMITS: _limit_resources,
        Layer.LANDLOCK: lambda: _restrict_files(folder, [*project, *libraries]),
        Layer.SECCOMP: lambda: _refuse_calls(parent),
    }
    return tuple(left_out(layer) if layer in without else _state(layer, apply) for layer, apply in steps.items())


def left_out(layer: Layer) -> LayerState:
    """The state of a layer that is switched off."""
    return LayerState(layer=layer, holds=False, detail=f"switched off by {WITHOUT}")


def _state(layer: Layer, apply: Callable[[], str]) -> LayerState:
    """Apply a layer; what it raises is the reason why it does not hold."""
    try:
        return LayerState(layer=layer, holds=True, detail=apply())
    except (OSError, ValueError, _NotApplicableError) as error:
        return LayerState(layer=layer, holds=False, detail=str(error) or type(error).__name__)


class _NotApplicableError(Exception):
    """A layer that this machine or user does not allow."""


def _limit_resources() -> str:
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
    counted = _counted_threads()
    limits = {
        resource.RLIMIT_AS: pages * resource.getpagesize() + _ADDITIONAL_MEMORY,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: _FILE_BYTES,
        resource.RLIMIT_NOFILE: _OPEN_FILES,
        # Of all processes of the user together.
        resource.RLIMIT_SIGPENDING: _PENDING_SIGNALS,
        resource.RLIMIT_NPROC: counted + _THREADS,
    }
    for limit, value in limits.items():
        _, hard = resource.getrlimit(limit)
        lowest = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (lowest, lowest))
    threads = f", {_THREADS} threads" if counted else ""
    return (
        f"{_ADDITIONAL_MEMORY >> 30} GiB of memory, {_FILE_BYTES >> 20} MiB per file, {_OPEN_FILES} open files{threads}"
    )


def _counted_threads() -> int:
    """The threads that the kernel counts for this user in all processes, some of which may not be seen; 0 if it limits none."""
    _, hard = resource.getrlimit(resource.RLIMIT_NPROC)

    def is_enough(limit: int) -> bool:
        resource.setrlimit(resource.RLIMIT_NPROC, (limit, hard))
        thread = threading.Thread(target=int)
        try:
            thread.start()
        except RuntimeError:
            return False
        thread.join()
        return True

    return bisect.bisect_left(range(_MOST_THREADS if hard == resource.RLIM_INFINITY else hard), 1, key=is_enough)


def _become_other_user(
    folder: Path, project: Iterable[Path], libraries: Iterable[Path], user: int, *, may_read_all: bool
) -> str:
    """Give ``folder`` to ``user`` and become that user; needs root.

    If others cannot read the project or the libraries, a capability to read all files is kept, unless this process does
    not have one, or ``may_read_all`` is false. Without it, the libraries must be readable.
    """
    if os.geteuid() != 0:
        raise _NotApplicableError("needs root")
    # In a container, only the second may be there.
    held = [
        1 << number for number in (_CAP_DAC_READ_SEARCH, _CAP_DAC_OVERRIDE) if _effective_capabilities() >> number & 1
    ]
    capabilities = held[0] if held and may_read_all else 0
    private = [place for place in libraries if not _readable_by_others(place)]
    if private and not capabilities:
        raise _NotApplicableError(
            f"{private[0]} can be read by root only; another user needs a capability to read it, and Landlock to limit that"
        )
    if not private and all(map(_readable_by_others, project)):
        capabilities = 0
    for inside, folders, files in os.walk(folder):
        for path in (Path(inside), *(Path(inside, name) for name in (*folders, *files))):
            if not path.is_symlink():
                os.chown(path, user, user, follow_symlinks=False)
    process_control(_PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    _set_capabilities(capabilities)
    return f"user {user}"


def _readable_by_others(path: Path) -> bool:
    if not path.exists():
        return True
    resolved = path.resolve()
    return all(place.stat().st_mode & 0o001 for place in (*resolved.parents, *([resolved] * resolved.is_dir())))


def _effective_capabilities() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), 16)


def _set_capabilities(capabilities: int) -> None:
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    # Effective, permitted, inheritable: the lower 32 bits of each, then the higher.
    data = (ctypes.c_uint32 * 6)(capabilities, capabilities, 0, 0, 0, 0)
    system_call(_CAPSET[require_machine()], ctypes.byref(header), ctypes.byref(data))


def _restrict_files(folder: Path, places: Iterable[Path]) -> str:
    version = landlock_version()
    if not version:
        raise _NotApplicableError("the kernel does not offer Landlock")
    forbid_new_privileges()
    restrict_files(readable=places, writable=[folder, Path("/dev/null")])
    return f"version {version}"


def _refuse_calls(parent: int) -> str:
    end_with_parent(parent)
    install_filter(refusals_for_submissions(require_machine(), os.getpid()))
    return "no programs, processes, sockets, signals, links or changes of metadata"
