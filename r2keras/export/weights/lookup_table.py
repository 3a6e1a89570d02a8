"""Look-up tables in the format of LiteRT for Microcontrollers: packed indices, and a header with the tables."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from r2keras._util.errors import invalid

# Limits and codes of the DECODE operator's format.
MAX_BITS = 7
HEADER_BYTES = 16
LUT, HEADER_VERSION, LUT_VERSION = 0, 1, 1
# In the header's four bits for the axis.
ONE_TABLE = 15


@dataclasses.dataclass(frozen=True, eq=False)
class LookupTable:
    """A tensor as indices into tables: `value = tables[channel, index]`, with a single table if `axis` is None.

    A file holds two constants. The first is the indices, `bits` wide, in row-major order, highest bit first, the last
    byte padded with zeros. The second is a header of 16 bytes, `(0, 1, 0, 0, 1, axis * 16 + bits, entries, 0, ...)`
    with 15 for no axis, followed by the tables, row by row.

    Args:
        indices: uint8, in the tensor's shape.
        tables: float32 `(channels, entries)`, at most 128 entries; one row if `axis` is None.
        axis: the axis with one table per index, the first or the last; None: one table for the whole tensor.

    Example:

    >>> table = tabulate(np.array([[0.5, -1.0], [0.5, 2.0]], np.float32))
    >>> table.bits, table.tables.tolist(), table.packed().tolist()
    (2, [[-1.0, 0.5, 2.0]], [70])
    >>> table.ancillary()[:7].tolist()
    [0, 1, 0, 0, 1, 242, 3]
    """

    indices: np.ndarray
    tables: np.ndarray
    axis: int | None

    @property
    def bits(self) -> int:
        """Bits per index, 1 to 7."""
        return max(1, (self.tables.shape[1] - 1).bit_length())

    @property
    def num_bytes(self) -> int:
        """Bytes of indices, header and tables."""
        return -(-self.indices.size * self.bits // 8) + HEADER_BYTES + 4 * self.tables.size

    @property
    def note(self) -> str:
        """Describes the stored form."""
        count, entries = self.tables.shape
        tables = f"a table of {entries}" if self.axis is None else f"{count} tables of {entries}"
        return f"{self.bits}-bit indices into {tables}"

    def packed(self) -> np.ndarray:
        """Returns the indices as bytes."""
        return pack_indices(self.indices, self.bits)

    def ancillary(self) -> np.ndarray:
        """Returns the header and the tables as bytes."""
        header = np.zeros(HEADER_BYTES, np.uint8)
        axis = ONE_TABLE if self.axis is None else self.axis
        header[:7] = LUT, HEADER_VERSION, 0, 0, LUT_VERSION, axis << 4 | self.bits, self.tables.shape[1]
        return np.concatenate([header, np.ascontiguousarray(self.tables, "<f4").view(np.uint8).ravel()])

    def values(self) -> np.ndarray:
        """Returns the tensor, float32."""
        if self.axis is None:
            return self.tables[0][self.indices]
        rows = np.moveaxis(self.indices, self.axis, 0).reshape(len(self.tables), -1)
        other_sizes = np.delete(self.indices.shape, self.axis)
        values = np.take_along_axis(self.tables, rows.astype(np.intp), axis=1)
        return np.moveaxis(values.reshape(len(self.tables), *other_sizes), 0, self.axis)


def tabulate(values: np.ndarray, axis: int | None = None) -> LookupTable | None:
    """Returns a tensor as tables of its distinct values, ascending, and indices into them.

    Args:
        values: float32, any shape.
        axis: the axis with one table per index; None: one table for the whole tensor.

    Returns:
        The tables, padded with zeros to one length, or None if one would need more than 128 entries.
    """
    if axis is None:
        table = np.unique(values)
        if table.size > 2**MAX_BITS:
            return None
        return LookupTable(np.searchsorted(table, values).astype(np.uint8), table[None], None)
    rows = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
    order = np.argsort(rows, axis=1, kind="stable")
    ascending = np.take_along_axis(rows, order, axis=1)
    is_new = np.concatenate([np.zeros((len(rows), 1), bool), ascending[:, 1:] != ascending[:, :-1]], axis=1)
    table_index = np.cumsum(is_new, axis=1)
    entries = int(table_index[:, -1].max()) + 1
    if entries > 2**MAX_BITS:
        return None
    indices = np.empty(rows.shape, np.uint8)
    np.put_along_axis(indices, order, table_index.astype(np.uint8), axis=1)
    tables = np.zeros((len(rows), entries), np.float32)
    np.put_along_axis(tables, table_index, ascending, axis=1)
    by_channel = indices.reshape(np.moveaxis(values, axis, 0).shape)
    return LookupTable(np.ascontiguousarray(np.moveaxis(by_channel, 0, axis)), tables, axis)


def read_lookup(packed: np.ndarray, ancillary: np.ndarray, shape: tuple[int, ...]) -> LookupTable:
    """Reads what `LookupTable.packed` and `LookupTable.ancillary` returned.

    Args:
        packed: uint8, the indices.
        ancillary: uint8, the header and the tables.
        shape: shape of the tensor.

    Raises:
        ValueError: `ancillary` does not begin with the header of a look-up table.
    """
    kind, version, _, _, lut_version, params, entries = ancillary[:7].tolist()
    if (kind, version, lut_version) != (LUT, HEADER_VERSION, LUT_VERSION):
        raise ValueError(invalid("ancillary", "the header of a look-up table", ancillary[:7].tolist()))
    bits, axis = params & 7, params >> 4
    tables = ancillary[HEADER_BYTES:].view("<f4").reshape(-1, entries)
    indices = unpack_indices(packed, bits, math.prod(shape)).reshape(shape)
    return LookupTable(indices, tables, None if axis == ONE_TABLE else axis)


def pack_indices(indices: np.ndarray, num_bits: int) -> np.ndarray:
    """Packs indices into bytes, highest bit first.

    Args:
        indices: integers in `[0, 2^num_bits - 1]`, any shape, read in row-major order.
        num_bits: 1 to 7.

    Returns:
        uint8 vector of `ceil(indices.size * num_bits / 8)` bytes.

    Raises:
        ValueError: `num_bits` is out of range, or an index does not fit in it.

    Example:

    >>> pack_indices(np.array([1, 2, 3]), 3).tolist()
    [41, 128]
    """
    if not 1 <= num_bits <= MAX_BITS:
        raise ValueError(invalid("num_bits", f"an integer from 1 to {MAX_BITS}", num_bits))
    flat = np.asarray(indices).ravel()
    if flat.size and not (flat.min() >= 0 and flat.max() < 2**num_bits):
        expected = f"indices from 0 to {2**num_bits - 1} at {num_bits} bits"
        raise ValueError(invalid("indices", expected, (int(flat.min()), int(flat.max()))))
    bits = np.unpackbits(flat.astype(np.uint8)[:, None], axis=1)[:, 8 - num_bits :]
    return np.packbits(bits)


def unpack_indices(packed: np.ndarray, num_bits: int, size: int) -> np.ndarray:
    """Unpacks what `pack_indices` returned, to a uint8 vector.

    Args:
        packed: uint8 vector.
        num_bits: 1 to 7.
        size: number of indices.

    Example:

    >>> unpack_indices(np.array([41, 128], np.uint8), 3, 3).tolist()
    [1, 2, 3]
    """
    rows = np.unpackbits(packed, count=size * num_bits).reshape(size, num_bits)
    return np.packbits(rows, axis=1)[:, 0] >> np.uint8(8 - num_bits)
