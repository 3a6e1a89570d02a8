"""Packing of signed 2-, 4- or 8-bit codes into bytes, lowest bits first, as LiteRT stores them."""

from __future__ import annotations

import numpy as np

from r2keras._util.errors import invalid

WIDTHS = (2, 4, 8)


def pack(codes: np.ndarray, num_bits: int) -> np.ndarray:
    """Packs signed codes, `n = 8 / num_bits` of them per byte.

    Byte `k` holds the codes `k * n .. k * n + n - 1`, the first one in the lowest bits. The last byte is padded with
    zeros.

    Args:
        codes: integers in `[-2^(num_bits - 1), 2^(num_bits - 1) - 1]`, of any shape, read in row-major order.
        num_bits: 2, 4 or 8.

    Returns:
        uint8 vector of `ceil(codes.size * num_bits / 8)` bytes.

    Raises:
        ValueError: `num_bits` is another width, or a code does not fit it.

    Example:

    >>> pack(np.array([1, -2, 0, 1, -1]), 2).tolist()
    [73, 3]
    """
    _check_width(num_bits)
    low, high = -(2 ** (num_bits - 1)), 2 ** (num_bits - 1) - 1
    flat = np.asarray(codes).ravel()
    if flat.size and not (low <= flat.min() and flat.max() <= high):
        raise ValueError(invalid("codes", f"codes from {low} to {high} at {num_bits} bits", (flat.min(), flat.max())))
    per_byte = 8 // num_bits
    bits = flat.astype(np.int8).view(np.uint8) & np.uint8(2**num_bits - 1)
    rows = np.pad(bits, (0, -flat.size % per_byte)).reshape(-1, per_byte)
    shifts = np.arange(0, 8, num_bits, dtype=np.uint8)
    return np.bitwise_or.reduce(rows << shifts, axis=1, dtype=np.uint8)


def unpack(data: np.ndarray, num_bits: int, size: int) -> np.ndarray:
    """Returns the codes of `pack`: `unpack(pack(codes, b), b, codes.size) == codes.ravel()`.

    Args:
        data: uint8 vector.
        num_bits: 2, 4 or 8.
        size: number of codes.

    Returns:
        int8 vector of `size` codes.

    Raises:
        ValueError: `num_bits` is another width, or there are too few bytes for `size` codes.

    Example:

    >>> unpack(np.array([73, 3], np.uint8), 2, 5).tolist()
    [1, -2, 0, 1, -1]
    """
    _check_width(num_bits)
    if data.size * 8 < size * num_bits:
        raise ValueError(invalid("data", f"{size} codes of {num_bits} bits", f"{data.size} bytes"))
    shifts = np.arange(0, 8, num_bits, dtype=np.uint8)
    # An arithmetic shift from the top of the byte back down extends the sign.
    top = (data[:, None] >> shifts) << np.uint8(8 - num_bits)
    return (top.astype(np.uint8).view(np.int8) >> np.int8(8 - num_bits)).ravel()[:size]


def _check_width(num_bits: int) -> None:
    """Raises ValueError unless LiteRT has integers of that width."""
    if num_bits not in WIDTHS:
        raise ValueError(invalid("num_bits", "2, 4 or 8", num_bits))
