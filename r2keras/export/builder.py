"""Writes schema objects as bytes, equal vectors and strings once, buffers aligned as the schema asks."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

IDENTIFIER = b"TFL3"
ALIGNMENT = 16


def write(model: Any) -> bytes:
    """Returns the bytes of a `.tflite` file.

    Args:
        model: the schema's `ModelT`.
    """
    builder = _sharing_builder()(1024)
    builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
    return bytes(builder.Output())


@functools.cache
def _sharing_builder() -> type:
    """Returns the builder's class; flatbuffers comes with ai-edge-litert and is imported on first use."""
    import flatbuffers

    class SharingBuilder(flatbuffers.Builder):
        """A builder that writes equal vectors of numbers, and equal strings, once.

        Every tensor has its own shape, scales and zero points, many of them equal: eight bytes of zero a channel.
        """

        def __init__(self, size: int):
            super().__init__(size)
            self._vectors: dict[tuple[int, int, bytes], int] = {}
            self._start: tuple[int, int, int] | None = None

        def StartVector(self, elemSize, numElems, alignment):
            """Remembers where the vector began, to take it back."""
            self._start = (self.Offset(), elemSize, alignment)
            return super().StartVector(elemSize, numElems, alignment)

        def PrependUOffsetTRelative(self, off):
            """Marks the vector as one of offsets: these are relative to their place and cannot be shared."""
            self._start = None
            return super().PrependUOffsetTRelative(off)

        def EndVector(self, numElems=None):
            """Returns an equal vector written before, if there is one, and takes the new one back."""
            count = self.vectorNumElems
            offset = super().EndVector()
            if self._start is None:
                return offset
            before, size, alignment = self._start
            self._start = None
            data = bytes(self.Bytes[self.head : self.head + 4 + size * count])
            first = self._vectors.setdefault((size, alignment, data), offset)
            if first != offset:
                self.head += offset - before
            return first

        def CreateString(self, s, encoding="utf-8", errors="strict"):
            """Returns an equal string written before, if there is one."""
            self._start = None
            key = (0, 0, s.encode(encoding, errors) if isinstance(s, str) else bytes(s))
            if key not in self._vectors:
                self._vectors[key] = super().CreateString(s, encoding, errors)
            return self._vectors[key]

        def CreateNumpyVector(self, x):
            """Aligns byte vectors, which are the buffers of constants, as the schema's `force_align` says."""
            if x.dtype != np.uint8:
                return super().CreateNumpyVector(x)
            self.Prep(ALIGNMENT, x.size)
            return super().CreateNumpyVector(x)

    return SharingBuilder
