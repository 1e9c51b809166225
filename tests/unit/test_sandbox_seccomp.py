"""The programs of the seccomp filters, run by a small interpreter for both architectures."""

from __future__ import annotations

import errno
import struct
from collections.abc import Sequence

import pytest

from harness.sandbox.seccomp import (
    Refusal,
    filter_program,
    refusals_for_submissions,
    refusals_for_workers,
)

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOWED, KILLED = "allowed", "killed"
OWN_PROCESS = 4321
# Numbers on x86-64 and aarch64, from the kernel's tables.
NUMBERS = {
    "read": (0, 63), "write": (1, 64), "openat": (257, 56), "futex": (202, 98), "exit_group": (231, 94),
    "clone": (56, 220), "clone3": (435, 435), "execve": (59, 221), "socket": (41, 198), "kill": (62, 129),
    "tgkill": (234, 131), "ptrace": (101, 117), "prlimit64": (302, 261), "sched_setaffinity": (203, 122),
    "prctl": (157, 167), "ioctl": (16, 29), "fchmodat": (268, 53), "linkat": (265, 37), "unshare": (272, 97),
    "keyctl": (250, 219), "memfd_create": (319, 279), "setresuid": (117, 147), "io_uring_setup": (425, 425),
}  # fmt: skip
CLONE_THREAD, SIGCHLD, AF_UNIX, AF_INET, TIOCSTI = 0x10000, 17, 1, 2, 0x5412


def decision(program: bytes, architecture: str, number: int, arguments: Sequence[int] = ()) -> str | int:
    """Run a filter on one system call; return "allowed", "killed" or the error number."""
    values = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("=IIQ6Q", number, ARCHITECTURES[architecture], 0, *values)
    accumulator = place = 0
    while True:
        code, if_true, if_false, value = struct.unpack_from("=HBBI", program, 8 * place)
        place += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, value)
        elif code == 0x06:
            outcomes: dict[int, str | int] = {0x7FFF0000: ALLOWED, 0x80000000: KILLED}
            return outcomes.get(value & 0xFFFF0000, int(value & 0xFFFF))
        else:
            met = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}[code]
            place += if_true if met else if_false


@pytest.fixture(params=list(ARCHITECTURES))
def architecture(request: pytest.FixtureRequest) -> str:
    """Each architecture in turn."""
    return str(request.param)


def called(architecture: str, refusals: Sequence[Refusal], name: str, *arguments: int) -> str | int:
    """What a filter decides on a call by name."""
    number = NUMBERS[name][list(ARCHITECTURES).index(architecture)]
    return decision(filter_program(architecture, refusals), architecture, number, arguments)


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        *[(name, (), ALLOWED) for name in ("read", "write", "openat", "futex", "exit_group")],
        *[(name, (), errno.EPERM) for name in ("execve", "fchmodat", "linkat", "memfd_create", "setresuid", "keyctl")],
        *[(name, (), errno.EPERM) for name in ("ptrace", "unshare", "io_uring_setup")],
        ("clone", (CLONE_THREAD | SIGCHLD,), ALLOWED),
        ("clone", (SIGCHLD,), errno.EPERM),
        ("clone3", (), errno.ENOSYS),
        ("socket", (AF_INET,), errno.EPERM),
        ("socket", (AF_UNIX,), errno.EPERM),
        ("kill", (OWN_PROCESS, 9), ALLOWED),
        ("kill", (0, 9), errno.EPERM),
        ("kill", (2**32 - 1, 9), errno.EPERM),
        ("kill", (OWN_PROCESS + 1, 9), errno.EPERM),
        ("tgkill", (OWN_PROCESS, 5, 6), ALLOWED),
        ("tgkill", (1, 1, 6), errno.EPERM),
        ("prlimit64", (0, 7), ALLOWED),
        ("prlimit64", (OWN_PROCESS, 7), ALLOWED),
        ("prlimit64", (1, 7), errno.EPERM),
        ("sched_setaffinity", (0,), ALLOWED),
        ("sched_setaffinity", (1,), errno.EPERM),
        ("prctl", (15,), ALLOWED),
        ("prctl", (1, 0), errno.EPERM),
        ("ioctl", (0, 0x5401), ALLOWED),
        ("ioctl", (0, TIOCSTI), errno.EPERM),
    ],
)
def test_calls_of_a_submission(architecture: str, name: str, arguments: tuple[int, ...], expected: str | int) -> None:
    """Threads and its own process are allowed; programs, processes, sockets and others' processes are refused."""
    assert expected == called(architecture, refusals_for_submissions(architecture, OWN_PROCESS), name, *arguments)


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("clone", (SIGCHLD,), ALLOWED),
        ("execve", (), ALLOWED),
        ("kill", (1, 9), ALLOWED),
        ("socket", (AF_UNIX,), ALLOWED),
        ("socket", (AF_INET,), errno.EPERM),
        ("ptrace", (), errno.EPERM),
        ("unshare", (), errno.EPERM),
    ],
)
def test_calls_of_a_worker(architecture: str, name: str, arguments: tuple[int, ...], expected: str | int) -> None:
    """A worker starts and ends processes and uses local sockets, and nothing else that a training does not need."""
    assert expected == called(architecture, refusals_for_workers(architecture), name, *arguments)


def test_calls_of_another_architecture() -> None:
    """A call by the convention of another architecture ends the process; x32 calls do not exist."""
    program = filter_program("x86_64", refusals_for_submissions("x86_64", OWN_PROCESS))

    assert KILLED == decision(program, "aarch64", NUMBERS["read"][1])
    assert errno.ENOSYS == decision(program, "x86_64", 0x40000000 + NUMBERS["execve"][0])


def test_a_call_is_refused_for_some_values() -> None:
    """With values, only these are refused; with `unless`, only these are allowed, also if there are many."""
    values = tuple(range(10, 20))
    for unless in (False, True):
        refusal = Refusal(number=1, argument=2, equal=values, unless=unless)
        program = filter_program("x86_64", [refusal])
        found = [decision(program, "x86_64", 1, (0, 0, value)) for value in range(30)]
        met, otherwise = (ALLOWED, errno.EPERM) if unless else (errno.EPERM, ALLOWED)
        assert [met if value in values else otherwise for value in range(30)] == found
        assert ALLOWED == decision(program, "x86_64", 2, (0, 0, 10))
