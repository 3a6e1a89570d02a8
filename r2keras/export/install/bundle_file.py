"""Bundle of a compact file for loaders without flatbuffer code: a table of numbers, a skeleton, arrays."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

import numpy as np

from r2keras._util import optional_packages
from r2keras._util.errors import invalid_part
from r2keras.export.install.expand_file import Folded, decoded, load
from r2keras.export.install.weight_decoding import Decoding, Pattern, decoding
from r2keras.export.tflite.bit_packing import pack
from r2keras.export.tflite.writer import ALIGNMENT, write

if TYPE_CHECKING:
    from ai_edge_litert.schema_py_generated import BufferT

    from r2keras.export.tflite.schema import ModelT, TensorT

MAGIC = b"R2KBNDL1"
# A stand-in for an offset not yet known. It is not zero, because flatbuffers leave out fields that are zero.
UNKNOWN_OFFSET = 2**40
HEADER, RECORD = struct.Struct("<8s4I"), struct.Struct("<20I")


def bundle(small: bytes | str | os.PathLike) -> bytes:
    """Returns a compact `.tflite` as a bundle, which a few lines of Kotlin or C++ expand at load time.

    The bundle holds a float `.tflite` without its compressed weights (the skeleton), the packed codes and tables of
    those weights, and the offset of each. A loader copies the skeleton, appends each decoded weight, value by value
    `(table[(code + first) * dim + column % dim] * scale + add) * multiply`, and passes the bytes to LiteRT. The weights
    equal those of `expand`, bit for bit. `docs/deploy/bundle_layout.md` describes the layout.

    Args:
        small: a `.tflite`, as bytes or as a path.

    Returns:
        The bytes of the bundle.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is truncated, corrupt, or not a `.tflite`; it takes 4 GiB or more once expanded.
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
    with decoded(small):
        decodings, decoded_tensors, plain = _decode(file)
    for tensors, value in plain:
        _store(file, tensors, data=np.ascontiguousarray(value).view(np.uint8).ravel())
    buffers = [
        _store(file, tensors, offset=UNKNOWN_OFFSET, size=4 * d.before * d.last * d.after)
        for tensors, d in zip(decoded_tensors, decodings, strict=True)
    ]
    try:
        return _lay_out(file, buffers, decodings)
    except struct.error as error:
        expected = "a file of less than 4 GiB when expanded, because a bundle has 32-bit offsets"
        received = "a file whose expanded form takes 4 GiB or more"
        raise ValueError(invalid_part("small", expected, received, "Use `expand`")) from error


def _decode(file: ModelT) -> tuple[list[Decoding], list[list[TensorT]], list[tuple[list[TensorT], np.ndarray]]]:
    """Drops the operators that decode weights.

    Args:
        file: the schema's `ModelT`, edited in place.

    Returns:
        The decodings of the weights that have one, and the tensors that each of them fills; the tensors of the others,
        each with its values.
    """
    folded = Folded(file)
    tensors_by_source: dict[tuple[int, int], list[TensorT]] = {}
    for position in folded.needed_tensors:
        tensors_by_source.setdefault(folded.constants.source(*position), []).append(folded.tensor(position))
    decodings: list[Decoding] = []
    decoded_tensors: list[list[TensorT]] = []
    plain: list[tuple[list[TensorT], np.ndarray]] = []
    for source, tensors in tensors_by_source.items():
        value = folded.value(source)
        weight_decoding = decoding(file, folded.constants, *source, value)
        if weight_decoding is None:
            plain.append((tensors, value))
        else:
            decodings.append(weight_decoding)
            decoded_tensors.append(tensors)
    folded.finish()
    return decodings, decoded_tensors, plain


def _store(file: ModelT, tensors: list[TensorT], **fields: np.ndarray | int) -> BufferT:
    """Adds a buffer, uses it for the tensors, and returns it."""
    buffer = optional_packages.schema().BufferT(**fields)
    file.buffers.append(buffer)
    for tensor in tensors:
        tensor.buffer = len(file.buffers) - 1
    return buffer


def _lay_out(file: ModelT, buffers: list[BufferT], decodings: list[Decoding]) -> bytes:
    """Returns the bundle of a skeleton, the buffers outside of it, and the decoding of each."""
    # Nonzero offsets all take the same number of bytes, and different ones are not shared, so the second skeleton is as
    # long as the first.
    for number, buffer in enumerate(buffers):
        buffer.offset = UNKNOWN_OFFSET + number
    targets, end = [], _aligned(len(write(file)))
    for buffer in buffers:
        buffer.offset = end
        targets.append(end)
        end = _aligned(end + buffer.size)
    skeleton = write(file)
    blocks = _Blocks(_aligned(HEADER.size + RECORD.size * len(buffers)))
    start = blocks.add(np.frombuffer(skeleton, np.uint8))
    records = [_record(target, d, blocks) for target, d in zip(targets, decodings, strict=True)]
    head = HEADER.pack(MAGIC, len(records), start, len(skeleton), end) + b"".join(records)
    return head.ljust(blocks.start, b"\0") + b"".join(blocks.parts)


def _record(target: int, d: Decoding, blocks: _Blocks) -> bytes:
    """Returns the record of one weight, and adds its arrays to `blocks`."""
    numbers = [target, d.before, d.last, d.after, d.dim, d.bits]
    numbers += [blocks.add(pack(d.codes, d.bits)), blocks.add(d.table.astype("<f4"))]
    for pattern, kind in ((d.first, "<i4"), (d.scale, "<f4"), (d.add, "<f4"), (d.multiply, "<f4")):
        numbers += _pattern_numbers(pattern, kind, blocks)
    return RECORD.pack(*numbers)


def _pattern_numbers(pattern: Pattern | None, kind: str, blocks: _Blocks) -> tuple[int, int, int]:
    """Returns offset, inner length and count of a pattern; zeros if it is None."""
    if pattern is None:
        return 0, 0, 0
    return blocks.add(pattern.values.astype(kind)), pattern.inner, len(pattern.values)


class _Blocks:
    """Concatenated arrays, each aligned; equal arrays are stored once.

    Args:
        start: offset of the first array.
    """

    def __init__(self, start: int):
        self.start = start
        self._end = start
        self.parts: list[bytes] = []
        self._offsets: dict[bytes, int] = {}

    def add(self, array: np.ndarray) -> int:
        """Adds an array and returns its offset."""
        data = array.tobytes()
        if data not in self._offsets:
            self._offsets[data] = self._end
            self.parts.append(data.ljust(_aligned(len(data)), b"\0"))
            self._end += len(self.parts[-1])
        return self._offsets[data]


def _aligned(size: int) -> int:
    """Returns `size`, rounded up to the alignment of the schema."""
    return -(-size // ALIGNMENT) * ALIGNMENT
