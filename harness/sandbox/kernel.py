"""The system calls that confine a process, by `ctypes`: Linux on x86-64 and aarch64 only."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import platform
import signal
import sys

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
MACHINES = ("x86_64", "aarch64")
SUPPORTED = "Linux on x86-64 or aarch64"


def machine() -> str | None:
    """The processor architecture, if the layers of the sandbox are implemented for it on this operating system."""
    found = platform.machine()
    return found if sys.platform == "linux" and found in MACHINES else None


def require_machine() -> str:
    """The processor architecture, as `machine` returns it.

    Raises:
        OSError: the layers of the sandbox are not implemented here.
    """
    found = machine()
    if found is None:
        raise OSError(errno.ENOSYS, f"expected {SUPPORTED}")
    return found


@functools.cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def system_call(number: int, *arguments: object) -> int:
    """Make a system call with integers and `ctypes` pointers as arguments.

    Raises:
        OSError: the call returned a negative value.
    """
    plain = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    result: int = _library().syscall(ctypes.c_long(number), *plain)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def process_control(option: int, value: int) -> None:
    """Call ``prctl(option, value)``.

    Raises:
        OSError: the kernel refused.
    """
    if _library().prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def forbid_new_privileges() -> None:
    """Make this process and its children unable to gain privileges by executing a program, such as ``sudo``.

    Raises:
        OSError: the kernel refused.
    """
    process_control(_PR_SET_NO_NEW_PRIVS, 1)


def end_with_parent(parent: int) -> None:
    """Let the kernel kill this process when its parent ends; end it now if ``parent`` is its parent no longer.

    A change of the user undoes this.

    Raises:
        OSError: the kernel refused.
    """
    process_control(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
