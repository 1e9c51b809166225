"""The devices of the machine, and its properties that can change the last bits of a result."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated

import torch

import harness
from harness.errors import InputError
from harness.tables import Range, require_ranges

# If one of these fields of `Environment` differs, every value may differ in its last bits.
BIT_RELEVANT = ("torch", "cpu_capability", "threads", "accelerator", "cuda", "driver", "deterministic")
# Options of glibc's mallopt: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, and the largest legal value of M_MMAP_THRESHOLD.
_TRIM, _MMAP, _LARGEST_MMAP = -1, -3, 32 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Environment:
    """The software and hardware that a result was computed with; others may change the last bits of a result.

    Versions of this package, Python, PyTorch (with its build) and torchvision; `git_commit` of the package; operating
    system with version and architecture (``platform``); name of the CPU (None if not reported), the instruction set
    that PyTorch uses on this CPU, such as ``AVX2``, and the number of threads. On CUDA only, else None: name of the
    device (``accelerator``), version of CUDA that PyTorch was built for, and version of the NVIDIA driver, if known.
    ``deterministic``: whether `torch.use_deterministic_algorithms` is on.
    """

    harness: str
    commit: str | None
    python: str
    torch: str
    torchvision: str
    platform: str
    processor: str | None
    cpu_capability: str
    threads: Annotated[int, Range(least=1, most=4096)]
    accelerator: str | None
    cuda: str | None
    driver: str | None
    deterministic: bool

    def __post_init__(self) -> None:
        require_ranges(self, InputError)


def environment(device: torch.device | None = None) -> Environment:
    """Return the environment of a run on ``device``; by default, on the device that ``auto`` stands for."""
    device = device or resolve_device("auto")
    on_cuda = device.type == "cuda"
    return Environment(
        harness=harness.__version__,
        commit=git_commit(Path(__file__).parents[2]),
        python=platform.python_version(),
        torch=str(torch.__version__),
        torchvision=metadata.version("torchvision"),
        platform=platform.platform(),
        processor=_processor(),
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
        threads=torch.get_num_threads(),
        accelerator=torch.cuda.get_device_name(device) if on_cuda else None,
        cuda=torch.version.cuda if on_cuda else None,
        driver=_first_line(Path("/sys/module/nvidia/version")) if on_cuda else None,
        deterministic=torch.are_deterministic_algorithms_enabled(),
    )


def available_devices() -> tuple[str, ...]:
    """Return the types of the devices that torch can use here: ``cpu``, then ``mps`` and ``cuda`` if available."""
    found = ["cpu"]
    if torch.backends.mps.is_available():
        found.append("mps")
    if torch.cuda.is_available():
        found.append("cuda")
    return tuple(found)


def resolve_device(choice: str) -> torch.device:
    """Return the device called ``cpu``, ``mps``, ``cuda`` or ``cuda:N``.

    ``auto`` stands for the last device of `available_devices`.

    Raises:
        InputError: this machine has no device called ``choice``.
    """
    found = available_devices()
    if choice == "auto":
        choice = found[-1]
    legal = ["auto", *found]
    if "cuda" in found:
        legal += [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if choice not in legal:
        msg = f"expected a device that this machine has, got device={choice!r}. Use one of: {', '.join(legal)}."
        raise InputError(msg)
    return torch.device(choice)


def keep_freed_memory() -> None:
    """Make glibc (if it is the C library) keep freed memory in the process instead of returning it to the system.

    The system zeroes returned memory before the process can use it again, which takes up to a fifth of a training step
    on a CPU.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_TRIM, 2**31 - 1)
        libc.mallopt(_MMAP, _LARGEST_MMAP)


def git_commit(checkout: Path) -> str | None:
    """Return the commit of a git checkout, with the suffix ``-dirty`` if files differ from it; None if git reports no commit."""
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _processor() -> str | None:
    """Return the name of the CPU, on Linux from /proc/cpuinfo, since ``platform.processor()`` is empty there."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or None
    names = (line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name"))
    return next(names, None)


def _first_line(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return None
