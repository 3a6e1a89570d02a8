"""How recorded palettes go into a file: packed indices in the order that a GATHER needs, the table, the scales."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from r2keras.export.containers import OVERHEAD, along, container_bits, tuned, varying, vector
from r2keras.export.layout import Layout
from r2keras.export.match import Match
from r2keras.palettized import PalettizedTensor


@dataclasses.dataclass(frozen=True, eq=False)
class StoredPalette:
    """One palette as the file holds it; the runtime computes `table[codes + half + offset]`, cuts off what filled up
    the last vectors, and multiplies with `multiply`, in float32.

    Args:
        bits: container width: 2, 4 or 8.
        codes: int8, indices less `half`. With `dim = 1` of the constant's shape; else `(rows, columns)`, so that
            `table[index]`, `(rows, columns, dim)`, holds the constant once its last two axes are exchanged.
        half: what the indices are shifted by: half of the table's rows.
        offset: float32, broadcasts to `codes`: the first row of each index' own table; None: there is one table.
        table: `(groups * entries, dim)` in the type that the file holds.
        table_scale: float32, `(groups,)`: what each table is multiplied with; None: it is float32 already.
        filled: shape of the constant before what filled up is cut off, `(before, vectors * dim, after)`.
        cut: the same after the cut; equal to `filled` if nothing is cut off.
        multiply: float32, broadcasts to the constant: scale and folded factor of a channel; None: there is none.
        layout: from the record's indices to `codes`.
    """

    bits: int
    codes: np.ndarray
    half: int
    offset: np.ndarray | None
    table: np.ndarray
    table_scale: np.ndarray | None
    filled: tuple[int, int, int]
    cut: tuple[int, int, int]
    multiply: np.ndarray | None
    layout: Layout

    @property
    def dim(self) -> int:
        """Weights a vector."""
        return self.table.shape[1]

    def recorded_codes(self, match: Match, shape: tuple[int, ...], source_shape: tuple[int, ...]) -> np.ndarray:
        """Returns the record's indices, of `source_shape`; how the weight lay in the file is in `layout` already."""
        return (self.layout.invert(self.codes, source_shape).astype(np.int16) + self.half).astype(np.uint8)


def store_palette(tensor: PalettizedTensor, match: Match, constant: np.ndarray) -> StoredPalette:
    """Lays out a recorded palette for the place of `constant`.

    Args:
        tensor: indices, table and scale.
        match: how the constant holds the weight.
        constant: float32; factors of folded channels are tuned to it, unit by unit in the last place.

    Returns:
        The stored form; what the runtime computes from it equals `constant` within a few roundings.
    """
    shape, dim, half = tensor.layout.shape, tensor.layout.dim, tensor.spec.entries // 2
    count = tensor.layout.index_shape[-1]
    before, after = _around(match.layout.order, shape)
    layout = Layout(match.layout.order, constant.shape if dim == 1 else (before * count, after))
    table, table_scale = _table(tensor)
    return StoredPalette(
        bits=container_bits(tensor.spec.num_bits),
        codes=layout.apply(tensor.indices.astype(np.int16) - half).astype(np.int8),
        half=half,
        offset=_offset(tensor, layout),
        table=table,
        table_scale=table_scale,
        filled=(before, count * dim, after),
        cut=(before, shape[-1], after),
        multiply=_multiply(tensor, match, constant),
        layout=layout,
    )


def _around(order: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, int]:
    """Returns how many weights lie before and after the source's last axis where its axes have another order."""
    place = order.index(len(shape) - 1)
    return math.prod(shape[axis] for axis in order[:place]), math.prod(shape[axis] for axis in order[place + 1 :])


def _table(tensor: PalettizedTensor) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns the table and its scales; as float32 where a DEQUANTIZE of its own would take more than it saves."""
    rows = tensor.layout.groups * tensor.spec.entries
    saved = 4 * tensor.codebook.size - tensor.codebook.nbytes
    if saved <= OVERHEAD:
        return tensor.table().reshape(rows, -1), None
    return tensor.codebook.reshape(rows, -1), tensor.table_scale


def _offset(tensor: PalettizedTensor, layout: Layout) -> np.ndarray | None:
    """Returns the first row of each index' table, of the length 1 along axes where it does not change."""
    groups = tensor.layout.groups
    if groups == 1:
        return None
    first = np.float32(tensor.spec.entries) * np.arange(groups, dtype=np.float32)
    each = tensor.indices.size // groups
    return shrunk(layout.apply(tensor.layout.join_indices(np.repeat(first[:, None], each, axis=1), np)))


def _multiply(tensor: PalettizedTensor, match: Match, constant: np.ndarray) -> np.ndarray | None:
    """Returns scales times folded factors, of the length 1 along axes where they do not change."""
    full = np.broadcast_to(tensor.scale, tensor.layout.shape)
    scale = match.layout.apply(full) * np.broadcast_to(match.factor, constant.shape)
    if np.all(scale == 1):
        return None
    axes = varying(scale, scale)
    if match.is_exact or len(axes) > 1:
        return shrunk(scale).astype(np.float32)
    axis = axes[0] if axes else 0
    plain = dataclasses.replace(tensor, scale=np.ones_like(tensor.scale)).values()
    found = tuned(vector(scale, axis), match.layout.apply(plain), constant, axis, exact=False)
    return along(found, constant, axis)


def shrunk(values: np.ndarray) -> np.ndarray:
    """Returns values of the length 1 along every axis along which they do not change."""
    kept = varying(values, values)
    return np.ascontiguousarray(values[tuple(slice(None if axis in kept else 1) for axis in range(values.ndim))])
