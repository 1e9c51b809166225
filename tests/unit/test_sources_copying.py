from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.errors import ModelSourceError
from harness.sources import ModelSource, copying
from harness.sources.copying import PrivateCopy, private_copy
from tests.model_files import NET, Load, write


@pytest.fixture
def copied(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., PrivateCopy]]:
    """Copies what a file needs, and goes there; returns the copy."""
    monkeypatch.chdir(Path.cwd())
    workspaces = []

    def copy(path: Path, **fields: str) -> PrivateCopy:
        workspaces.append(tmp_path_factory.mktemp("workspace"))
        with private_copy(ModelSource(text="net.py", path=str(path), **fields), workspaces[-1]) as (source, found):
            assert str(found.inside(path)) == source.path
            return found

    with contextlib.chdir(Path.cwd()):
        yield copy
    for workspace in workspaces:
        shutil.rmtree(workspace)


def state(folder: Path) -> dict[str, str]:
    """The files of a folder, and what is in them."""
    return {
        str(path.relative_to(folder)): path.read_text(encoding="utf-8") for path in folder.rglob("*") if path.is_file()
    }


def test_what_is_written_stays_in_the_copy(copied: Callable[..., PrivateCopy], tmp_path: Path) -> None:
    """Files that are added, changed or removed in the copy, and beside it, are as before in the submission."""
    write(tmp_path, {"hw/src/net.py": NET, "hw/src/log/a.txt": "a", "hw/notes.txt": "n", "hw/src/.env": "e"})
    before = state(tmp_path)
    copy = copied(tmp_path / "hw" / "src" / "net.py")
    here = Path.cwd()

    assert here == copy.inside(tmp_path / "hw" / "src")
    assert NET == Path("net.py").read_text(encoding="utf-8")
    for name in ("net.py", "log/a.txt", "log/b.txt", "../notes.txt", "../new.txt", "../../beside.txt", ".env"):
        Path(name).write_text("changed", encoding="utf-8")
    Path("log/a.txt").unlink()
    Path("../results").mkdir()
    assert before == state(tmp_path)
    assert f"see {tmp_path}/hw/src/x.csv" == copy.original(f"see {here}/x.csv")


def test_links_and_large_files_are_read_in_place(
    copied: Callable[..., PrivateCopy], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Links are not followed, and large files not copied: both can be read, and not be written, emptied or removed through."""
    monkeypatch.setattr(copying, "_MAX_FILE_BYTES", 10)
    write(
        tmp_path, {"hw/net.py": "x = 1", "hw/data/big.bin": "b" * 11, "hw/data/small.bin": "s", "other/secret.txt": "o"}
    )
    (tmp_path / "hw" / "out").symlink_to(tmp_path / "other")
    (tmp_path / "hw" / "loop").symlink_to(tmp_path / "hw")
    (tmp_path / "hw" / "gone").symlink_to("nowhere")
    before = state(tmp_path)
    copy = copied(tmp_path / "hw" / "net.py")

    assert [] == copy.notes()
    assert ["b" * 11, "o"] == [Path(name).read_text(encoding="utf-8") for name in ("data/big.bin", "out/secret.txt")]
    attempts: tuple[Callable[[], object], ...] = (
        lambda: Path("data/big.bin").write_text("b", encoding="utf-8"),
        lambda: os.open("data/big.bin", os.O_RDWR),
        lambda: os.truncate("data/big.bin", 0),
        lambda: Path("out/new.txt").touch(),
        lambda: Path("out/secret.txt").unlink(),
        lambda: Path("out/folder").mkdir(),
        lambda: Path("data/small.bin").rename("out/small.bin"),
        lambda: (tmp_path / "hw" / "net.py").write_text("", encoding="utf-8"),
        (tmp_path / "hw" / "absolute.txt").touch,
    )
    for attempt in attempts:
        with pytest.raises(PermissionError, match=r"can only be read: '.*hw/"):
            attempt()
    Path("data/small.bin").unlink()
    Path("data/big.bin").unlink()
    assert before == state(tmp_path)


def test_what_exceeds_the_limits_is_named(
    copied: Callable[..., PrivateCopy], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folders of too many files, and what is too much in all, are read in place; the way to the file is copied first."""
    monkeypatch.setattr(copying, "_MAX_ENTRIES", 10)
    monkeypatch.setattr(copying, "_MAX_BYTES", 100)
    images = {f"hw/images/{number}.png": "i" for number in range(12)}
    write(tmp_path, {"hw/src/deep/net.py": "x = 1", "hw/a.csv": "c" * 60, "hw/b.csv": "c" * 60, **images})
    copy = copied(tmp_path / "hw" / "src" / "deep" / "net.py", root=str(tmp_path / "hw"))
    base = copy.inside(tmp_path / "hw")

    names = ("images", "b.csv", "a.csv", "src/deep")
    assert [True, True, False, False] == [(base / name).is_symlink() for name in names]
    assert not Path("net.py").is_symlink()
    assert 12 == len(list(Path("../../images").iterdir()))
    assert "holds more than 10 files or 0 MiB, the most that is copied: " in copy.notes()[0]
    assert copy.notes()[0].endswith("copied: b.csv, images can be read, but not written")


def test_of_a_broad_folder_only_files_beside_are_copied(
    copied: Callable[..., PrivateCopy], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a file in the home folder or the temporary folder, the files beside it are copied, and no other folder."""
    write(tmp_path, {"net.py": "x = 1", "data.csv": "c", "music/song.mp3": "m"})
    for variable, folder in (("HOME", tmp_path), ("TMPDIR", tmp_path)):
        with monkeypatch.context() as patch:
            patch.setenv(variable, str(folder))
            patch.setattr(tempfile, "tempdir", None)
            copied(tmp_path / "net.py")
            assert (False, True) == (Path("data.csv").is_symlink(), Path("music").is_symlink())
            (tmp_path / "cache.txt").touch()


def test_packages_are_copied_whole(copied: Callable[..., PrivateCopy], tmp_path: Path) -> None:
    """The copy of a file in a package begins with the outermost package; environments and repositories are only read."""
    files = {"pkg/__init__.py": "", "pkg/models/__init__.py": "", "pkg/models/net.py": "", "pkg/other/a.txt": "a"}
    write(tmp_path, {**files, "pkg/.git/HEAD": "", "pkg/env/pyvenv.cfg": "", "pkg/__pycache__/x.pyc": ""})
    copy = copied(tmp_path / "pkg" / "models" / "net.py")
    base = copy.inside(tmp_path / "pkg")

    assert tmp_path / "pkg" == copy.root
    assert [False, True, True] == [(base / name).is_symlink() for name in ("other", ".git", "env")]
    assert not (base / "__pycache__").exists()


def test_errors_name_the_original(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the harness names the file of the submission, not its copy."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path, {"hw/net.py": "", "work/x": ""})
    source = ModelSource(text="net.py", path=str(tmp_path / "hw" / "net.py"))

    with pytest.raises(ModelSourceError) as caught, private_copy(source, tmp_path / "work") as (inner, _):
        raise ModelSourceError(f"no {inner.path}")
    assert f"no {tmp_path}/hw/net.py" == str(caught.value)


def test_an_import_runs_in_the_copy(load: Load, tmp_path: Path) -> None:
    """What an import writes, where it is and beside it, is not in the submission; its data can be read."""
    writes = (
        "import os\nfrom pathlib import Path\nWIDTH = int(Path('width.txt').read_text())\nPath('log.txt').write_text('x')\n"
        "os.makedirs('runs/1')\nPath(__file__).with_name('here.txt').touch()\nPath('../beside.txt').touch()\n"
        "Path('width.txt').write_text('100')\n"
    )
    net = NET.replace("width=10", "width=WIDTH") + "import torch\ntorch.save(Net().state_dict(), 'net.pt')\n"
    write(tmp_path, {"hw/net.py": writes + net, "hw/width.txt": "10"})
    before = state(tmp_path)

    _, notes = load(tmp_path / "hw" / "net.py")

    assert ([], before) == (notes, state(tmp_path))
    assert [tmp_path / "hw"] == list(tmp_path.iterdir())


def test_an_import_that_writes_into_the_submission_by_its_path(load: Load, tmp_path: Path) -> None:
    """Writing to an absolute path of the submission is refused, and the definitions after it are read."""
    write(tmp_path, {"net.py": f"open({str(tmp_path / 'log.txt')!r}, 'w')\n{NET}"})

    _, notes = load(tmp_path / "net.py")

    assert "line 1 of net.py failed with PermissionError: [Errno 13] not copied" in notes[0]
    assert notes[0].endswith(f"'{tmp_path}/log.txt'; from there on, only definitions are executed")
    assert [tmp_path / "net.py"] == list(tmp_path.iterdir())
