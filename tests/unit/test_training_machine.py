"""Devices and the description of the machine."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import pytest
import torch

from harness.errors import InputError
from harness.training import available_devices, environment, resolve_device
from harness.training.machine import git_commit


def pretend(monkeypatch: pytest.MonkeyPatch, *, cuda: int = 0, mps: bool = False) -> None:
    """Make PyTorch report these devices."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


def test_auto_takes_the_best_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA before MPS before the CPU."""
    found = []
    for devices in ({}, {"mps": True}, {"cuda": 1, "mps": True}):
        pretend(monkeypatch, **devices)
        found.append((available_devices(), str(resolve_device("auto"))))
    assert found == [(("cpu",), "cpu"), (("cpu", "mps"), "mps"), (("cpu", "mps", "cuda"), "cuda")]


def test_a_numbered_device_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """With two GPUs the second is cuda:1, and there is no cuda:2."""
    pretend(monkeypatch, cuda=2)
    assert torch.device("cuda:1") == resolve_device("cuda:1")
    with pytest.raises(InputError, match=r"got device='cuda:2'\. Use one of: auto, cpu, cuda, cuda:0, cuda:1\."):
        resolve_device("cuda:2")


@pytest.mark.parametrize("choice", ["cuda", "mps", "tpu", "", "cpu:x"])
def test_a_missing_device_is_named(choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that this machine lacks is an error that lists the available ones."""
    pretend(monkeypatch)
    with pytest.raises(InputError, match=rf"got device='{choice}'\. Use one of: auto, cpu\."):
        resolve_device(choice)


def test_the_environment_describes_this_machine() -> None:
    """Versions, threads and the CPU's instruction set are those in use; a CPU has no accelerator."""
    here = environment(torch.device("cpu"))
    assert (platform.python_version(), str(torch.__version__)) == (here.python, here.torch)
    assert (torch.get_num_threads(), torch.backends.cpu.get_cpu_capability()) == (here.threads, here.cpu_capability)
    assert (None, None, None) == (here.accelerator, here.cuda, here.driver)


def test_the_processor_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Linux it is read from a file; elsewhere platform.processor() is used, and an empty name is None."""
    read = Path.read_text
    told: list[str] = ["vendor_id : x\nmodel name : A CPU\nmodel name : B\n"]

    def read_text(path: Path, encoding: str | None = None) -> str:
        if path != Path("/proc/cpuinfo"):
            return read(path, encoding=encoding)
        if not told:
            raise FileNotFoundError
        return told.pop()

    monkeypatch.setattr(Path, "read_text", read_text)
    assert "A CPU" == environment(torch.device("cpu")).processor

    monkeypatch.setattr(platform, "processor", lambda: "")
    assert environment(torch.device("cpu")).processor is None


def test_the_environment_knows_the_determinism_flag() -> None:
    """Whether PyTorch is restricted to deterministic algorithms is part of the environment."""
    before = torch.are_deterministic_algorithms_enabled()
    try:
        torch.use_deterministic_algorithms(mode=True)
        assert environment(torch.device("cpu")).deterministic
    finally:
        torch.use_deterministic_algorithms(mode=before)
    assert before == environment(torch.device("cpu")).deterministic


def test_the_environment_of_a_gpu_has_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """On CUDA the device's name and CUDA's version are recorded."""
    pretend(monkeypatch, cuda=1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Made-up GPU")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    here = environment()
    assert ("Made-up GPU", "13.0") == (here.accelerator, here.cuda)


def test_the_commit_is_known_in_a_checkout_only(tmp_path: Path) -> None:
    """A git checkout has a commit, marked when files differ from it; other folders and broken repositories have none."""
    assert git_commit(tmp_path) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    assert git_commit(tmp_path) is None
    (tmp_path / "file").write_text("a")
    subprocess.run([*git, "add", "file"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "x"], check=True)
    clean = git_commit(tmp_path)
    (tmp_path / "file").write_text("b")
    assert clean is not None
    assert (40, f"{clean}-dirty") == (len(clean), git_commit(tmp_path))
