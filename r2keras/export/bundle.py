"""A compact file laid out for a loader that knows no flatbuffers: a table of numbers, a skeleton, arrays."""

from __future__ import annotations

import os
import struct
from typing import Any

import numpy as np

from r2keras.export import packages
from r2keras.export.builder import ALIGNMENT, write
from r2keras.export.decoding import Decoding, Pattern, decoding
from r2keras.export.expand import Folded, load
from r2keras.export.pack import pack

MAGIC = b"R2KBNDL1"
FAR = 2**40
HEADER, RECORD = struct.Struct("<8s4I"), struct.Struct("<20I")


def bundle(small: bytes | str | os.PathLike) -> bytes:
    """Returns a compact `.tflite` as a bundle, which a few lines of Kotlin or C++ expand at load time.

    The bundle holds a float `.tflite` without its compressed weights (the skeleton), the weights' packed codes and
    tables, and where each goes. A loader copies the skeleton, decodes each weight behind it, value by value
    `(table[(code + first) * dim + column % dim] * scale + add) * multiply`, and hands the bytes to LiteRT: the weights
    are those of `expand`, bit for bit. `docs/bundle_layout.md` has the layout.

    Args:
        small: a `.tflite`, as bytes or as a path.

    Returns:
        The bytes of the bundle.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated, corrupt, or no `.tflite`; it takes 4 GiB or more once expanded.
        TypeError: `small` is neither bytes nor a path.
        ImportError: ai-edge-litert is not installed.

    Example:

    >>> import tempfile
    >>> import keras
    >>> from r2keras.export import to_litert
    >>> path = os.path.join(tempfile.mkdtemp(), "float.tflite")
    >>> _ = to_litert(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]), path)
    >>> bundle(path)[:8]
    b'R2KBNDL1'
    """
    file = load(small)
    folded = Folded(file)
    users: dict[tuple[int, int], list[Any]] = {}
    for place in folded.places:
        users.setdefault(folded.constants.source(*place), []).append(folded.tensor(place))
    found = {place: decoding(file, folded.constants, *place) for place in users}
    plain = {place: folded.constants.value(*place) for place, how in found.items() if how is None}
    folded.finish()
    for place, value in plain.items():
        _store(file, users[place], data=np.ascontiguousarray(value).view(np.uint8).ravel())
    decodings = {place: how for place, how in found.items() if how is not None}
    sizes = [4 * how.before * how.last * how.after for how in decodings.values()]
    buffers = [_store(file, users[place], offset=FAR, size=size) for place, size in zip(decodings, sizes, strict=True)]
    try:
        return _laid_out(file, buffers, list(decodings.values()))
    except struct.error as error:
        raise ValueError("The expanded file takes 4 GiB or more, which a bundle has no numbers for.") from error


def _store(file: Any, tensors: list[Any], **fields: Any) -> Any:
    """Adds a buffer for tensors and returns it."""
    made = packages.schema().BufferT(**fields)
    file.buffers.append(made)
    for tensor in tensors:
        tensor.buffer = len(file.buffers) - 1
    return made


def _laid_out(file: Any, buffers: list[Any], decodings: list[Decoding]) -> bytes:
    """Returns the bundle of a skeleton, the buffers that lie outside of it, and how each is decoded."""
    # Numbers that are not zero take as many bytes as others: the second skeleton is as long as the first.
    targets, end = [], _aligned(len(write(file)))
    for buffer in buffers:
        buffer.offset = end
        targets.append(end)
        end = _aligned(end + buffer.size)
    skeleton = write(file)
    blocks = _Blocks(_aligned(HEADER.size + RECORD.size * len(buffers)))
    start = blocks.add(np.frombuffer(skeleton, np.uint8))
    records = [_record(target, how, blocks) for target, how in zip(targets, decodings, strict=True)]
    head = HEADER.pack(MAGIC, len(records), start, len(skeleton), end) + b"".join(records)
    return head.ljust(blocks.start, b"\0") + b"".join(blocks.parts)


def _record(target: int, how: Decoding, blocks: _Blocks) -> bytes:
    """Returns the row of one weight and adds what it points to."""
    numbers = [target, how.before, how.last, how.after, how.dim, how.bits]
    numbers += [blocks.add(pack(how.codes, how.bits)), blocks.add(how.table.astype("<f4"))]
    for pattern, kind in ((how.first, "<i4"), (how.scale, "<f4"), (how.add, "<f4"), (how.multiply, "<f4")):
        numbers += _pattern_numbers(pattern, kind, blocks)
    return RECORD.pack(*numbers)


def _pattern_numbers(pattern: Pattern | None, kind: str, blocks: _Blocks) -> tuple[int, int, int]:
    """Returns where a pattern's numbers are, for how many values each holds, and how many there are; none is zeros."""
    if pattern is None:
        return 0, 0, 0
    return blocks.add(pattern.values.astype(kind)), pattern.inner, len(pattern.values)


class _Blocks:
    """Arrays one after the other, aligned, equal ones once.

    Args:
        start: where the first one lies.
    """

    def __init__(self, start: int):
        self.start, self._end = start, start
        self.parts: list[bytes] = []
        self._known: dict[bytes, int] = {}

    def add(self, array: np.ndarray) -> int:
        """Adds an array and returns where it lies."""
        data = array.tobytes()
        if data not in self._known:
            self._known[data] = self._end
            self.parts.append(data.ljust(_aligned(len(data)), b"\0"))
            self._end += len(self.parts[-1])
        return self._known[data]


def _aligned(size: int) -> int:
    """Returns the next multiple of the alignment that the schema asks for."""
    return -(-size // ALIGNMENT) * ALIGNMENT
