"""Temporary folders: deleted at the end, or by the next process if their own was killed."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

import pytest

from harness.files import temporary_folder


def test_a_temporary_folder_is_deleted_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It exists inside the block only, whatever the block raises."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(KeyError), temporary_folder("model") as folder:  # noqa: PT012 - the block must fail inside
        (folder / "file").touch()
        raise KeyError

    assert [] == list(tmp_path.iterdir())


def test_a_folder_nested_deeper_than_a_path_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if its folders cannot be read, and links are not followed."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    with temporary_folder("model") as folder, contextlib.chdir(folder):
        for _ in range(3000):
            Path("inner").mkdir()
            os.chdir("inner")
        Path("link").symlink_to(kept)
        Path("unreadable").mkdir(mode=0)

    assert [kept] == list(tmp_path.iterdir())
    assert [kept / "file"] == list(kept.iterdir())


def test_an_abandoned_temporary_folder_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a killed process left is deleted by the next call; folders in use, and folders of others, are kept."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left = tmp_path / "harness-model-left"
    left.mkdir()
    (left / ".mnist-harness-temporary").touch()
    (left / "inner").mkdir()
    (tmp_path / "harness-of-somebody").mkdir()
    (tmp_path / "harness-link").symlink_to(left)
    with temporary_folder("model") as used, temporary_folder("model") as second:
        assert {used.name, second.name, "harness-of-somebody", "harness-link"} == {
            path.name for path in tmp_path.iterdir()
        }
