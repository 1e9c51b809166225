"""The idx format, read so that nothing is believed: content against a digest, header against the expected shape.

A file is a big-endian array behind a big-endian header: two zero bytes, the type (8 for unsigned bytes, 12 for 32-bit
integers), the number of dimensions, then each dimension as 32 bits.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from harness.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_TYPES: dict[torch.dtype, tuple[int, np.dtype[Any]]] = {
    torch.uint8: (8, np.dtype("u1")),
    torch.int32: (12, np.dtype(">i4")),
}
_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class IdxFile:
    """A file as it must be.

    Args:
        name: file name without ``.gz``.
        shape: dimensions of the array.
        dtype: uint8 or int32.
        sha256: hex digest of the decompressed file; or
        gzip_md5: hex digest of the gzipped file, where only that is known. The file is then read gzipped only.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype = torch.uint8
    sha256: str = ""
    gzip_md5: str = ""

    @property
    def spellings(self) -> tuple[str, ...]:
        """The names it may have in a folder, the first of them first."""
        return (f"{self.name}.gz",) if self.gzip_md5 else (self.name, f"{self.name}.gz")

    @property
    def size(self) -> int:
        """Decompressed size in bytes."""
        return 4 + 4 * len(self.shape) + math.prod(self.shape) * self.dtype.itemsize


def encode_idx(array: Tensor) -> bytes:
    """A uint8 or int32 tensor as the content of an idx file."""
    return _header(tuple(array.shape), array.dtype) + array.numpy().astype(_TYPES[array.dtype][1]).tobytes()


def decode_idx(content: bytes, shape: tuple[int, ...], dtype: torch.dtype = torch.uint8) -> Tensor:
    """The content of an idx file as a tensor of ``shape`` and ``dtype``, uint8 or int32.

    Raises:
        DataError: the header or the length is another one; nothing is allocated before both are known to be right.
    """
    header = _header(shape, dtype)
    if content[: len(header)] != header:
        raise DataError(
            f"expected an idx header for {dtype} of shape={shape}, got bytes={content[: len(header)].hex()}"
        )
    size = len(header) + math.prod(shape) * dtype.itemsize
    if len(content) != size:
        raise DataError(f"expected size={size} bytes for shape={shape}, got size={len(content)}")
    stored = _TYPES[dtype][1]
    array = np.frombuffer(content, stored, offset=len(header)).astype(stored.newbyteorder("="))
    return torch.from_numpy(array).view(shape)


def _header(shape: tuple[int, ...], dtype: torch.dtype) -> bytes:
    return struct.pack(f">HBB{len(shape)}I", 0, _TYPES[dtype][0], len(shape), *shape)


def content_digest(arrays: Iterable[Tensor]) -> str:
    """SHA-256 (hex) over the contents of the idx files that hold these uint8 arrays, in this order."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(encode_idx(array))
    return digest.hexdigest()


def read_verified(path: Path, file: IdxFile, *, remedy: str) -> Tensor:
    """Read ``path``, gzipped if its name ends in ``.gz``, and check it against what ``file`` says.

    Args:
        path: the file to read; it is never written to.
        file: the shape, type and digest it must have. An MD5 is compared before anything is decompressed.
        remedy: closing sentence of an error, saying what to do.

    Returns:
        The array, of ``file.shape`` and ``file.dtype``.

    Raises:
        DataError: the file cannot be read, is truncated or has other content.
    """
    if file.gzip_md5:
        digest = f"MD5 {file.gzip_md5} of the gzipped file"
        found, problem = _md5(path)
        content = b""
        if found == file.gzip_md5:
            content, problem = _read_at_most(path, file.size + 1)
    else:
        digest = f"SHA-256 {file.sha256} of the decompressed content"
        content, problem = _read_at_most(path, file.size + 1)
        found = hashlib.sha256(content).hexdigest()
    if len(content) > file.size:
        problem = f"longer than {file.size} bytes, digest of its first {len(content)}"
    try:
        array = decode_idx(content, file.shape, file.dtype)
    except DataError as error:
        array, problem = None, problem or str(error)
    if array is None or found != (file.gzip_md5 or file.sha256):
        raise DataError(
            f"{path} is not the {file.name} it should be: expected {digest}, "
            f"found {found} ({problem or 'size and header are right, the rest is other content'}). {remedy}"
        )
    return array


def _md5(path: Path) -> tuple[str, str]:
    """MD5 (hex) of a file as it is, and what to say if it is not the one expected."""
    try:
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
            return found, f"size={stream.tell()} bytes, not unpacked"
    except OSError as error:
        return "nothing", f"unreadable: {error}"


def _read_at_most(path: Path, size: int) -> tuple[bytes, str]:
    """Up to ``size`` decompressed bytes, and why there are no more of them where reading broke off."""
    content = bytearray()
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
            while len(content) < size and (chunk := stream.read(min(_CHUNK, size - len(content)))):
                content += chunk
    except (OSError, EOFError, zlib.error) as error:
        return bytes(content), f"unreadable after {len(content)} bytes: {error}"
    return bytes(content), ""
