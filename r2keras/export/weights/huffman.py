"""Huffman codes in the format of the DECODE operator of LiteRT for Microcontrollers.

The operator reads codewords from 32-bit words, highest bit first, and looks them up in tables of 16-bit entries. The
entry of a symbol is `0x8000 | bits << 11 | symbol`, with the number of bits that its table resolves. Any other entry is
`(width - 1) << 11 | distance`: the next table has `2**width` entries and begins `distance` entries later.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from r2keras._util.errors import invalid_part
from r2keras.export.weights.lookup_table import HEADER_BYTES, HEADER_VERSION

# Codes of the DECODE operator's format.
HUFFMAN, VERSION = 1, 1
FOUND, BITS_SHIFT = 0x8000, 11
SYMBOL, DISTANCE, BITS = 0xFF, 0x07FF, 15
# Bytes that hold any 16 bits: more are never read at once.
READ_BYTES = 3
# The longest codewords that are tried: longer ones need larger tables than they save.
LONGEST = 12


class Huffman(NamedTuple):
    """Two constants of a DECODE operator.

    Args:
        packed: uint8, the codewords.
        ancillary: uint8, the header and the tables.
    """

    packed: np.ndarray
    ancillary: np.ndarray

    @property
    def num_bytes(self) -> int:
        """Bytes of both."""
        return len(self.packed) + len(self.ancillary)


def encode(codes: np.ndarray) -> Huffman:
    """Returns the smallest encoding of int8 codes, over limits of the codewords' lengths and widths of the first table.

    Example:

    >>> codes = np.array([0, 0, 0, 1, -1, 0, 0, 2], np.int8)
    >>> stored = encode(codes)
    >>> stored.num_bytes, decode(*stored, codes.size).tolist()
    (28, [0, 0, 0, 1, -1, 0, 0, 2])
    """
    symbols, index, counts = np.unique(codes, return_inverse=True, return_counts=True)
    candidates = []
    for limit in range(max(1, (len(symbols) - 1).bit_length()), LONGEST + 1):
        lengths = code_lengths(counts, limit)
        words = codewords(lengths)
        for width in range(1, int(lengths.max()) + 1):
            table = decode_table(symbols, lengths, words, width)
            if table is not None:
                candidates.append((int(lengths @ counts) / 8 + 2 * len(table), lengths, words, width, table))
    # Of equal sizes, a wider first table takes fewer steps.
    _, lengths, words, width, table = min(candidates, key=lambda item: (item[0], -item[3]))
    header = np.zeros(HEADER_BYTES, np.uint8)
    header[:6] = HUFFMAN, HEADER_VERSION, 0, 0, VERSION, (width - 1) << 4
    packed = _pack(lengths[index.ravel()], words[index.ravel()], width)
    return Huffman(packed, np.concatenate([header, np.array(table, "<u2").view(np.uint8)]))


def is_huffman(ancillary: np.ndarray) -> bool:
    """Whether a constant of a DECODE operator begins with the header of Huffman codes."""
    return len(ancillary) > 0 and int(ancillary[0]) == HUFFMAN


def decode(packed: np.ndarray, ancillary: np.ndarray, count: int) -> np.ndarray:
    """Returns what the runtime decodes: an int8 vector.

    Args:
        packed: uint8, the codewords.
        ancillary: uint8, the header and the tables.
        count: number of codes.

    Raises:
        ValueError: the header is another one, or the runtime would read beyond the codewords or the tables.
    """
    kind, version, _, _, huffman_version, parameters = (ancillary[:6].tolist() + [0] * 6)[:6]
    if (kind, version, huffman_version, parameters & 15) != (HUFFMAN, HEADER_VERSION, VERSION, 0):
        raise _broken("another header")
    tables = ancillary[HEADER_BYTES : len(ancillary) - len(ancillary) % 2].view("<u2").tolist()
    first = (parameters >> 4) + 1
    # The runtime reads whole words.
    data, end = packed.tobytes() + bytes(READ_BYTES), len(packed) // 4 * 32
    codes, position = np.empty(count, np.uint8), 0
    for i in range(count):
        width, entry, base = first, 0, 0
        while not entry & FOUND:
            position += width
            if position > end:
                raise _broken("too few codewords")
            start = (position - width) // 8
            read = int.from_bytes(data[start : start + READ_BYTES], "big")
            base += read >> (8 * (start + READ_BYTES) - position) & (2**width - 1)
            if base >= len(tables):
                raise _broken("an entry beyond its tables")
            entry = tables[base]
            used, resolved = width, entry >> BITS_SHIFT & BITS
            width, base = resolved + 1, base + (entry & DISTANCE)
        position -= max(0, used - resolved)
        codes[i] = entry & SYMBOL
    return codes.view(np.int8)


def _broken(reason: str) -> ValueError:
    """Returns the error of codes that cannot be decoded."""
    return ValueError(invalid_part("packed", "Huffman codes that `encode` returned", reason))


def code_lengths(counts: np.ndarray, limit: int) -> np.ndarray:
    """Returns the lengths of an optimal prefix code with codewords of at most `limit` bits, by package-merge.

    >>> code_lengths(np.array([8, 4, 2, 1]), 3).tolist()
    [1, 2, 3, 3]
    """
    if len(counts) == 1:
        return np.ones(1, np.int64)
    leaves = [(int(count), (i,)) for i, count in enumerate(counts)]
    packages: list[tuple[int, tuple[int, ...]]] = []
    for _ in range(limit):
        pairs = zip(packages[::2], packages[1::2], strict=False)
        merged = [(a[0] + b[0], a[1] + b[1]) for a, b in pairs]
        packages = sorted([*leaves, *merged])
    lengths = np.zeros(len(counts), np.int64)
    for _, members in packages[: 2 * len(counts) - 2]:
        np.add.at(lengths, list(members), 1)
    return lengths


def codewords(lengths: np.ndarray) -> np.ndarray:
    """Returns the canonical codewords of given lengths.

    >>> codewords(np.array([1, 2, 3, 3])).tolist()
    [0, 2, 6, 7]
    """
    words = np.zeros(len(lengths), np.int64)
    word = last = 0
    for i in np.lexsort((np.arange(len(lengths)), lengths)):
        word <<= int(lengths[i]) - last
        words[i], last = word, int(lengths[i])
        word += 1
    return words


def decode_table(symbols: np.ndarray, lengths: np.ndarray, words: np.ndarray, width: int) -> list[int] | None:
    """Returns a first table of `2**width` entries and one more for each longer beginning; None if one is too far."""
    table = [0] * 2**width
    rest: dict[int, list[int]] = {}
    for i, (length, word) in enumerate(zip(lengths.tolist(), words.tolist(), strict=True)):
        if length <= width:
            _fill(table, 0, width, symbols[i], length, word)
        else:
            rest.setdefault(word >> (length - width), []).append(i)
    for start, members in rest.items():
        extra = int(lengths[members].max()) - width
        distance = len(table) - start
        if distance > DISTANCE:
            return None
        table[start] = (extra - 1) << BITS_SHIFT | distance
        base = len(table)
        table += [0] * 2**extra
        for i in members:
            length = int(lengths[i]) - width
            _fill(table, base, extra, symbols[i], length, int(words[i]) & (2**length - 1))
    return table


def _fill(table: list[int], base: int, width: int, symbol: int, length: int, word: int) -> None:
    """Writes a symbol's entries: one for each continuation of its codeword."""
    free = width - length
    for i in range(2**free):
        table[base + (word << free) + i] = FOUND | length << BITS_SHIFT | int(symbol) & SYMBOL


def _pack(lengths: np.ndarray, words: np.ndarray, width: int) -> np.ndarray:
    """Returns codewords as bytes; the decoder reads up to `width` bits beyond the last one."""
    starts = np.cumsum(lengths) - lengths
    bits = np.zeros(-(-(int(lengths.sum()) + width) // 32) * 32, np.uint8)
    for bit in range(int(lengths.max())):
        longer = lengths > bit
        bits[starts[longer] + bit] = words[longer] >> (lengths[longer] - 1 - bit) & 1
    return np.packbits(bits)
