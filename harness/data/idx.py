"""Reading and writing files in the idx format; read files are verified by digest, and by the header for the expected shape.

An idx file is a big-endian array after a big-endian header: two zero bytes, the type of the elements (8 for unsigned
bytes, 12 for 32-bit integers), the number of dimensions, then the size of each dimension in 32 bits.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.datasets import IdxFile
from harness.errors import DataError

# For each type, the code in the header and the dtype of the stored elements.
_TYPES: dict[str, tuple[int, np.dtype[Any]]] = {"uint8": (8, np.dtype("u1")), "int32": (12, np.dtype(">i4"))}
_CHUNK_BYTES = 1 << 20
_SHOWN_BYTES = 512
# The first bytes of a gzipped file, and of idx files of bytes and of integers.
_GZIP, _IDX = b"\x1f\x8b", (b"\0\0\x08", b"\0\0\x0c")


def encode_idx(array: Tensor) -> bytes:
    """Encode a uint8 or int32 tensor as the content of an idx file."""
    dtype = str(array.dtype).removeprefix("torch.")
    return _header(tuple(array.shape), dtype) + array.numpy().astype(_TYPES[dtype][1]).tobytes()


def decode_idx(content: bytes, shape: tuple[int, ...], dtype: str = "uint8") -> Tensor:
    """Decode the content of an idx file to a tensor of ``shape`` and ``dtype``, which is ``"uint8"`` or ``"int32"``.

    Raises:
        DataError: the header or the length of ``content`` differs from those of ``shape`` and ``dtype``; checked before
            the tensor is allocated.
    """
    header = _header(shape, dtype)
    if content[: len(header)] != header:
        found = content[: len(header)].hex()
        raise DataError(f"expected an idx header for dtype={dtype}, shape={shape}, got bytes={found}")
    stored = _TYPES[dtype][1]
    size = len(header) + math.prod(shape) * stored.itemsize
    if len(content) != size:
        raise DataError(f"expected size={size} bytes for shape={shape}, got size={len(content)}")
    array = np.frombuffer(content, stored, offset=len(header)).astype(stored.newbyteorder("="))
    return torch.from_numpy(array).view(shape)


def _header(shape: tuple[int, ...], dtype: str) -> bytes:
    return struct.pack(f">HBB{len(shape)}I", 0, _TYPES[dtype][0], len(shape), *shape)


def content_digest(arrays: Iterable[Tensor]) -> str:
    """Return the SHA-256 (hex) of the contents of the idx files that hold these uint8 arrays, in this order."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(encode_idx(array))
    return digest.hexdigest()


def read_verified(path: Path, file: IdxFile, *, remedy: str) -> Tensor:
    """Read an idx file, gzipped if the name of ``path`` ends in ``.gz``, and verify the shape, the type and the digest.

    ``file`` says what is expected. An expected MD5 digest is compared before the file is decompressed. ``remedy`` is
    the last sentence of an error message and says what to do.

    Raises:
        DataError: the file cannot be read, is truncated or has another digest.
    """
    try:
        path.open("rb").close()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. {remedy}") from error
    if file.gzip_md5:
        expected = f"MD5 {file.gzip_md5} of the gzipped file"
        found, problem = _md5(path)
        content = b""
        if found == file.gzip_md5:
            content, problem = _read_at_most(path, file.size + 1)
    else:
        expected = f"SHA-256 {file.sha256} of the decompressed content"
        content, problem = _read_at_most(path, file.size + 1)
        found = hashlib.sha256(content).hexdigest()
    if len(content) > file.size:
        problem = f"longer than {file.size} bytes, digest of the first {len(content)}"
    try:
        array = decode_idx(content, file.shape, file.dtype)
    except DataError as error:
        array, problem = None, problem or str(error)
    if array is None or found != (file.gzip_md5 or file.sha256):
        if kind := _another_kind(path, content):
            raise DataError(f"{path} is not the published {file.name}: {kind}. {remedy}")
        raise DataError(
            f"{path} is not the published {file.name}: expected {expected}, "
            f"found {found} ({problem or 'header and size are as expected, the content differs'}). {remedy}"
        )
    return array


def _another_kind(path: Path, content: bytes) -> str:
    """Say which format a file that is not an idx file seems to have, and what to do; empty if the format is not recognised."""
    gzipped = path.suffix == ".gz"
    try:
        with path.open("rb") as stream:
            raw = stream.read(_SHOWN_BYTES)
    except OSError:
        return ""
    if not raw:
        return "the file is empty. Download the file again"
    if raw.startswith(_GZIP) and not gzipped:
        return "the file is gzipped, but the name does not end in .gz. Add .gz to the name, or decompress the file"
    if gzipped and raw.startswith(_IDX):
        return "the file is not gzipped, but the name ends in .gz. Remove .gz from the name"
    for start in (raw, content[:_SHOWN_BYTES]):
        if start.startswith(b"PK\x03\x04"):
            return "the file is a ZIP archive. Extract the files from the archive"
        if start.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
            return "the file is a web page (HTML) that a server sent instead of the data. Download the file again"
        if start.startswith(b"version https://git-lfs"):
            return "the file is a pointer of Git LFS. Fetch the content with `git lfs pull`"
    return ""


def _md5(path: Path) -> tuple[str, str]:
    """Return the MD5 digest (hex) of a file, and a detail for the error message in case of another digest than expected."""
    try:
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
            return found, f"size={stream.tell()} bytes, not decompressed"
    except OSError as error:
        return "nothing", f"not readable: {error}"


def _read_at_most(path: Path, size: int) -> tuple[bytes, str]:
    """Read up to ``size`` decompressed bytes; return them and the reason why reading failed, or an empty string."""
    content = bytearray()
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
            while len(content) < size and (chunk := stream.read(min(_CHUNK_BYTES, size - len(content)))):
                content += chunk
    except EOFError:
        return bytes(content), f"the gzip data end after {len(content)} bytes, as if the download was cut off"
    except (OSError, zlib.error) as error:
        return bytes(content), f"not readable after {len(content)} bytes: {error}"
    return bytes(content), ""
