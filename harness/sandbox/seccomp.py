"""Seccomp filters: system calls that a confined process is refused, as a program for the kernel (classic BPF).

A refused call fails with ``EPERM`` and does not end the process. https://man7.org/linux/man-pages/man2/seccomp.2.html
"""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.sandbox.kernel import forbid_new_privileges, require_machine, system_call

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_SET_MODE_FILTER, _ALL_THREADS = 1, 1
# The bit of the other calling convention on x86-64, x32, whose calls have the same numbers.
_X32 = 0x40000000

_KILL, _ERROR, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_LOAD, _JUMP_IF_EQUAL, _JUMP_IF_GREATER_OR_EQUAL, _JUMP_IF_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_OFFSET, _ARCHITECTURE_OFFSET, _ARGUMENTS_OFFSET = 0, 4, 16

# Numbers on x86-64 and aarch64; None where the architecture does not have the call.
_NEVER_NEEDED: Mapping[str, tuple[int | None, int | None]] = {
    "acct": (163, 89), "add_key": (248, 217), "adjtimex": (159, 171), "bpf": (321, 280),
    "chroot": (161, 51), "clock_adjtime": (305, 266), "clock_settime": (227, 112), "delete_module": (176, 106),
    "fanotify_init": (300, 262), "finit_module": (313, 273), "fsconfig": (431, 431), "fsmount": (432, 432),
    "fsopen": (430, 430), "fspick": (433, 433), "init_module": (175, 105), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "io_uring_setup": (425, 425), "ioperm": (173, None), "iopl": (172, None),
    "kcmp": (312, 272), "kexec_file_load": (320, 294), "kexec_load": (246, 104), "keyctl": (250, 219),
    "lookup_dcookie": (212, 18), "memfd_secret": (447, 447), "migrate_pages": (256, 238), "modify_ldt": (154, None),
    "mount": (165, 40), "mount_setattr": (442, 442), "move_mount": (429, 429), "move_pages": (279, 239),
    "name_to_handle_at": (303, 264), "nfsservctl": (180, 42), "open_by_handle_at": (304, 265), "open_tree": (428, 428),
    "perf_event_open": (298, 241), "personality": (135, 92), "pidfd_getfd": (438, 438), "pivot_root": (155, 41),
    "process_madvise": (440, 440), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "ptrace": (101, 117), "quotactl": (179, 60), "quotactl_fd": (443, 443), "reboot": (169, 142),
    "request_key": (249, 218), "setdomainname": (171, 162), "sethostname": (170, 161), "setns": (308, 268),
    "settimeofday": (164, 170), "swapoff": (168, 225), "swapon": (167, 224), "syslog": (103, 116),
    "umount2": (166, 39), "unshare": (272, 97), "uselib": (134, None), "userfaultfd": (323, 282), "vhangup": (153, 58),
}  # fmt: skip
_NOT_FOR_SUBMISSIONS: Mapping[str, tuple[int | None, int | None]] = {
    # Programs and processes
    "execve": (59, 221), "execveat": (322, 281), "fork": (57, None), "vfork": (58, None), "setpgid": (109, 154),
    "setsid": (112, 157), "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "tkill": (200, 130), "setpriority": (141, 140), "ioprio_set": (251, 30),
    "sched_setattr": (314, 274), "sched_setparam": (142, 118), "sched_setscheduler": (144, 119),
    # Sockets, memory and messages that outlive the process or that no limit counts
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201),
    "accept": (43, 202), "accept4": (288, 242), "memfd_create": (319, 279), "mq_open": (240, 180),
    "mq_unlink": (241, 181), "msgctl": (71, 187), "msgget": (68, 186), "msgrcv": (70, 188), "msgsnd": (69, 189),
    "semctl": (66, 191), "semget": (64, 190), "semop": (65, 193), "semtimedop": (220, 192), "shmat": (30, 196),
    "shmctl": (31, 195), "shmget": (29, 194), "inotify_init": (253, None), "inotify_init1": (294, 26), "io_setup": (206, 0),
    # Metadata and links, which Landlock does not protect
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None),
    "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54), "utime": (132, None), "utimes": (235, None),
    "futimesat": (261, None), "utimensat": (280, 88), "setxattr": (188, 5), "lsetxattr": (189, 6),
    "fsetxattr": (190, 7), "setxattrat": (463, 463), "removexattr": (197, 14), "lremovexattr": (198, 15),
    "fremovexattr": (199, 16), "removexattrat": (466, 466), "link": (86, None), "linkat": (265, 37),
    "symlink": (88, None), "symlinkat": (266, 36), "mknod": (133, None), "mknodat": (259, 33),
    # Another user
    "capset": (126, 91),
    "setuid": (105, 146), "setgid": (106, 144), "setreuid": (113, 145), "setregid": (114, 143), "setgroups": (116, 159),
    "setresuid": (117, 147), "setresgid": (119, 149), "setfsuid": (122, 151), "setfsgid": (123, 152),
}  # fmt: skip
_CLONE, _CLONE3, _CLONE_THREAD = (56, 220), (435, 435), 0x10000
_KILL_CALL, _TGKILL, _PRLIMIT, _SET_AFFINITY = (62, 129), (234, 131), (302, 261), (203, 122)
_SOCKET, _AF_UNIX = (41, 198), 1
_PRCTL, _SET_PARENT_DEATH_SIGNAL = (157, 167), 1
_IOCTL, _TERMINAL_INJECTION = (16, 29), (0x5412, 0x541C)
# Signals to others (F_SETOWN, F_SETSIG, F_SETOWN_EX); files that others wait for (F_SETLEASE); news of others' files (F_NOTIFY);
# memory that no limit counts (F_SETPIPE_SZ).
_FCNTL, _REFUSED_COMMANDS = (72, 25), (8, 10, 15, 1024, 1026, 1031)


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A refused system call: always, or depending on the lower 32 bits of one argument.

    With ``equal`` or ``bits``, the argument meets the condition if it is one of these values, or has one of these bits.
    The call is refused if it does, or with ``unless`` if it does not.
    """

    number: int
    error: int = errno.EPERM
    argument: int = 0
    equal: tuple[int, ...] = ()
    bits: int = 0
    unless: bool = False

    def instructions(self) -> list[bytes]:
        """The instructions that decide on this call; each path through them returns."""
        refuse, allow = _instruction(_RETURN, _ERROR | self.error), _instruction(_RETURN, _ALLOW)
        tests = [(_JUMP_IF_EQUAL, value) for value in self.equal] or [(_JUMP_IF_SET, self.bits)] * bool(self.bits)
        if not tests:
            return [refuse]
        met, otherwise = (allow, refuse) if self.unless else (refuse, allow)
        return [
            _instruction(_LOAD, _ARGUMENTS_OFFSET + 8 * self.argument),
            # A condition that is met jumps over the other tests and over `otherwise`.
            *(_instruction(code, value, len(tests) - place, 0) for place, (code, value) in enumerate(tests)),
            otherwise,
            met,
        ]


def refusals_for_workers(architecture: str) -> list[Refusal]:
    """System calls that neither the worker nor a training needs; of sockets, only local ones (Unix) are allowed."""
    column = _COLUMNS[architecture]
    return [
        *_always(_NEVER_NEEDED, column),
        Refusal(number=_SOCKET[column], equal=(_AF_UNIX,), unless=True),
        Refusal(number=_IOCTL[column], argument=1, equal=_TERMINAL_INJECTION),
    ]


def refusals_for_submissions(architecture: str, process: int) -> list[Refusal]:
    """System calls that a model's definition does not need, those of `refusals_for_workers` among them.

    No programs and processes, threads allowed; no sockets; no signals and limits for others than ``process``; no
    changed modes, owners, times and links of files; no memory that outlives the process.
    """
    column = _COLUMNS[architecture]
    itself = (0, process)
    return [
        *_always(_NOT_FOR_SUBMISSIONS, column),
        Refusal(number=_CLONE[column], bits=_CLONE_THREAD, unless=True),
        # Its flags are behind a pointer, which no filter can follow; the C library then uses clone.
        Refusal(number=_CLONE3[column], error=errno.ENOSYS),
        Refusal(number=_KILL_CALL[column], equal=(process,), unless=True),
        Refusal(number=_TGKILL[column], equal=(process,), unless=True),
        Refusal(number=_PRLIMIT[column], equal=itself, unless=True),
        Refusal(number=_SET_AFFINITY[column], equal=itself, unless=True),
        Refusal(number=_PRCTL[column], equal=(_SET_PARENT_DEATH_SIGNAL,)),
        Refusal(number=_FCNTL[column], argument=1, equal=_REFUSED_COMMANDS),
        # The first refusal of a call decides: of sockets, all are refused above.
        *refusals_for_workers(architecture),
    ]


_COLUMNS = {name: column for column, name in enumerate(_ARCHITECTURES)}


def _always(calls: Mapping[str, tuple[int | None, int | None]], column: int) -> list[Refusal]:
    return [Refusal(number=number) for both in calls.values() if (number := both[column]) is not None]


def filter_program(architecture: str, refusals: Sequence[Refusal]) -> bytes:
    """Assemble a filter that allows all other system calls; those of a foreign architecture end the process."""
    program = [
        _instruction(_LOAD, _ARCHITECTURE_OFFSET),
        _instruction(_JUMP_IF_EQUAL, _ARCHITECTURES[architecture], 1, 0),
        _instruction(_RETURN, _KILL),
        _instruction(_LOAD, _NUMBER_OFFSET),
    ]
    if architecture == "x86_64":
        program += [_instruction(_JUMP_IF_GREATER_OR_EQUAL, _X32, 0, 1), _instruction(_RETURN, _ERROR | errno.ENOSYS)]
    for refusal in refusals:
        decision = refusal.instructions()
        program += [_instruction(_JUMP_IF_EQUAL, refusal.number, 0, len(decision)), *decision]
    return b"".join([*program, _instruction(_RETURN, _ALLOW)])


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def install_filter(refusals: Sequence[Refusal]) -> None:
    """Filter the system calls of all threads of this process and of its future children for good.

    Raises:
        OSError: the kernel refused, or this is not Linux on x86-64 or aarch64.
    """
    architecture = require_machine()
    program = filter_program(architecture, refusals)
    size = struct.calcsize("=HBBI")
    forbid_new_privileges()
    system_call(
        _SECCOMP[architecture],
        _SET_MODE_FILTER,
        _ALL_THREADS,
        ctypes.byref(_Program(length=len(program) // size, instructions=program)),
    )
