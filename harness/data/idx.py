"""The idx format, read so that nothing is believed: content against a digest, header against the expected shape.

A file is an 8-bit array behind a big-endian header: two zero bytes, the type (8 for unsigned bytes), the number of
dimensions, then each dimension as 32 bits.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from harness.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_UNSIGNED_BYTE = 8
_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class IdxFile:
    """A file as it must be.

    Args:
        name: file name without ``.gz``.
        shape: dimensions of the array.
        sha256: hex digest of the decompressed file.
    """

    name: str
    shape: tuple[int, ...]
    sha256: str

    @property
    def size(self) -> int:
        """Decompressed size in bytes."""
        return 4 + 4 * len(self.shape) + math.prod(self.shape)


def encode_idx(array: Tensor) -> bytes:
    """A uint8 tensor as the content of an idx file."""
    header = struct.pack(f">HBB{array.dim()}I", 0, _UNSIGNED_BYTE, array.dim(), *array.shape)
    return header + array.contiguous().numpy().tobytes()


def decode_idx(content: bytes, shape: tuple[int, ...]) -> Tensor:
    """The content of an idx file as a uint8 tensor of ``shape``.

    Raises:
        DataError: the header or the length is another one; nothing is allocated before both are known to be right.
    """
    header = struct.pack(f">HBB{len(shape)}I", 0, _UNSIGNED_BYTE, len(shape), *shape)
    if content[: len(header)] != header:
        raise DataError(
            f"expected an idx header for unsigned bytes of shape={shape}, got bytes={content[: len(header)].hex()}"
        )
    if len(content) != len(header) + math.prod(shape):
        raise DataError(
            f"expected size={len(header) + math.prod(shape)} bytes for shape={shape}, got size={len(content)}"
        )
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=len(header)).view(shape)


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
        file: the shape and digest it must have.
        remedy: closing sentence of an error, saying what to do.

    Returns:
        The array, uint8 of ``file.shape``.

    Raises:
        DataError: the file cannot be read, is truncated or has other content.
    """
    content, problem = _read_at_most(path, file.size + 1)
    found = hashlib.sha256(content).hexdigest()
    if len(content) > file.size:
        problem = f"longer than {file.size} bytes, digest of its first {len(content)}"
    try:
        array = decode_idx(content, file.shape)
    except DataError as error:
        array, problem = None, problem or str(error)
    if array is None or found != file.sha256:
        raise DataError(
            f"{path} is not the {file.name} it should be: expected SHA-256 {file.sha256} of the decompressed content, "
            f"found {found} ({problem or 'size and header are right, the rest is other content'}). {remedy}"
        )
    return array


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
