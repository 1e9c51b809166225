"""The machine a run happens on: its devices, and what about it decides the last bits of a result."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch

import harness
from harness.errors import InputError

# glibc's mallopt: M_TRIM_THRESHOLD and M_MMAP_THRESHOLD, and the largest value that it takes for the second.
_TRIM, _MMAP, _LARGEST_MMAP = -1, -3, 32 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What a result holds in. Two environments that differ may differ in the last bits of every figure.

    Args:
        harness: version of this package.
        commit: its git commit, with ``-dirty`` after it when files differ from it; None outside a checkout.
        python: version of Python.
        torch: version of PyTorch, with its build.
        torchvision: version of torchvision.
        platform: operating system, its version and the processor architecture.
        processor: name of the CPU, None where the system does not tell.
        cpu_capability: instruction set that PyTorch uses, such as ``AVX2``.
        threads: threads that PyTorch computes with on the CPU.
        accelerator: name of the CUDA device, None where the device is not one.
        cuda: version of CUDA that PyTorch was built for, None where the device is not a CUDA one.
        driver: version of the NVIDIA driver, None where it is not known.
        deterministic: whether PyTorch was told to use deterministic algorithms only.
    """

    harness: str
    commit: str | None
    python: str
    torch: str
    torchvision: str
    platform: str
    processor: str | None
    cpu_capability: str
    threads: int
    accelerator: str | None
    cuda: str | None
    driver: str | None
    deterministic: bool


def environment(device: torch.device | None = None) -> Environment:
    """Describe this machine as seen from a run on ``device``; from its best device when none is named."""
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
    """Kinds of device found, best last: ``cpu``, then ``mps`` and ``cuda`` where there are such."""
    found = ["cpu"]
    if torch.backends.mps.is_available():
        found.append("mps")
    if torch.cuda.is_available():
        found.append("cuda")
    return tuple(found)


def resolve_device(choice: str) -> torch.device:
    """The device for ``auto`` (the best one found), ``cpu``, ``mps``, ``cuda`` or, with its number, ``cuda:1``.

    Raises:
        InputError: no such device here, or not the name of one.
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
    """Tell the C library, for the rest of the process, not to give freed memory back to the system, where it is glibc.

    Memory that is asked for again is zeroed page by page by the system: up to a fifth of a training step on a CPU.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_TRIM, 2**31 - 1)
        libc.mallopt(_MMAP, _LARGEST_MMAP)


def git_commit(checkout: Path) -> str | None:
    """The commit that a checkout is at, ``-dirty`` after it when files differ; None where git does not know."""
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _processor() -> str | None:
    """From where Linux keeps it: Python's own answer is empty there."""
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
