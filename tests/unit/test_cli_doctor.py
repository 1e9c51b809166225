"""`harness doctor`: versions, devices, engines, data sets and remedies."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.datasets import PUBLISHED
from harness.sandbox import Layer
from harness.sandbox.kernel import machine
from harness.training import ENGINES

Command = Callable[..., tuple[int, str, str]]


def test_doctor_lists_what_is_missing_with_a_remedy(command: Command) -> None:
    """Versions, devices and threads are listed; MNIST is missing in unit tests, and the remedy is printed."""
    code, out, _ = command("doctor")
    words = " ".join(out.split())

    assert 0 == code
    assert [
        name for name in ("torch", "threads", "devices", "data (cache)", "data (embedded)") if name not in words
    ] == []
    assert "missing MNIST: Name a folder with the four MNIST files by HARNESS_DATA or --data" in words


def test_doctor_lists_every_engine(command: Command) -> None:
    """Each value of --engine is listed with the kinds of device that it runs on."""
    _, out, _ = command("doctor")
    words = " ".join(out.split())

    assert [] == [name for name, engine in ENGINES.items() if f"{name} on {', '.join(engine.devices)}" not in words]


def test_doctor_names_a_damaged_file(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file with other content is reported as damaged, an absent one as missing."""
    name = PUBLISHED["mnist"].files[1].name
    (tmp_path / name).write_bytes(b"not MNIST")
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))

    _, out, _ = command("doctor")
    words = " ".join(out.split())

    assert f"{name} damaged" in words
    assert f"{PUBLISHED['mnist'].files[0].name} missing" in words


@pytest.mark.skipif(machine() is None, reason="the layers are implemented for Linux on x86-64 and aarch64")
def test_doctor_lists_the_layers_of_the_sandbox(command: Command) -> None:
    """Each layer is listed with its version or extent, or with the reason why it does not hold."""
    _, out, _ = command("doctor", "--json", "-")
    found = json.loads(out)["sandbox"]

    assert list(Layer) == [one["layer"] for one in found]
    assert [] == [one for one in found if not one["detail"]]
    assert {"limits", "seccomp"} <= {one["layer"] for one in found if one["holds"]}
