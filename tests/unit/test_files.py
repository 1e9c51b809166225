"""Temporary folders are deleted, also those of killed processes; files are replaced whole, and only where that is meant."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path

import pytest

from harness.errors import InputError
from harness.files import make_folder, temporary_folder, unused_name, write_whole


def test_a_folder_is_created_with_its_parents_or_refused(tmp_path: Path) -> None:
    """One that exists is left alone; where a file is in the way the message says so."""
    for _ in range(2):
        make_folder(tmp_path / "a" / "b", option="--x")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    for way in ("file", "file/inner"):
        with pytest.raises(
            InputError,
            match=r"could not create the folder .*: (File exists|Not a directory)\. Name another folder with --x",
        ):
            make_folder(tmp_path / way, option="--x")


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
        for _ in range(1100):  # more than Python calls can nest
            Path("inner").mkdir()
            os.chdir("inner")
        Path("link").symlink_to(kept)
        Path("unreadable").mkdir(mode=0)

    assert [kept] == list(tmp_path.iterdir())
    assert [kept / "file"] == list(kept.iterdir())


def test_an_abandoned_temporary_folder_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a killed process left is deleted by the next call; folders in use, and folders of others, are kept."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left, unnamed = tmp_path / "harness-model-left", tmp_path / ".harness-model-left"
    for folder in (left, unnamed):
        folder.mkdir()
        (folder / ".mnist-harness-temporary").touch()
        (folder / "inner").mkdir()
    os.utime(unnamed, (0, 0))
    (tmp_path / "harness-of-somebody").mkdir()
    (tmp_path / "harness-link").symlink_to(left)
    with temporary_folder("model") as used, temporary_folder("model") as second:
        assert {used.name, second.name, "harness-of-somebody", "harness-link"} == {
            path.name for path in tmp_path.iterdir()
        }


def test_a_new_temporary_folder_is_not_taken_for_abandoned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process that looks for abandoned folders while this one is made, and not locked yet, leaves it alone."""
    make = tempfile.mkdtemp

    def make_slowly(**options: str) -> str:
        folder = make(**options)
        (Path(folder) / ".mnist-harness-temporary").touch()
        (Path(folder) / "made").touch()
        with monkeypatch.context() as other:
            other.setattr(tempfile, "mkdtemp", make)
            with temporary_folder("other", inside=tmp_path):
                pass
        return folder

    monkeypatch.setattr(tempfile, "mkdtemp", make_slowly)
    with temporary_folder("model", inside=tmp_path) as folder:
        assert (folder / "made").exists()


def test_a_link_is_followed(tmp_path: Path) -> None:
    """The file that a link leads to is replaced, also one that does not exist yet; the link stays, and so do permissions."""
    target, link, dangling = tmp_path / "target.json", tmp_path / "link.json", tmp_path / "dangling.json"
    target.write_text("old")
    target.chmod(0o600)
    link.symlink_to(target)
    dangling.symlink_to(tmp_path / "new.json")
    write_whole(link, b"content")
    write_whole(dangling, b"content")

    assert (True, True) == (link.is_symlink(), dangling.is_symlink())
    assert (b"content", b"content") == (target.read_bytes(), (tmp_path / "new.json").read_bytes())
    assert 0o600 == stat.S_IMODE(target.stat().st_mode)


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    """A named pipe and the descriptor of a pipe get the content and stay what they are."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    write_whole(fifo, b"first")
    read, write = os.pipe()
    write_whole(Path(f"/dev/fd/{write}"), b"second")

    assert (b"first", b"second") == (os.read(reader, 9), os.read(read, 9))
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    for descriptor in (reader, read, write):
        os.close(descriptor)


def test_a_device_is_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """The null device takes the content and is not replaced by a file."""
    monkeypatch.setattr(Path, "replace", None)
    write_whole(Path(os.devnull), b"content")

    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)


def test_the_descriptor_of_a_file_is_appended_to(tmp_path: Path) -> None:
    """What a process has already written to the file, such as its standard output, is kept."""
    with (tmp_path / "output").open("wb", buffering=0) as file:
        file.write(b"text, ")
        write_whole(Path(f"/dev/fd/{file.fileno()}"), b"content")

    assert b"text, content" == (tmp_path / "output").read_bytes()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("read-only", "it is read-only"),
        ("link", "it is read-only"),
        ("folder", "it is a folder"),
        ("nosuch/file", "does not exist"),
        ("loop", "leads to itself"),
        ("", "it is a folder"),
    ],
)
def test_an_unwritable_file_is_refused(name: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A protected file is unchanged, also behind a link and for root, and the reason is given."""
    monkeypatch.chdir(tmp_path)
    protected = tmp_path / "read-only"
    protected.write_text("old")
    protected.chmod(0o444)
    (tmp_path / "link").symlink_to(protected)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=reason):
        write_whole(Path(name), b"content")

    assert "old" == protected.read_text()


def test_an_unused_name_is_numbered(tmp_path: Path) -> None:
    """The first name that no file has."""
    for name in ("record.json", "record-2.json"):
        (tmp_path / name).touch()

    assert "record-3.json" == unused_name(tmp_path / "record.json").name
    assert "other.json" == unused_name(tmp_path / "other.json").name
