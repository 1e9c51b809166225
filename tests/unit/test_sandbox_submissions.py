"""Copies of submissions: what is copied, what is left out, and what is refused by name."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import socket
import stat
import struct
import tarfile
import tempfile
import unicodedata
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.errors import InputError, SubmissionError
from harness.sandbox import Submission, SubmissionLimits, open_submission
from tests.model_files import write

FILES = {"net.py": "x = 1\n", "src/blocks.py": "y = 2\n", "src/data/empty.txt": ""}
SMALL = SubmissionLimits(total_bytes=20_000, file_bytes=1_000, entries=6, depth=3, path_characters=20)


@pytest.fixture(autouse=True)
def _temporary(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make copies in a folder for temporary files that nothing else uses."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("temporary")))


def copied(path: Path, **limits: int) -> tuple[Submission, dict[str, str]]:
    """Copy a submission; returns it, and the content of each file of the copy."""
    with open_submission(path, limits=SubmissionLimits(**limits)) as found:
        files = [file for file in found.folder.rglob("*") if file.is_file()]
        contents = {str(file.relative_to(found.folder)): file.read_text(encoding="utf-8") for file in files}
    assert not found.folder.exists()
    return found, contents


def refused(path: Path, limits: SubmissionLimits | None = None, error: type[InputError] = SubmissionError) -> str:
    """The message of the error for a submission that is refused, after the words that name it; nothing is left behind."""
    with pytest.raises(InputError) as caught, open_submission(path, limits=limits):
        pass
    assert error is type(caught.value)
    assert [] == list(Path(tempfile.gettempdir()).iterdir())
    message = str(caught.value)
    assert message.isprintable()
    return message.removeprefix(f"submission {str(path)!r}: expected ")


def zipped(path: Path, files: Mapping[str, str], change: Callable[[zipfile.ZipInfo], object] = lambda _: None) -> Path:
    """Write a .zip; ``change`` is called with each entry before it is written."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo("name")
            info.filename, info.compress_type = name, zipfile.ZIP_DEFLATED
            change(info)
            archive.writestr(info, content)
    return path


def tarred(path: Path, files: Mapping[str, str], **fields: Any) -> Path:  # noqa: ANN401 - the fields of a TarInfo
    """Write a .tar or .tar.gz; the last member has the further fields."""
    with tarfile.open(path, "w:" if path.suffix == ".tar" else "w:gz") as archive:
        for number, (name, content) in enumerate(files.items(), start=1):
            member = tarfile.TarInfo(name)
            member.size = len(content.encode())
            for key, value in fields.items() if number == len(files) else ():
                setattr(member, key, value)
            archive.addfile(member, io.BytesIO(content.encode()) if member.isreg() else None)
    return path


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with the files of `FILES`."""
    return write(tmp_path / "alice", FILES)


def test_all_forms_give_the_same_copy(project: Path, tmp_path: Path) -> None:
    """A folder, a .zip and the forms of .tar, GNU's and POSIX', are copied alike, and have the digest of sha256sum."""
    archives = [zipped(tmp_path / "alice.zip", FILES), tarred(tmp_path / "alice.tgz", FILES)]
    for format_, name in ((tarfile.GNU_FORMAT, "alice.tar"), (tarfile.PAX_FORMAT, "alice.TAR.GZ")):
        with tarfile.open(tmp_path / name, "w:gz" if name.endswith("GZ") else "w:", format=format_) as archive:
            archive.add(project, ".")
        archives.append(tmp_path / name)
    lines = [f"{hashlib.sha256(FILES[name].encode()).hexdigest()}  {name}\n" for name in sorted(FILES)]
    expected = hashlib.sha256("".join(lines).encode()).hexdigest()

    for path in (project, *archives):
        found, contents = copied(path)
        assert FILES == contents
        assert ("alice", expected, ()) == (found.name, found.digest, found.notes)
        assert "alice" == found.folder.name


def test_a_single_file(project: Path) -> None:
    """A file is copied into a folder of its own."""
    found, contents = copied(project / "net.py")

    assert {"net.py": "x = 1\n"} == contents
    assert ("net", "net") == (found.name, found.folder.name)


def test_the_digest_depends_on_names_and_contents(tmp_path: Path) -> None:
    """Another name or content gives another digest."""
    digests = {
        copied(write(tmp_path / str(number), files))[0].digest
        for number, files in enumerate(({"a": "b"}, {"a": "c"}, {"b": "b"}, {"a": "b", "c": ""}, {"a": "b"}))
    }

    assert 4 == len(digests)


def test_permissions_and_times_are_not_copied(project: Path) -> None:
    """Executable and set-user-ID files are copied as plain files of the present."""
    (project / "net.py").chmod(0o4755)
    os.utime(project / "net.py", (0, 0))

    with open_submission(project) as found:
        status = (found.folder / "net.py").stat()
    assert 0 == status.st_mode & 0o7111
    assert status.st_mtime > 1e9


def test_the_copy_is_private(project: Path) -> None:
    """Other users cannot read the copy, and two levels above it there is nothing else."""
    with open_submission(project) as found:
        above = found.folder.parents[1]
        assert [found.folder] == [path for path in above.rglob("*") if not path.name.startswith(".")][1:2]
        assert 0o700 == stat.S_IMODE(above.stat().st_mode)


def test_a_folder_of_results_is_left_out(project: Path) -> None:
    """It changes neither the copy nor the digest, unlike a folder of that name elsewhere."""
    with open_submission(project) as before:
        pass
    write(project, {"grade/.verdicts/a.json": "{}", "grade/report.html": ""})
    with open_submission(project, without=project / "grade") as found:
        assert not (found.folder / "grade").exists()
    write(project, {"inner/grade/x": ""})
    with open_submission(project, without=project / "grade") as other:
        assert (other.folder / "inner" / "grade" / "x").exists()

    assert before.digest == found.digest != other.digest


def test_version_control_and_links_are_left_out(project: Path, tmp_path: Path) -> None:
    """A note says what was not copied; git's folder is not read, and git not started."""
    write(project, {".git/config": "[core]\n\tfsmonitor = touch ../ran\n", "src/.GIT/x": "", "a/__pycache__/b.pyc": ""})
    os.mkfifo(project / ".git" / "pipe")
    for number in range(5):
        (project / f"link{number}").symlink_to("/etc")
    (project / "dangling").symlink_to("nowhere")

    found, contents = copied(project)

    assert FILES == contents
    assert found.notes == (
        "version control or caches were not copied: .git, a/__pycache__, src/.GIT",
        "symbolic links were not copied: dangling, link0, link1 and 3 more",
    )
    assert not (project / "ran").exists()
    link = zipped(tmp_path / "a.zip", {"l": "/etc/passwd"}, lambda info: vars_of(info, external_attr=0o120777 << 16))
    assert ("symbolic links were not copied: l",) == copied(link)[0].notes
    link = tarred(tmp_path / "a.tar", {"l": "", ".git/x": "x", "m": ""}, type=tarfile.SYMTYPE, linkname="/etc/passwd")
    found, contents = copied(link)
    assert {"l": ""} == contents
    assert 2 == len(found.notes)


def vars_of(info: zipfile.ZipInfo, **fields: object) -> None:
    """Set the fields of an entry."""
    for key, value in fields.items():
        setattr(info, key, value)


def made_special(folder: Path, kind: str) -> None:
    """Make an entry called ``x`` that is no file, folder or symbolic link."""
    if kind == "FIFO":
        os.mkfifo(folder / "x")
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made, contextlib.chdir(folder):
            made.bind("x")
    elif kind == "hard link":
        (folder.parent / "secret").write_text("secret", encoding="utf-8")
        (folder / "x").hardlink_to(folder.parent / "secret")
    elif os.geteuid() != 0:
        pytest.skip("only root makes devices")
    else:
        os.mknod(folder / "x", stat.S_IFCHR | 0o666, os.makedev(1, 5))


@pytest.mark.parametrize("kind", ["FIFO", "socket", "hard link", "device"])
def test_special_files_are_refused(kind: str, project: Path) -> None:
    """A FIFO, a socket, a device and a file with a second name are refused by name, inside or as the submission."""
    made_special(project, kind)

    got = f"got 'x', which is a {kind}. Replace it by a file."
    assert f"folders and regular files, {got}" == refused(project)
    alone = f"a folder, a file or an archive, got a {kind}. Name a file or folder itself."
    assert alone == refused(project / "x")


def test_a_link_as_the_submission_is_refused(project: Path, tmp_path: Path) -> None:
    """The submission itself is not reached through a link either."""
    for name in ("bob", "bob.zip"):
        (tmp_path / name).symlink_to(project)
        assert "a folder, a file or an archive, got a symbolic link" in refused(tmp_path / name)


@pytest.mark.parametrize(
    ("type_", "kind"),
    [
        (tarfile.LNKTYPE, "hard link"),
        (tarfile.FIFOTYPE, "FIFO"),
        (tarfile.CHRTYPE, "device"),
        (tarfile.BLKTYPE, "device"),
        (tarfile.GNUTYPE_SPARSE, "sparse file"),
        (b"V", "member of an unknown kind"),
    ],
)
def test_special_members_are_refused(type_: bytes, kind: str, tmp_path: Path) -> None:
    """The same holds for members of a .tar."""
    path = tarred(tmp_path / "a.tar", {"a": "", "x": ""}, type=type_, linkname="a")

    assert f"folders and regular files, got 'x', which is a {kind}. Replace it by a file." == refused(path)


def test_special_entries_of_a_zip_are_refused(tmp_path: Path) -> None:
    """So are entries of a .zip, and sparse files by attributes."""
    for mode, kind in (
        (0o010644, "FIFO"),
        (0o020644, "device"),
        (0o140644, "socket"),
        (0o170644, "file of an unknown kind"),
    ):
        path = zipped(tmp_path / "a.zip", {"x": "x"}, lambda info, mode=mode: vars_of(info, external_attr=mode << 16))  # type: ignore[misc]
        assert f"folders and regular files, got 'x', which is a {kind}. Replace it by a file." == refused(path)
    for attributes in ({"GNU.sparse.major": "1", "GNU.sparse.realsize": "1099511627776"}, {"GNU.sparse.map": "0,1"}):
        path = tarred(tmp_path / "a.tar", {"x": "x"}, pax_headers=attributes)
        assert "got 'x', which is a sparse file" in refused(path)


OUTSIDE = [
    *("/etc/passwd", "../x", "a/../../x", "a/..", "C:/x", "c:x", "a//b", "", ".", "//x"),
]
UNREADABLE = [
    "a\\b",
    "..\\x",
    "a\0b",
    "a\nb",
    "a\x1b[2Jb",
    "a\x7fb",
    "a\x85b",
    "a\u202egnp.py",
    "a\u2028b",
    "\r::notice::x",
]


@pytest.mark.parametrize("name", [*OUTSIDE, *UNREADABLE])
@pytest.mark.parametrize("form", ["zip", "tar"])
def test_tricks_with_paths_are_refused(name: str, form: str, tmp_path: Path) -> None:
    """A name that leads outside, or that a terminal would act on, is refused; the message shows it escaped."""
    if form == "zip":
        path = zipped(tmp_path / "a.zip", {name: "x"})
    else:
        path = tarred(tmp_path / "a.tar", {"first": ""}, pax_headers={"path": name} if name else {"path": "//"})

    expected = "paths that lie inside of the submission" if name in OUTSIDE else "names in UTF-8 without backslashes"
    assert refused(path).startswith(expected)


def test_names_of_a_folder_are_checked(project: Path) -> None:
    """The names in a folder, and its own, meet the same conditions as those in archives."""
    (project / "a\x1b[2J").touch()
    assert "got 'a\\x1b[2J'" in refused(project)
    assert "got 'a\\x1b[2J'" in refused(project / "a\x1b[2J")
    (project / "a\x1b[2J").unlink()
    Path(os.fsdecode(bytes(project) + b"/\xff")).touch()
    assert "names in UTF-8" in refused(project)
    assert "names in UTF-8" in refused(tarred(project / "a.tar", {"\udcff": ""}))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["Net.py", "net.py"], "names that differ in more than upper and lower case"),
        (["src/a", "SRC/b"], "names that differ in more than upper and lower case"),
        (["straße", "STRASSE"], "names that differ in more than upper and lower case"),
        ([unicodedata.normalize(form, "\u00e9.py") for form in ("NFC", "NFD")], "the Unicode normal form"),
        (["a", "./a"], "each name once, got 'a' twice"),
        (["a", "a/b"], "each name once, got 'a' twice"),
        (["a/b", "a"], "each name once, got 'a' twice"),
    ],
)
def test_names_that_could_be_the_same_file_are_refused(names: list[str], expected: str, tmp_path: Path) -> None:
    """Which of the two another system would keep is unknown, and none is chosen."""
    files = dict.fromkeys(names, "x")
    assert expected in refused(zipped(tmp_path / "a.zip", files))
    assert expected in refused(tarred(tmp_path / "a.tar.gz", files))


def test_folders_may_be_listed_in_any_order(tmp_path: Path) -> None:
    """Archives name a folder before, after, twice or never."""
    names = ["src/a", "src/", "src/", "src/b/", "src/b/c"]
    assert ["src/a", "src/b/c"] == sorted(copied(zipped(tmp_path / "a.zip", dict.fromkeys(names, "")))[1])


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"a": "x" * 1001}, "files of at most 1,000 bytes, got 'a' of 1,001."),
        ({f"{number}": "x" * 999 for number in range(6)}, ""),
        ({f"{number}": "x" for number in range(7)}, "at most 6 files and folders, got more."),
        ({"a/b/c/d": "x"}, "paths of at most 3 names and 20 characters, got 'a/b/c/d'... of 4 and 7."),
        (
            {"abcdefgh/abcdefgh/abcd": "x"},
            "paths of at most 3 names and 20 characters, got 'abcdefgh/abcdefgh/abcd'... of 3 and 22.",
        ),
    ],
)
def test_limits(files: dict[str, str], expected: str, tmp_path: Path) -> None:
    """Each limit holds for folders and archives alike, and the message names it."""
    forms = write(tmp_path / "a", files), zipped(tmp_path / "a.zip", files), tarred(tmp_path / "a.tar.gz", files)
    for path in forms:
        if expected:
            assert refused(path, SMALL).startswith(expected)
        else:
            with open_submission(path, limits=SMALL) as found:
                assert sorted(files) == sorted(file.name for file in found.folder.iterdir())


def test_the_total_is_limited(tmp_path: Path) -> None:
    """All files together, or an archive itself, are at most so large; left-out members of a .tar count, too."""
    files = {f"{number}": os.urandom(400).hex() for number in range(4)}
    limits = SubmissionLimits(total_bytes=3_000)
    for path in (write(tmp_path / "a", files), zipped(tmp_path / "a.zip", files)):
        assert "at most 3,000 bytes in all, got more. Remove what the model does not need." == refused(path, limits)
    assert refused(tarred(tmp_path / "a.tar", files), limits).startswith(
        "at most 3,000 bytes in all, got an archive of "
    )
    hidden = tarred(tmp_path / "b.tar.gz", {".git/a": "x" * 4_000})
    assert refused(hidden, limits).startswith("at most 3,000 bytes in all, got more")


def test_a_sparse_file_is_refused_without_reading_it(project: Path) -> None:
    """The size of a file counts, not the space that it takes."""
    with (project / "sparse").open("w") as file:
        file.truncate(2**40)
    assert refused(project).startswith("files of at most 67,108,864 bytes, got 'sparse' of 1,099,511,627,776")


def test_bombs_are_refused(tmp_path: Path) -> None:
    """An archive that expands to more than 100 times its size is refused, small ones excepted."""
    zeros = {f"{number}": "0" * 2**20 for number in range(3)}
    for path in (zipped(tmp_path / "a.zip", zeros), tarred(tmp_path / "a.tgz", zeros)):
        assert refused(path).startswith("an archive that holds at most 100 times its ")
        assert {"0", "1"} < set(copied(path, ratio=2_000)[1])
    assert 1 == len(copied(zipped(tmp_path / "a.zip", {"a": "0" * 2**20}))[1])


def test_overlapping_files_of_a_zip_are_refused(tmp_path: Path) -> None:
    """Files that share compressed bytes, as in a bomb of one layer, are refused before anything is unpacked."""
    for change in ("same", "quoted"):
        path = tmp_path / "a.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a", "a" * 100)
            archive.writestr("b", "b" * 100)
            if change == "same":
                archive.filelist[1].header_offset = 0
            else:
                archive.filelist[0].compress_size += 40
        assert refused(path).startswith("files that do not overlap, got ")


def test_encrypted_files_are_refused(tmp_path: Path) -> None:
    """A password is not asked for, and methods with large dictionaries are not used."""
    path = zipped(tmp_path / "a.zip", {"a": "x"})
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(content)
    expected = "files that are stored or deflated, got 'a', which is encrypted or compressed in another way."
    assert refused(path).startswith(expected)
    assert refused(zipped(path, {"a": "x"}, lambda info: vars_of(info, compress_type=zipfile.ZIP_LZMA))).startswith(
        expected
    )


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
def test_damaged_archives_are_refused(name: str, tmp_path: Path) -> None:
    """What is cut off anywhere, changed or something else altogether is refused with a reason."""
    files = {"a": os.urandom(600).hex(), "b": "b"}
    path = (zipped if name == "a.zip" else tarred)(tmp_path / name, files)
    content = path.read_bytes()
    # tarfile fills its archives with zeros after the end.
    end = len(content.rstrip(b"\0")) if name == "a.tar" else len(content)
    broken = [content[:cut] for cut in range(0, end, 297)]
    if name != "a.tar":
        middle = len(content) // 3
        broken.append(content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :])
    for bad in (*broken, b"Rar!\x1a\x07\x01\x00", b"", b"\0" * 100):
        path.write_bytes(bad)
        assert refused(path).startswith("an undamaged archive, got ")


def test_headers_cannot_fill_the_memory(tmp_path: Path) -> None:
    """Long names, attributes and directories of contents are limited before they are read."""
    header = tarfile.TarInfo("././@LongLink")
    for type_, size in ((tarfile.GNUTYPE_LONGNAME, 2**33), (tarfile.XHDTYPE, 2**17), (tarfile.XGLTYPE, 2**33)):
        header.type, header.size = type_, size
        (tmp_path / "a.tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT))
        assert "a member has too many attributes" in refused(tmp_path / "a.tar")
    for record in (b"0 a=b\n", b"5 a=b\n", b"x", b"9999 a=b\n", b"6 a=b\n" * 50 + b"7 a%d=b\n"):
        header.type, header.size = tarfile.XHDTYPE, len(record)
        (tmp_path / "a.tar").write_bytes(header.tobuf() + record.ljust(512, b"\0"))
        assert "an undamaged archive" in refused(tmp_path / "a.tar")
    header.type, header.size = tarfile.REGTYPE, -512
    (tmp_path / "a.tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT))
    assert "a member has size=-512" in refused(tmp_path / "a.tar")
    path = zipped(tmp_path / "a.zip", {f"{number:0200}": "" for number in range(4_500)})
    assert "its directory has more than 1,048,576 bytes" in refused(path, SubmissionLimits(entries=100))


def test_a_zip_that_lies_about_sizes(tmp_path: Path) -> None:
    """A file that is longer or shorter than the directory says is refused."""
    path = zipped(tmp_path / "a.zip", {"a": "x" * 500})
    content = bytearray(path.read_bytes())
    for size in (100, 900):
        struct.pack_into("<L", content, content.index(b"PK\1\2") + 24, size)
        path.write_bytes(content)
        assert refused(path).startswith("an undamaged archive, got ")


@pytest.mark.parametrize("replacement", ["link", "folder link", "FIFO", "other file", "nothing"])
def test_what_changes_while_it_is_copied_is_refused(
    replacement: str, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry that is replaced between the look at it and its opening is not read."""
    secret = write(tmp_path / "secret", {"blocks.py": "secret"})
    real = os.open

    def swap(name: str, flags: int, mode: int = 0o777, **options: Any) -> int:  # noqa: ANN401 - passed on
        if name == ("src" if replacement == "folder link" else "blocks.py"):
            (project / "src" / name).unlink() if name != "src" else (project / "src").rename(project / "was")
            if replacement == "folder link":
                (project / "src").symlink_to(secret)
            elif replacement == "link":
                (project / "src" / name).symlink_to(secret / name)
            elif replacement == "FIFO":
                os.mkfifo(project / "src" / name)
            elif replacement == "other file":
                (secret / name).rename(project / "src" / name)
        return real(name, flags, mode, **options)

    monkeypatch.setattr(os, "open", swap)

    assert "files that nothing writes to, got " in refused(project, error=InputError)


@pytest.mark.parametrize("size", [0, 3, 9])
def test_a_file_that_is_written_while_it_is_copied_is_refused(
    size: int, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that becomes shorter, longer or only other is not copied in part."""
    real = hashlib.sha256

    def write_now(*content: bytes) -> Any:  # noqa: ANN401 - a hash
        (project / "net.py").write_text("y" * size, encoding="utf-8")
        os.utime(project / "net.py", (0, 0))
        return real(*content)

    monkeypatch.setattr(hashlib, "sha256", write_now)

    assert "files that nothing writes to, got 'net.py', which changed while it was copied. Try again." == refused(
        project, error=InputError
    )


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    """A missing submission is an error of the input."""
    message = refused(tmp_path / "nothing", error=InputError)
    assert message.startswith("files that can be read and copied, got No such file or directory.")
    assert issubclass(SubmissionError, InputError)


@pytest.mark.parametrize("form", ["folder", "file", "zip", "tar"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EACCES])
def test_a_problem_of_the_machine_is_not_the_submission_s(
    number: int, form: str, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it is copied from."""
    archives = {"zip": zipped(tmp_path / "a.zip", FILES), "tar": tarred(tmp_path / "a.tar", FILES)}
    path = {"folder": project, "file": project / "net.py", **archives}[form]
    real = Path.open

    def broken(self: Path, mode: str = "r", *arguments: Any) -> Any:  # noqa: ANN401 - a file
        if mode == "xb":
            raise OSError(number, os.strerror(number))
        return real(self, mode, *arguments)

    monkeypatch.setattr(Path, "open", broken)
    expected = f"files that can be read and copied, got {os.strerror(number)}. Check permissions and free space."
    assert expected == refused(path, error=InputError)


def test_a_zip_that_refers_to_a_place_before_its_beginning(tmp_path: Path) -> None:
    """The operating system refuses to go there; the archive is the cause all the same."""
    content = bytearray(zipped(tmp_path / "a.zip", {"a": "x"}).read_bytes())
    for cut in range(1, content.index(b"PK\5\6") + 1):
        (tmp_path / "b.zip").write_bytes(content[cut:])
        assert refused(tmp_path / "b.zip").startswith("an undamaged archive, got ")
