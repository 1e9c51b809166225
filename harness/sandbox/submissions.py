"""A private copy of a submission: a folder, a git checkout, a single file or an archive that somebody else has made.

The copy is made by the harness itself, before any code of the submission runs. Only folders and the contents of regular
files are copied: no links, owners, times and permissions. No program, such as git, is started to read a submission.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import itertools
import os
import re
import stat
import struct
import sys
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harness.errors import InputError, SubmissionError
from harness.files import temporary_folder

ARCHIVE_SUFFIXES = (".zip", ".tar.gz", ".tgz", ".tar")
# Data of other programs, which define no model; in lower case.
_LEFT_OUT = frozenset({".git", ".hg", ".svn", "__macosx", "__pycache__", "node_modules"})
_MAX_NAMED = 3

_CHUNK_BYTES, _PACKED_CHUNK_BYTES = 2**20, 2**16
# The limit of file systems to the name of a file in a folder.
_MAX_NAME_BYTES = 255
# For each member of a .tar: the number of extended headers, the size of one, and its number of attributes.
_MAX_EXTENSIONS, _MAX_EXTENSION_BYTES, _MAX_ATTRIBUTES = 4, 2**16, 100
# Of a .zip: the mean size of an entry in the directory of contents, and the least size of the header of a file.
_ZIP_ENTRY_BYTES, _ZIP_HEADER_BYTES = 256, 30
# To this size, archives expand whatever the ratio.
_ALWAYS_EXPANDED_BYTES = 2**20
# They change the direction of the text around them.
_BIDIRECTIONAL = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_ENCRYPTED = 0x1 | 0x40 | 0x2000

_KINDS = {
    stat.S_IFDIR: "folder",
    stat.S_IFREG: "file",
    stat.S_IFLNK: "symbolic link",
    stat.S_IFIFO: "FIFO",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
    stat.S_IFSOCK: "socket",
}
_COPIED = frozenset({"folder", "file"})
_TAR_KINDS = {
    tarfile.DIRTYPE: "folder",
    tarfile.REGTYPE: "file",
    tarfile.AREGTYPE: "file",
    tarfile.CONTTYPE: "file",
    tarfile.GNUTYPE_SPARSE: "sparse file",
    tarfile.SYMTYPE: "symbolic link",
    tarfile.LNKTYPE: "hard link",
    tarfile.FIFOTYPE: "FIFO",
    tarfile.CHRTYPE: "device",
    tarfile.BLKTYPE: "device",
}
_TAR_ATTRIBUTES = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_TAR_EXTENSIONS = (*_TAR_ATTRIBUTES, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_TAR_ATTRIBUTE = re.compile(rb"(\d{1,5}) ([^=\n]+)=")
# What zipfile, tarfile and zlib raise.
_DAMAGED = (
    *(zipfile.BadZipFile, tarfile.HeaderError, zlib.error, struct.error),
    *(EOFError, NotImplementedError, OverflowError, RuntimeError, ValueError),
)


@dataclass(frozen=True, kw_only=True)
class SubmissionLimits:
    """Limits for what is copied of a submission.

    ``entries`` limits the number of files and folders, ``depth`` the number of names in a path, ``path_characters`` its
    length, and ``ratio`` the size of what an archive holds, as a multiple of the size of the archive.
    """

    total_bytes: int = 256 * 2**20
    file_bytes: int = 64 * 2**20
    entries: int = 10_000
    depth: int = 20
    path_characters: int = 240
    ratio: int = 100


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A private copy of a submission.

    ``folder`` holds the copy, of a single file, too, and lies two levels below a folder that holds nothing else. ``name`` is
    the name of the submission, without the suffix of an archive. ``digest`` is the SHA-256 of what ``sha256sum`` prints for the
    files, sorted by path. ``notes`` are sentences on what was left out.
    """

    folder: Path
    name: str
    digest: str
    notes: tuple[str, ...]


@contextlib.contextmanager
def open_submission(
    path: Path, *, limits: SubmissionLimits | None = None, inside: Path | None = None, without: Path | None = None
) -> Iterator[Submission]:
    """Copy a submission to a temporary folder, which is deleted at the end of the ``with`` block.

    ``path`` is a folder, a file or an archive (``.zip``, ``.tar``, ``.tar.gz``, ``.tgz``). The temporary folder is created
    ``inside`` of another one, such as that of `warm_workers`, whose workers see it then. The folder ``without``, such as that of
    the results, is left out if it lies in the submission.

    Raises:
        SubmissionError: the submission is a damaged archive, exceeds a limit, or holds something other than folders, regular
            files and symbolic links, such as a FIFO or a path that leads outside.
        InputError: the submission cannot be read or copied for a reason that is none of its own, such as a full disk, missing
            permissions, or a program that writes to it.
    """
    path = path if path.name.strip(".") else path.resolve()
    copy = _Copy(path, limits or SubmissionLimits(), without)
    copy.check_characters(path.name)
    with contextlib.ExitStack() as opened:
        try:
            temporary = opened.enter_context(temporary_folder("submission", inside=inside))
            status = path.lstat()
            if (kind := _kind(status)) not in _COPIED:
                raise copy.refusal("a folder, a file or an archive", f"a {kind}", "Name a file or folder itself")
            is_folder = kind == "folder"
            archive = next((suffix for suffix in ARCHIVE_SUFFIXES if path.name.lower().endswith(suffix)), "")
            name = path.name if is_folder else path.name[: -len(archive or path.suffix) or None]
            copy.folder = temporary / "submission" / (name if name.strip(".") else "submission")
            copy.folder.mkdir(parents=True)
            with _opened(copy, str(path), status, None) as descriptor:
                if is_folder:
                    _copy_folder(copy, descriptor, "")
                elif archive == ".zip":
                    _copy_zip(copy, descriptor, status.st_size)
                elif archive:
                    _copy_tar(copy, descriptor, status.st_size, is_compressed=archive != ".tar")
                elif file := copy.admit(path.name, "file"):
                    _copy_file(copy, descriptor, file)
        except OSError as problem:
            reason = problem.strerror or str(problem)
            raise copy.uncopied(
                "files that can be read and copied", reason, "Check permissions and free space"
            ) from problem
        yield Submission(folder=copy.folder, name=copy.folder.name, digest=copy.digest(), notes=copy.notes())


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Copy:
    """The copy of one submission: what it holds, and what may still be added."""

    def __init__(self, path: Path, limits: SubmissionLimits, without: Path | None) -> None:
        self.folder = Path()
        self.limits = limits
        self.without = without.stat() if without else None
        self._path = path
        self._total = f"at most {limits.total_bytes:,} bytes in all"
        self._remaining = limits.total_bytes
        self._entries = 0
        # By the path in lower case and normal form: the path, and whether it is a folder.
        self._known: dict[str, tuple[str, bool]] = {}
        self._digests: dict[str, str] = {}
        self._left_out: dict[str, dict[str, None]] = {}

    def refusal(self, expected: str, got: str, remedy: str) -> SubmissionError:
        return SubmissionError(f"submission {str(self._path)!r}: expected {expected}, got {got}. {remedy}.")

    def uncopied(self, expected: str, got: str, remedy: str) -> InputError:
        """Return the error for what is not the submission's own."""
        return InputError(str(self.refusal(expected, got, remedy)))

    def damaged(self, reason: object) -> SubmissionError:
        return self.refusal("an undamaged archive", f"{reason}".rstrip("."), "Pack the submission again")

    def changed(self, path: str) -> InputError:
        return self.uncopied(
            "files that nothing writes to", f"{path!r}, which changed while it was copied", "Try again"
        )

    def check_characters(self, name: str) -> None:
        """Refuse characters that a terminal or another system would not take for a part of the name."""
        for character in name:
            is_control = unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} or character in _BIDIRECTIONAL
            if is_control or character == "\\":
                expected = "names in UTF-8 without backslashes and control characters"
                raise self.refusal(expected, f"{name[: self.limits.path_characters]!r}", "Rename it")

    def limit_expansion(self, packed: int) -> None:
        """Refuse an archive of more than the limit, and let what it holds be at most a multiple of its ``packed`` bytes."""
        if packed > self.limits.total_bytes:
            raise self.refusal(self._total, f"an archive of {packed:,}", "Remove what the model does not need")
        expanded = max(packed * self.limits.ratio, _ALWAYS_EXPANDED_BYTES)
        if expanded < self._remaining:
            self._remaining = expanded
            self._total = f"an archive that holds at most {self.limits.ratio} times its {packed:,} bytes"

    def require_few(self, entries: int) -> None:
        if entries > self.limits.entries:
            expected = f"at most {self.limits.entries:,} files and folders"
            raise self.refusal(expected, "more", "Remove what the model does not need")

    def admit(self, name: str, kind: str) -> str | None:
        """Return the path of an entry inside of the copy; None if the entry is left out.

        Raises:
            SubmissionError: the entry is not allowed.
        """
        limits = self.limits
        self.check_characters(name)
        # An archive names its own folder ".", and a folder "folder/".
        parts = [part for part in name.removesuffix("/").split("/") if part != "."]
        if not all(parts) or ".." in parts or re.match("[A-Za-z]:", name) or not (parts or kind == "folder"):
            got = f"{name[: limits.path_characters]!r}"
            raise self.refusal("paths that lie inside of the submission", got, "Pack the submission again")
        self._entries += 1
        path, left_out = "/".join(parts), [place for place, part in enumerate(parts, 1) if part.lower() in _LEFT_OUT]
        if not left_out:
            if len(parts) > limits.depth or len(path) > limits.path_characters:
                expected = f"paths of at most {limits.depth} names and {limits.path_characters} characters"
                raise self.refusal(expected, f"{path[:40]!r}... of {len(parts)} and {len(path):,}", "Rename or move it")
            if any(len(part.encode()) > _MAX_NAME_BYTES for part in parts):
                raise self.refusal(f"names of at most {_MAX_NAME_BYTES} bytes", f"{path!r}", "Rename it")
            for place in range(1, len(parts) + 1):
                self._know("/".join(parts[:place]), is_folder=place < len(parts) or kind == "folder")
        self.require_few(max(self._entries, len(self._known)))
        if left_out:
            self._left_out.setdefault("version control or caches", {})["/".join(parts[: left_out[0]])] = None
            return None
        if kind == "symbolic link":
            self._left_out.setdefault("symbolic links", {})[path] = None
            return None
        if kind not in _COPIED:
            raise self.refusal("folders and regular files", f"{path!r}, which is a {kind}", "Replace it by a file")
        return path

    def _know(self, path: str, *, is_folder: bool) -> None:
        key = unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())
        if key not in self._known:
            self._known[key] = path, is_folder
            return
        known, was_folder = self._known[key]
        if known != path:
            expected = "names that differ in more than upper and lower case or the Unicode normal form"
            raise self.refusal(expected, f"{known!r} and {path!r}", "Rename one of the two")
        if not (is_folder and was_folder):
            raise self.refusal("each name once", f"{path!r} twice", "Pack the submission again")

    def read(self, source: _Readable, size: int) -> bytes:
        """Read ``size`` bytes, or fewer at the end of the source."""
        content = b""
        while len(content) < size and (more := source.read(min(size - len(content), _CHUNK_BYTES))):
            content += more
            self._remaining -= len(more)
            if self._remaining < 0:
                raise self.refusal(self._total, "more", "Remove what the model does not need")
        return content

    def store(self, path: str | None, source: _Readable, size: int) -> None:
        """Copy the next ``size`` bytes of the source to a file of the copy, or to nowhere.

        Raises:
            EOFError: the source has fewer bytes.
        """
        if path and size > self.limits.file_bytes:
            expected = f"files of at most {self.limits.file_bytes:,} bytes"
            raise self.refusal(expected, f"{path!r} of {size:,}", "Remove what the model does not need")
        target = self.folder / path if path else Path(os.devnull)
        target.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with target.open("xb" if path else "wb") as file:
            while size:
                content = self.read(source, min(size, _CHUNK_BYTES))
                if not content:
                    raise EOFError(f"the end of {path or 'a file'!r} is missing")
                file.write(content)
                digest.update(content)
                size -= len(content)
        if path:
            self._digests[path] = digest.hexdigest()

    def digest(self) -> str:
        lines = [f"{digest}  {path}\n" for path, digest in sorted(self._digests.items())]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def notes(self) -> tuple[str, ...]:
        notes = []
        for what, paths in self._left_out.items():
            named = ", ".join([*paths][:_MAX_NAMED]) + (
                f" and {more} more" if (more := len(paths) - _MAX_NAMED) > 0 else ""
            )
            notes.append(f"{what} were not copied: {named}")
        return tuple(notes)


def _kind(status: os.stat_result) -> str:
    if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
        return "hard link"
    return _KINDS.get(stat.S_IFMT(status.st_mode), "file of an unknown kind")


@contextlib.contextmanager
def _opened(copy: _Copy, name: str, expected: os.stat_result, folder: int | None) -> Iterator[int]:
    """Open the file or folder of a status in the folder of a descriptor; refuse what has taken its place."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        descriptor = os.open(name, flags, dir_fd=folder)
    except OSError as problem:
        if problem.errno in {errno.ELOOP, errno.ENOENT, errno.ENOTDIR, errno.ENXIO}:
            raise copy.changed(name) from problem
        raise
    try:
        status = os.fstat(descriptor)
        if (status.st_dev, status.st_ino, _kind(status)) != (expected.st_dev, expected.st_ino, _kind(expected)):
            raise copy.changed(name)
        yield descriptor
    finally:
        os.close(descriptor)


def _copy_folder(copy: _Copy, descriptor: int, prefix: str) -> None:
    before = os.fstat(descriptor).st_mtime_ns
    with os.scandir(descriptor) as entries:
        names = sorted(entry.name for entry in itertools.islice(entries, copy.limits.entries + 1))
    copy.require_few(len(names))
    for name in names:
        status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
        if copy.without and os.path.samestat(status, copy.without):
            continue
        path = copy.admit(prefix + name, _kind(status))
        if path is None:
            continue
        with _opened(copy, name, status, descriptor) as opened:
            if stat.S_ISDIR(status.st_mode):
                (copy.folder / path).mkdir()
                _copy_folder(copy, opened, f"{path}/")
            else:
                _copy_file(copy, opened, path)
    if os.fstat(descriptor).st_mtime_ns != before:
        raise copy.changed(prefix or ".")


def _copy_file(copy: _Copy, descriptor: int, path: str) -> None:
    status = os.fstat(descriptor)
    with open(descriptor, "rb", buffering=0, closefd=False) as source:
        try:
            copy.store(path, source, status.st_size)
        except EOFError as problem:
            raise copy.changed(path) from problem
        if source.read(1) or os.fstat(descriptor).st_mtime_ns != status.st_mtime_ns:
            raise copy.changed(path)


class _Archive(io.FileIO):
    """An archive that is read in parts of limited size, so that its directory of contents cannot fill the memory."""

    most = sys.maxsize

    def read(self, size: int | None = -1, /) -> bytes:
        asked = self.most + 1 if size is None or size < 0 else size
        content = super().read(min(asked, self.most + 1))
        if len(content) > self.most:
            raise ValueError(f"its directory has more than {self.most:,} bytes")
        return content

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        try:
            return super().seek(offset, whence)
        except OSError as problem:
            # An OSError for zipfile, which looks for what need not be there; a ValueError, as other damage, if it goes on.
            raise io.UnsupportedOperation("it refers to a place before its beginning") from problem


def _copy_zip(copy: _Copy, descriptor: int, packed: int) -> None:
    copy.limit_expansion(packed)
    source = _Archive(descriptor, closefd=False)
    source.most = max(copy.limits.entries * _ZIP_ENTRY_BYTES, _CHUNK_BYTES)
    try:
        with zipfile.ZipFile(source) as archive:
            infos = archive.infolist()
            copy.require_few(len(infos))
            _check_places(copy, infos, packed)
            for info in infos:
                if info.flag_bits & _ENCRYPTED or info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
                    got = f"{info.orig_filename!r}, which is encrypted or compressed in another way"
                    raise copy.refusal("files that are stored or deflated", got, "Pack the submission again")
                kind = _zip_kind(info)
                path = copy.admit(info.orig_filename, kind)
                if path and kind == "folder":
                    (copy.folder / path).mkdir(parents=True, exist_ok=True)
                elif path:
                    with archive.open(info) as content:
                        copy.store(path, content, info.file_size)
    except SubmissionError:
        raise
    except _DAMAGED as problem:
        raise copy.damaged(problem) from problem


def _zip_kind(info: zipfile.ZipInfo) -> str:
    mode = stat.S_IFMT(info.external_attr >> 16)
    kind = _KINDS.get(mode, "file of an unknown kind") if mode else "file"
    return "folder" if kind == "file" and info.orig_filename.endswith("/") else kind


def _check_places(copy: _Copy, infos: Iterable[zipfile.ZipInfo], end: int) -> None:
    """Refuse files that share bytes of the archive: a few bytes can then expand to any number of files."""
    for info in sorted(infos, key=lambda info: info.header_offset, reverse=True):
        if info.header_offset + _ZIP_HEADER_BYTES + info.compress_size > end:
            raise copy.refusal(
                "files that do not overlap", f"{info.orig_filename!r}, which does", "Pack the submission again"
            )
        end = info.header_offset


class _Unzipped:
    """The content of a gzip file, its first member."""

    def __init__(self, source: _Readable) -> None:
        self._source = source
        self._inflation = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)

    def read(self, size: int, /) -> bytes:
        while not self._inflation.eof:
            packed = self._inflation.unconsumed_tail or self._source.read(_PACKED_CHUNK_BYTES)
            if not packed:
                raise EOFError("its end is missing")
            content = self._inflation.decompress(packed, size)
            if content:
                return content
        return b""


def _copy_tar(copy: _Copy, descriptor: int, packed: int, *, is_compressed: bool) -> None:
    copy.limit_expansion(packed)
    archive = io.FileIO(descriptor, closefd=False)
    source: _Readable = _Unzipped(archive) if is_compressed else archive
    try:
        for member in _tar_members(copy, source):
            kind = _TAR_KINDS.get(member.type, "member of an unknown kind")
            path = copy.admit(member.name, kind)
            if kind == "file":
                copy.store(path, source, member.size)
                copy.read(source, -member.size % tarfile.BLOCKSIZE)
            elif path:
                (copy.folder / path).mkdir(parents=True, exist_ok=True)
        # The checksum is at the end.
        while copy.read(source, _CHUNK_BYTES):
            pass
    except SubmissionError:
        raise
    except _DAMAGED as problem:
        raise copy.damaged(problem) from problem


def _tar_members(copy: _Copy, source: _Readable) -> Iterator[tarfile.TarInfo]:
    """Yield the members of a .tar; after each file, the caller reads its content.

    `tarfile.TarFile` is not used, since it reads names and tables of any length into memory.
    """
    attributes: dict[bytes, bytes] = {}
    extensions = 0
    while any(header := _whole_blocks(copy, source, tarfile.BLOCKSIZE)):
        member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        if member.type in _TAR_EXTENSIONS:
            extensions += 1
            if not 0 <= member.size <= _MAX_EXTENSION_BYTES or extensions > _MAX_EXTENSIONS:
                raise ValueError("a member has too many attributes")
            content = _whole_blocks(copy, source, member.size)
            if member.type == tarfile.GNUTYPE_LONGNAME:
                attributes[b"path"] = content.rstrip(b"\0")
            elif member.type in _TAR_ATTRIBUTES:
                attributes |= _tar_attributes(content)
            continue
        if b"path" in attributes:
            member.name = attributes[b"path"].decode("utf-8", "surrogateescape")
        member.size = int(attributes.get(b"size", member.size))
        if member.size < 0:
            raise ValueError(f"a member has size={member.size}")
        if any(key.startswith(b"GNU.sparse") for key in attributes):
            member.type = tarfile.GNUTYPE_SPARSE
        yield member
        attributes, extensions = {}, 0


def _whole_blocks(copy: _Copy, source: _Readable, size: int) -> bytes:
    content = copy.read(source, size + -size % tarfile.BLOCKSIZE)
    if len(content) < size:
        raise EOFError("its end is missing")
    return content[:size]


def _tar_attributes(content: bytes) -> dict[bytes, bytes]:
    """Parse the records of an extended header: ``length key=value``, with the length of the record."""
    attributes: dict[bytes, bytes] = {}
    place = 0
    while place < len(content):
        record = _TAR_ATTRIBUTE.match(content, place)
        place += int(record[1]) if record else 0
        if record is None or place <= record.end() or len(attributes) >= _MAX_ATTRIBUTES:
            raise ValueError("the attributes of a member are malformed, or too many")
        attributes[record[2]] = content[record.end() : place - 1]
    return attributes
