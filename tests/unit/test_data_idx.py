"""Reading idx files: valid content is returned, anything else is an error that names the fault."""

import gzip
import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from harness.data.idx import content_digest, decode_idx, encode_idx, read_verified
from harness.datasets import IdxFile
from harness.errors import DataError

ARRAY = torch.arange(24, dtype=torch.uint8).view(2, 3, 4)
CONTENT = encode_idx(ARRAY)
FILE = IdxFile(name="cells-idx3-ubyte", shape=(2, 3, 4), sha256=hashlib.sha256(CONTENT).hexdigest())


def test_header_is_the_documented_one() -> None:
    """The header is 0, 0, type 8, the number of dimensions, then each dimension in 32 bits."""
    assert bytes((0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4)) == CONTENT[:16]


def test_integers_are_big_endian() -> None:
    """32-bit integers have type 12 and the highest byte first, and are decoded to the same values."""
    table = torch.tensor(((1, -2), (258, 2**31 - 1)), dtype=torch.int32)
    content = encode_idx(table)
    assert content[:12] == bytes((0, 0, 12, 2, 0, 0, 0, 2, 0, 0, 0, 2))
    assert content[12:24] == bytes((0, 0, 0, 1, 255, 255, 255, 254, 0, 0, 1, 2))
    assert len(content) == IdxFile(name="table", shape=(2, 2), dtype="int32").size
    assert torch.equal(table, decode_idx(content, (2, 2), "int32"))


def test_type_must_be_the_expected_one() -> None:
    """A file of bytes is not decoded as integers."""
    with pytest.raises(DataError, match=r"expected an idx header for dtype=int32, shape=\(6,\)"):
        decode_idx(encode_idx(ARRAY.flatten()), (6,), "int32")


def test_size_counts_header_and_content() -> None:
    """The expected size of a file is that of its header and its array."""
    assert len(CONTENT) == FILE.size


def test_decoding_reverts_encoding() -> None:
    """An encoded array is decoded to the same array."""
    assert torch.equal(ARRAY, decode_idx(CONTENT, (2, 3, 4)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "idx header"),
        (CONTENT[:10], "idx header"),
        (b"\x00\x00\x09" + CONTENT[3:], "idx header"),
        (CONTENT[:4] + b"\xff\xff\xff\xff" + CONTENT[8:], "idx header"),
        (CONTENT[:-1], "expected size=40 bytes"),
        (CONTENT + b"\x00", "got size=41"),
    ],
    ids=["empty", "cut-header", "signed-type", "huge-dimension", "short", "long"],
)
def test_malformed_content_is_refused(content: bytes, message: str) -> None:
    """A wrong header or length is an error, whatever sizes the header claims."""
    with pytest.raises(DataError, match=message):
        decode_idx(content, (2, 3, 4))


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_verified_content_is_returned(tmp_path: Path, suffix: str) -> None:
    """A file with the expected digest is read, gzipped or not."""
    path = tmp_path / f"{FILE.name}{suffix}"
    path.write_bytes(gzip.compress(CONTENT, mtime=0) if suffix else CONTENT)
    assert torch.equal(ARRAY, read_verified(path, FILE, remedy="Do this."))


PACKED = gzip.compress(CONTENT, mtime=0)
FLIPPED = CONTENT[:-1] + bytes((CONTENT[-1] ^ 1,))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("plain", FLIPPED, "the content differs"),
        ("plain", CONTENT[:-5], "got size=35"),
        ("plain", CONTENT * 2, "longer than 40 bytes"),
        ("packed.gz", PACKED[:-12], "the gzip data end after .* cut off"),
        ("packed.gz", PACKED[:12] + bytes((PACKED[12] ^ 0xFF,)) + PACKED[13:], "not readable after"),
        ("packed.gz", gzip.compress(FLIPPED, mtime=0), "the content differs"),
    ],
    ids=["flipped", "short", "long", "gz-truncated", "gz-flipped", "gz-of-other"],
)
def test_damaged_file_is_named_with_both_digests(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    """An error names the file, the expected and the found digest, the reason and the remedy."""
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=reason) as caught:
        read_verified(path, FILE, remedy="Do this.")
    message = str(caught.value)
    assert str(path) in message
    assert f"expected SHA-256 {FILE.sha256}" in message
    assert "found " in message
    assert message.endswith("Do this.")
    assert content == path.read_bytes()


PAGE = b"\n<!DOCTYPE html><html><body>404 Not Found</body></html>"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "file.gz",
            PAGE,
            "the file is a web page (HTML) that a server sent instead of the data. Download the file again.",
        ),
        ("packed.gz", gzip.compress(PAGE, mtime=0), "the file is a web page (HTML)"),
        ("file", PAGE.lower(), "the file is a web page (HTML)"),
        (
            "file",
            PACKED,
            "the file is gzipped, but the name does not end in .gz. Add .gz to the name, or decompress the file.",
        ),
        ("file.gz", CONTENT, "the file is not gzipped, but the name ends in .gz. Remove .gz from the name."),
        ("file", b"PK\x03\x04" + CONTENT, "the file is a ZIP archive. Extract the files from the archive."),
        ("file", b"version https://git-lfs.github.com/spec/v1\n", "`git lfs pull`"),
        ("file", b"", "the file is empty. Download the file again."),
    ],
)
def test_a_file_of_another_kind_is_called_what_it_is(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    """An error about a file that is something else says what, and what to do."""
    path = tmp_path / name
    path.write_bytes(content)
    # What is published by its MD5 is not decompressed before it is compared.
    for file in (FILE,) if name == "packed.gz" else (FILE, SUMMED):
        with pytest.raises(DataError) as caught:
            read_verified(path, file, remedy="Do this.")
        assert f"{path} is not the published {FILE.name}: " in str(caught.value)
        assert words in str(caught.value)
        assert str(caught.value).endswith("Do this.")


SUMMED = IdxFile(name=FILE.name, shape=FILE.shape, gzip_md5=hashlib.md5(PACKED).hexdigest())  # noqa: S324


def test_gzipped_file_is_verified_by_its_md5(tmp_path: Path) -> None:
    """A gzipped file with the expected MD5 is read where no SHA-256 is known."""
    path = tmp_path / "packed.gz"
    path.write_bytes(PACKED)
    assert torch.equal(ARRAY, read_verified(path, SUMMED, remedy=""))


@pytest.mark.parametrize(
    "content", [PACKED[:-12], gzip.compress(CONTENT, 1, mtime=1)], ids=["truncated", "other-compression"]
)
def test_other_md5_is_named_with_the_expected_one(tmp_path: Path, content: bytes) -> None:
    """A gzipped file with another MD5 is refused before it is decompressed; the error has both digests and the remedy."""
    path = tmp_path / "packed.gz"
    path.write_bytes(content)
    found = hashlib.md5(content).hexdigest()  # noqa: S324
    with pytest.raises(
        DataError,
        match=rf"expected MD5 {SUMMED.gzip_md5} .*, found {found} \(size={len(content)} bytes, not decompressed\)\. Do this\.",
    ):
        read_verified(path, SUMMED, remedy="Do this.")


def test_expected_md5_with_another_shape_is_refused(tmp_path: Path) -> None:
    """The header must have the expected shape even if the MD5 is the expected one."""
    path = tmp_path / "packed.gz"
    path.write_bytes(PACKED)
    with pytest.raises(DataError, match="expected an idx header"):
        read_verified(path, replace(SUMMED, shape=(4, 3, 2)), remedy="")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda _: None, "No such file or directory"),
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
    ],
    ids=["missing", "folder", "link to itself"],
)
def test_a_file_that_cannot_be_read_is_not_called_a_wrong_one(
    make: Callable[[Path], None], reason: str, tmp_path: Path
) -> None:
    """A file that cannot be opened is a DataError with the operating system's reason, and no digest."""
    make(tmp_path / "gone.gz")
    with pytest.raises(DataError, match=f"cannot be read: {reason}") as raised:
        read_verified(tmp_path / "gone.gz", SUMMED, remedy="")
    assert "MD5" not in str(raised.value)


def test_found_digest_is_that_of_the_content(tmp_path: Path) -> None:
    """The digest reported as found is the SHA-256 of the decompressed file."""
    path = tmp_path / "plain"
    path.write_bytes(FLIPPED)
    with pytest.raises(DataError, match=f"found {hashlib.sha256(FLIPPED).hexdigest()}"):
        read_verified(path, FILE, remedy="")


def test_endless_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    """A small gzip file that decompresses to 64 MiB is read up to one byte after the expected size."""
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(CONTENT + bytes(1 << 26), compresslevel=1))
    with pytest.raises(DataError, match="longer than 40 bytes, digest of the first 41"):
        read_verified(path, FILE, remedy="")


def test_content_digest_depends_on_values_shapes_and_order() -> None:
    """Another value, shape or order gives another digest."""
    other = ARRAY.clone()
    other[0, 0, 0] = 1
    variants = [(ARRAY, ARRAY[0]), (other, ARRAY[0]), (ARRAY.view(3, 2, 4), ARRAY[0]), (ARRAY[0], ARRAY)]
    assert len({content_digest(arrays) for arrays in variants}) == len(variants)


def test_content_digest_is_over_the_files() -> None:
    """The digest of a data set is the SHA-256 of its concatenated files."""
    expected = hashlib.sha256(CONTENT + encode_idx(ARRAY[0])).hexdigest()
    assert expected == content_digest((ARRAY, ARRAY[0]))
