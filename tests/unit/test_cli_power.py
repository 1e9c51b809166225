"""The noise that `harness power` takes from the shipped certificate, and how it names it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.cli import inputs
from tests.certificates import made_up_certificate

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def shipped_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Ships a certificate of `reference` with this many of 50 runs."""
    monkeypatch.setattr(inputs, "resources", SimpleNamespace(files=lambda _: tmp_path))

    def ship(runs: int) -> None:
        (tmp_path / "certificates").mkdir()
        certificate = made_up_certificate("reference", [9_950, 9_954] * (runs // 2) + [9_952] * (runs % 2), runs=50)
        certificate.write(tmp_path / "certificates" / "reference.json")

    return ship


@pytest.mark.parametrize(("runs", "progress"), [(50, "50 of 50 seeds"), (12, "12 of 50 seeds so far")])
def test_the_default_noise_is_that_of_the_shipped_certificate(
    runs: int, progress: str, shipped_with: Callable[[int], None], tmp_path: Path, command: Command
) -> None:
    """Deviation and correlation are those of the certificate, named with the number of its runs; an option replaces either."""
    shipped_with(runs)
    code, out, _ = command("power", "--sd", "0.05", "--json", tmp_path / "power.json")
    noise = json.loads((tmp_path / "power.json").read_text("utf-8"))["noise"]

    assert 0 == code
    assert f"of the recorded certificate of reference on MNIST, {progress}" in " ".join(out.split())
    assert (0.05, pytest.approx(1.0)) == (noise["sd"], noise["correlation"])
    assert 0 == command("power", "--json", tmp_path / "power.json")[0]
    expected = 0.02 * (runs / (runs - 1)) ** 0.5
    assert pytest.approx(expected) == json.loads((tmp_path / "power.json").read_text("utf-8"))["noise"]["sd"]


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        (None, "expected a shipped model with a recorded certificate, got 'reference', which has none"),
        (1, "expected a certificate of reference with at least two complete runs, got 1"),
    ],
)
def test_without_enough_runs_on_record_the_noise_is_asked_for(
    runs: int | None, message: str, shipped_with: Callable[[int], None], command: Command
) -> None:
    """Without a certificate, or with a single run in it, the options must be given."""
    if runs is not None:
        shipped_with(runs)
    code, _, err = command("power")

    assert 2 == code
    assert message in " ".join(err.split())
