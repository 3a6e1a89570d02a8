"""Serialization of schema objects: equal vectors, strings and tables are written once, buffers are aligned."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from r2keras.export.tflite.schema import ModelT

IDENTIFIER = b"TFL3"
# The schema's `force_align` of the buffers of constants, in bytes.
ALIGNMENT = 16
# Where the builder starts; it grows as needed.
INITIAL_BYTES = 1024


def write(file: ModelT) -> bytes:
    """Returns the bytes of a `.tflite` file.

    Args:
        file: the schema's `ModelT`.
    """
    builder = _sharing_builder()(INITIAL_BYTES)
    builder.Finish(file.Pack(builder), file_identifier=IDENTIFIER)
    return bytes(builder.Output())


@functools.cache
def _sharing_builder() -> type:
    """Returns the class of the builder. flatbuffers comes with ai-edge-litert and is imported on first use."""
    import flatbuffers

    class SharingBuilder(flatbuffers.Builder):
        """A builder that writes equal vectors of numbers, equal strings and equal tables only once.

        Every tensor has its own shape, scales and zero points, and many are equal: zero points of 0 alone take eight
        bytes per channel. So are the grids of tensors and the options of operators.
        """

        def __init__(self, size: int):
            super().__init__(size)
            self._vectors: dict[tuple[int, int, bytes], int] = {}
            self._start: tuple[int, int, int] | None = None
            self._tables: dict[tuple, int] = {}
            self._fields: list[tuple] = []

        def StartObject(self, numfields):
            """Remembers the fields of the table, so that `EndObject` can compare it."""
            self._fields = []
            super().StartObject(numfields)

        def PrependSlot(self, flags, o, x, d):
            """Writes a field that holds a number, unless it is the default, which is another one in other tables."""
            self._fields.append((o, flags.__name__, None if x == d else x))
            super().PrependSlot(flags, o, x, d)

        def PrependUOffsetTRelativeSlot(self, o, x, d):
            """Writes a field that refers to a vector, a string or a table."""
            self._fields.append((o, "offset", x))
            super().PrependUOffsetTRelativeSlot(o, x, d)

        def EndObject(self):
            """Ends the table; if an equal one was written before, removes this one and returns the earlier one."""
            first = self._tables.get(key := (len(self.current_vtable), *self._fields))
            if first is None:
                first = self._tables[key] = super().EndObject()
            else:
                self.head = len(self.Bytes) - self.objectEnd
                self.current_vtable, self.nested = None, False
            return first

        def StartVector(self, elemSize, numElems, alignment):
            """Remembers where the vector starts, so that `EndVector` can remove it."""
            self._start = (self.Offset(), elemSize, alignment)
            return super().StartVector(elemSize, numElems, alignment)

        def PrependUOffsetTRelative(self, off):
            """Marks the vector as one of offsets, which are relative to their own position and cannot be shared."""
            self._start = None
            return super().PrependUOffsetTRelative(off)

        def EndVector(self, numElems=None):
            """Ends the vector; if an equal one was written before, removes this one and returns the earlier one."""
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
            """Writes a string, or returns an equal one that was written before."""
            self._start = None
            key = (0, 0, s.encode(encoding, errors) if isinstance(s, str) else bytes(s))
            if key not in self._vectors:
                self._vectors[key] = super().CreateString(s, encoding, errors)
            return self._vectors[key]

        def CreateNumpyVector(self, x):
            """Writes a vector; byte vectors, which are the buffers of constants, are aligned."""
            if x.dtype != np.uint8:
                return super().CreateNumpyVector(x)
            self.Prep(ALIGNMENT, x.size)
            return super().CreateNumpyVector(x)

    return SharingBuilder
