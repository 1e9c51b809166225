"""Results on standard output, and JSON documents."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

Command = Callable[..., tuple[int, str, str]]


@pytest.mark.usefixtures("quick_load")
def test_names_are_not_interpreted_as_markup(command: Command, tmp_path: Path) -> None:
    """Brackets and colons in a name are not interpreted as markup."""
    contract = tmp_path / "[bold] :smile: [].toml"
    contract.write_text("[parameters]\nmax = 8000\n", encoding="utf-8")

    code, out, _ = command("check", "cloud_2", "--contract", contract)

    assert 0 == code
    assert "cloud_2 against [bold] :smile: []" in out


def test_json_on_standard_output_replaces_the_text(command: Command) -> None:
    """With --json - only the document is printed."""
    code, out, err = command("list", "--json", "-")

    assert (0, "") == (code, err)
    assert "harness.list/1" == json.loads(out)["schema"]


def test_json_in_a_file_accompanies_the_text(command: Command, tmp_path: Path) -> None:
    """With --json PATH the text is printed and the document is written; an earlier file is replaced."""
    path = tmp_path / "list.json"
    path.write_text("earlier", encoding="utf-8")

    code, out, _ = command("list", "--json", path)

    assert 0 == code
    assert out.startswith("name ")
    assert 18 == len(json.loads(path.read_text(encoding="utf-8"))["models"])


def test_a_failed_write_keeps_the_earlier_file(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If writing fails, the earlier file is unchanged and the exit code is 2."""
    path = tmp_path / "list.json"
    path.write_text("earlier", encoding="utf-8")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)

    code, _, err = command("list", "--json", path)

    assert 2 == code
    assert "No space left on device" in err
    assert "earlier" == path.read_text(encoding="utf-8")
    assert [path] == list(tmp_path.iterdir())
