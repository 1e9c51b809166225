"""The layers that confine a process before it runs a submission, and which of them hold on this machine."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

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

with contextlib.suppress(ImportError):  # not on Windows, where no layer holds
    import resource

_PR_SET_KEEPCAPS = 8
_CAPSET, _CAPABILITY_VERSION, _CAP_DAC_READ_SEARCH = {"x86_64": 126, "aarch64": 91}, 0x20080522, 2
# Below the range of systemd's dynamic users; above that of people.
_FIRST_USER, _USERS = 60_001, 1_000
_ADDITIONAL_MEMORY, _FILE_BYTES, _OPEN_FILES, _THREADS = 4 * 2**30, 2**30, 256, 128
# What Python and torch read at any time, beside their own folders.
_SYSTEM = (
    *("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/localtime", "/etc/mime.types"),
    *("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"),
    *("/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/sys/kernel", "/sys/devices/system/cpu"),
)


class Layer(StrEnum):
    """A layer of the sandbox, by the name that `SandboxRequirement.parse` reads."""

    BUBBLEWRAP = "bubblewrap"
    LIMITS = "limits"
    USER = "user"
    LANDLOCK = "landlock"
    SECCOMP = "seccomp"


@dataclass(frozen=True, kw_only=True)
class LayerState:
    """Whether a layer holds; ``detail`` is its version or extent, or the reason why it does not."""

    layer: Layer
    holds: bool
    detail: str


def unavailable_layers() -> tuple[LayerState, ...]:
    """The state of each layer where the sandbox is not implemented."""
    return tuple(LayerState(layer=layer, holds=False, detail=f"needs {SUPPORTED}") for layer in Layer)


def confine_worker() -> None:
    """Refuse this process, which imports only libraries, all system calls that no training needs, where that is possible."""
    with contextlib.suppress(OSError):
        install_filter(refusals_for_workers(require_machine()))


def confine_submission(folder: Path, *, readable: Iterable[Path], slot: int) -> tuple[LayerState, ...]:
    """Confine this process, which has one thread and has run no code of a submission yet, for good.

    It can then change files in ``folder`` only, read only there, in ``readable``, and in the folders of Python and of its
    libraries, and start threads but no processes. Processes that run at the same time have different slots.
    """
    places = [*readable, *map(Path, (sys.prefix, sys.base_prefix, *filter(os.path.isabs, sys.path), *_SYSTEM))]
    parent = os.getppid()
    return (
        LayerState(layer=Layer.BUBBLEWRAP, holds=False, detail="not used"),
        _state(Layer.LIMITS, _limit_resources),
        _state(Layer.USER, lambda: _become_other_user(folder, places, slot)),
        _state(Layer.LANDLOCK, lambda: _restrict_files(folder, places)),
        _state(Layer.SECCOMP, lambda: _refuse_calls(parent)),
    )


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
    limits = {
        resource.RLIMIT_AS: pages * resource.getpagesize() + _ADDITIONAL_MEMORY,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: _FILE_BYTES,
        resource.RLIMIT_NOFILE: _OPEN_FILES,
    }
    for limit, value in limits.items():
        _, hard = resource.getrlimit(limit)
        lowest = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (lowest, lowest))
    return f"{_ADDITIONAL_MEMORY >> 30} GiB of memory, {_FILE_BYTES >> 30} GiB per file, {_OPEN_FILES} open files"


def _become_other_user(folder: Path, places: Iterable[Path], slot: int) -> str:
    """Give ``folder`` to an unused user and become that user; needs root."""
    if os.geteuid() != 0:
        raise _NotApplicableError("needs root")
    private = next((place for place in places if place.exists() and not _readable_by_others(place)), None)
    if private is not None and not landlock_version():
        raise _NotApplicableError(f"{private} can be read by root only, and there is no Landlock to limit what is read")
    user = _FIRST_USER + slot % _USERS
    for inside, folders, files in os.walk(folder):
        for path in (Path(inside), *(Path(inside, name) for name in (*folders, *files))):
            if not path.is_symlink():
                os.chown(path, user, user, follow_symlinks=False)
    resource.setrlimit(resource.RLIMIT_NPROC, (_THREADS, _THREADS))
    process_control(_PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    # Landlock limits what this capability, to read all files, is good for.
    _set_capabilities(1 << _CAP_DAC_READ_SEARCH if private is not None else 0)
    return f"user {user}"


def _readable_by_others(path: Path) -> bool:
    resolved = path.resolve()
    return all(place.stat().st_mode & 0o001 for place in (*resolved.parents, *([resolved] * resolved.is_dir())))


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
