"""The values of a palette as sums of a few signs, which matrix products compute one by one."""

from __future__ import annotations

import dataclasses

import numpy as np

from r2keras.record.palettized_tensor import PalettizedTensor

# In containers of 2 bits, so many take a byte per weight.
MOST_PLANES = 4
# Relative to the largest entry of a table. Entries are sums in float32, so that a few roundings of 2^-24 stay.
ROUNDING = 4e-7


@dataclasses.dataclass(frozen=True, eq=False)
class SignPlanes:
    """The tables of a palette, taken apart: `table[g, k] = mean[g] + sum_i coefficients[g, i] * signs[i, k]`.

    Args:
        mean: float64, one entry per table; zeros if the tables are symmetric.
        coefficients: float64, `(groups, planes)`.
        signs: int8, `(planes, entries)`, -1 and 1.
    """

    mean: np.ndarray
    coefficients: np.ndarray
    signs: np.ndarray


def sign_planes(tensor: PalettizedTensor) -> SignPlanes | None:
    """Takes the tables of a palette of scalars apart into signs, up to a few roundings of float32.

    The signs are products of the bits of the index `k`, each as -1 or 1: a Walsh-Hadamard transform of the table.
    Tables of alternating codes are sums of single bits, `a_1 b_1 + ... + a_n b_n`. Other tables of four entries need
    at most three planes, `b_1`, `b_2` and `b_1 b_2`, and the mean.

    Args:
        tensor: the palette.

    Returns:
        The planes that any table needs; None if there are more than `MOST_PLANES`, or `dim` is not 1.

    Example:

    >>> from r2keras.record import PaletteLayout, RangeFigures
    >>> from r2keras.specs import PaletteSpec
    >>> layout, one = PaletteLayout((2, 2), 1, (1,), None), np.ones((1, 1), np.float32)
    >>> table = np.array([[[-3.0], [-1.0], [1.0], [3.0]]], np.float32)
    >>> tensor = PalettizedTensor("dense/kernel", np.array([[0, 1], [2, 3]], np.uint8), table, one[0], one,
    ...                           PaletteSpec(num_bits=2), layout, RangeFigures.of(np.array([-3.0, 3.0])))
    >>> planes = sign_planes(tensor)
    >>> planes.coefficients.tolist(), planes.signs.tolist()
    ([[1.0, 2.0]], [[-1, 1, -1, 1], [-1, -1, 1, 1]])
    """
    if tensor.layout.dim != 1:
        return None
    table = tensor.table()[..., 0].astype(np.float64)
    entries = np.arange(tensor.spec.entries)
    bits = 2 * (entries >> np.arange(tensor.spec.num_bits)[:, None] & 1) - 1
    # Row s holds the product of the bits that s consists of; row 0 is all ones.
    products = np.stack([np.prod(bits[(s >> np.arange(len(bits)) & 1) == 1], axis=0) for s in entries])
    coefficients = table @ products.T / len(entries)
    used = np.any(np.abs(coefficients) > ROUNDING * np.abs(table).max(axis=1, keepdims=True), axis=0)
    # A table of zeros has one plane too.
    used[1] |= not used[1:].any()
    planes = 1 + np.flatnonzero(used[1:])
    if len(planes) > MOST_PLANES:
        return None
    mean = coefficients[:, 0] if used[0] else np.zeros(len(table))
    return SignPlanes(mean, coefficients[:, planes], products[planes].astype(np.int8))


def tables_of(tensor: PalettizedTensor) -> np.ndarray:
    """Returns the number of the table of each weight of a palette of scalars, in the weight's shape.

    >>> from r2keras.record import PaletteLayout, RangeFigures
    >>> from r2keras.specs import PaletteSpec
    >>> layout, one = PaletteLayout((2, 2), 1, (1,), 1), np.ones((1, 1), np.float32)
    >>> table = np.array([[[-1.0], [1.0]], [[-2.0], [2.0]]], np.float32)
    >>> spec = PaletteSpec(num_bits=1, granularity="per_group", group_size=1)
    >>> tables_of(PalettizedTensor("dense/kernel", np.array([[0, 1], [1, 1]], np.uint8), table, np.ones(2, np.float32),
    ...                            one, spec, layout, RangeFigures.of(np.array([-1.1, 0.6])))).tolist()
    [[0, 1], [0, 1]]
    """
    groups = tensor.layout.groups
    each = np.repeat(np.arange(groups)[:, None], tensor.indices.size // groups, axis=1)
    return tensor.layout.join_indices(each, np)
