"""Reading of `.npz` files whose sizes are known, from their headers, before anything is allocated."""

from __future__ import annotations

import dataclasses
import io
import lzma
import math
import struct
import zipfile
import zlib
from typing import BinaryIO

import numpy as np

from r2keras._util.shown import cut, shown

# What zipfile, its decompressors and NumPy's header parser raise for corrupt bytes.
CORRUPT = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, OSError, EOFError, ValueError, TypeError),
    *(LookupError, AttributeError, ArithmeticError, RuntimeError, MemoryError, SyntaxError),
)
# NumPy writes these two. The others can hold millions of times their own size.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# Deflate holds at most 1032 bytes in one, plus a constant.
_MAX_RATIO = 1032
# Of the header of an array; NumPy reads no longer ones.
_MAX_HEADER = 16 * 1024
_PIECE = 2**20


@dataclasses.dataclass(frozen=True)
class ArrayHeader:
    """Shape and type of an array in a file.

    Args:
        shape: its shape.
        dtype: its type.
        fortran: whether its first axis is contiguous, not its last one.
        offset: where its values begin in the member.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    offset: int

    @property
    def size(self) -> int:
        """The number of values."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The bytes of all values."""
        return self.size * self.dtype.itemsize


class NpzFile:
    """The arrays of an `.npz` file, read one by one, without pickle and with every checksum verified.

    Reading one takes no more memory than the array. What is wrong raises one of `CORRUPT`.

    Args:
        file: the open file.

    Attributes:
        num_bytes: size of the file.

    Example:

    >>> buffer = io.BytesIO()
    >>> np.savez(buffer, x=np.arange(3))
    >>> file = NpzFile(buffer)
    >>> file.header("x").shape, file.read("x").tolist()
    ((3,), [0, 1, 2])
    """

    def __init__(self, file: BinaryIO):
        self.num_bytes = file.seek(0, io.SEEK_END)
        self._archive = zipfile.ZipFile(file)
        self._members: dict[str, zipfile.ZipInfo] = {}
        self._headers: dict[str, ArrayHeader] = {}
        for info in self._archive.infolist():
            name = info.filename.removesuffix(".npy")
            if name in self._members:
                raise ValueError(f"the array {shown(name)} is in it twice")
            self._members[name] = info
        if sum(info.compress_size for info in self._members.values()) > self.num_bytes:
            raise ValueError("its parts overlap")

    @property
    def names(self) -> list[str]:
        """The names of the arrays."""
        return list(self._members)

    def header(self, name: str) -> ArrayHeader:
        """Returns shape and type of an array, of which only the beginning is read.

        Raises:
            ValueError: the size of the array does not fit its header, or it holds objects.
        """
        if name not in self._headers:
            self._headers[name] = self._parsed(name)
        return self._headers[name]

    def read(self, name: str) -> np.ndarray:
        """Returns an array."""
        header = self.header(name)
        values = np.empty(header.size, header.dtype)
        with self._archive.open(self._members[name]) as member:
            if len(member.read(header.offset)) < header.offset:
                raise EOFError(f"the array {shown(name)} ends early")
            target = values.view(np.uint8).data if header.nbytes else memoryview(b"")
            done = 0
            while done < header.nbytes:
                piece = member.read(min(_PIECE, header.nbytes - done))
                if not piece:
                    raise EOFError(f"the array {shown(name)} ends early")
                target[done : done + len(piece)] = piece
                done += len(piece)
            # The checksum is compared at the end of the member.
            if member.read(1):
                raise ValueError(f"the array {shown(name)} is longer than its header says")
        return values.reshape(header.shape, order="F" if header.fortran else "C")

    def _parsed(self, name: str) -> ArrayHeader:
        """Returns the header of an array, checked against the sizes that the archive states."""
        info = self._members[name]
        if info.compress_type not in _METHODS:
            raise ValueError(f"the array {shown(name)} is compressed as NumPy does not compress")
        if info.file_size > _MAX_RATIO * (info.compress_size + 1):
            raise ValueError(f"the array {shown(name)} is larger than its compressed bytes can hold")
        with self._archive.open(info) as member:
            start = io.BytesIO(member.read(_MAX_HEADER))
        shape, fortran, dtype = _read_header(start)
        if dtype.hasobject:
            raise ValueError("an array of objects, such as lists of different lengths: concatenate or pad them")
        header = ArrayHeader(tuple(map(int, shape)), dtype, bool(fortran), start.tell())
        if min(header.shape, default=0) < 0 or header.offset + header.nbytes != info.file_size:
            text = f"{cut(header.shape, 80)} of {cut(dtype, 80)}"
            raise ValueError(f"the array {shown(name)} has {info.file_size} bytes, which do not fit its shape {text}")
        return header


def _read_header(start: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Returns shape, order and type from the first bytes of an array."""
    version = np.lib.format.read_magic(start)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(start)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(start)
    raise ValueError(f"an array in NumPy's format {version[0]}.{version[1]}")
