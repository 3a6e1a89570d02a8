"""Recorded palettes as a file stores them: indices in the order that GATHER needs, the table, the scales."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from r2keras.export.weights.axis_layout import Layout
from r2keras.export.weights.matching import Match
from r2keras.export.weights.uniform import OVERHEAD, along, container_bits, tune_scales, values_along, varying_axes
from r2keras.record import PalettizedTensor


@dataclasses.dataclass(frozen=True, eq=False)
class StoredPalette:
    """One palette as the file holds it.

    The runtime computes `table[codes + half + offset]`, cuts off the padding of the last vectors, and multiplies by
    `multiply`, in float32.

    Args:
        bits: container width: 2, 4 or 8.
        codes: int8, indices less `half`. In the constant's shape if `dim` is 1; otherwise `(rows, columns)`, so that
            `table[index]`, `(rows, columns, dim)`, is the constant with its last two axes swapped.
        half: half the entries of a table, subtracted from the indices to center them on zero.
        offset: float32, broadcasts to `codes`: the first row of the table of each index; None with a single table.
        table: `(groups * entries, dim)`, in the type that the file holds.
        table_scale: float32, `(groups,)`: factor of each table; None: the table is float32 already.
        filled: shape of the constant with the padding of its vectors, `(before, vectors * dim, after)`.
        cut: shape without the padding; equal to `filled` if there is none.
        multiply: float32, broadcasts to the constant: scale and folded factor per channel; None without them.
        layout: maps the record's indices to `codes`.
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
        """Weights per vector."""
        return self.table.shape[1]

    def recorded_codes(self, match: Match, shape: tuple[int, ...], source_shape: tuple[int, ...]) -> np.ndarray:
        """Returns the record's indices, in `source_shape`; `layout` covers what `match` and `shape` say."""
        return (self.layout.invert(self.codes, source_shape).astype(np.int16) + self.half).astype(np.uint8)


def store_palette(tensor: PalettizedTensor, match: Match, constant: np.ndarray) -> StoredPalette:
    """Lays out a recorded palette as a replacement of `constant`.

    Args:
        tensor: indices, table and scale.
        match: how the constant holds the weight.
        constant: float32; folded factors are tuned to it, by units in the last place.

    Returns:
        The stored form, from which the runtime computes `constant` within a few roundings.
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
    """Returns the number of weights before and after the last axis of `shape`, once its axes are in `order`."""
    last = order.index(len(shape) - 1)
    return math.prod(shape[axis] for axis in order[:last]), math.prod(shape[axis] for axis in order[last + 1 :])


def _table(tensor: PalettizedTensor) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns the table and its scales; float32 and None where a DEQUANTIZE would take more bytes than it saves."""
    rows = tensor.layout.groups * tensor.spec.entries
    saved = 4 * tensor.codebook.size - tensor.codebook.nbytes
    if saved <= OVERHEAD:
        return tensor.table().reshape(rows, -1), None
    return tensor.codebook.reshape(rows, -1), tensor.table_scale


def _offset(tensor: PalettizedTensor, layout: Layout) -> np.ndarray | None:
    """Returns the first row of the table of each index, with length 1 along axes where it does not change."""
    groups = tensor.layout.groups
    if groups == 1:
        return None
    first_rows = np.float32(tensor.spec.entries) * np.arange(groups, dtype=np.float32)
    per_index = np.repeat(first_rows[:, None], tensor.indices.size // groups, axis=1)
    return collapse_constant_axes(layout.apply(tensor.layout.join_indices(per_index, np)))


def _multiply(tensor: PalettizedTensor, match: Match, constant: np.ndarray) -> np.ndarray | None:
    """Returns scales times folded factors, with length 1 along axes where they do not change; None if all are 1."""
    recorded_scale = np.broadcast_to(tensor.scale, tensor.layout.shape)
    scale = match.layout.apply(recorded_scale) * np.broadcast_to(match.factor, constant.shape)
    if np.all(scale == 1):
        return None
    axes = varying_axes(scale, scale)
    if match.is_exact or len(axes) > 1:
        return collapse_constant_axes(scale).astype(np.float32)
    axis = axes[0] if axes else 0
    unscaled = dataclasses.replace(tensor, scale=np.ones_like(tensor.scale)).values()
    factors = tune_scales(values_along(scale, axis), match.layout.apply(unscaled), constant, axis, exact=False)
    return along(factors, constant, axis)


def collapse_constant_axes(values: np.ndarray) -> np.ndarray:
    """Returns the values with length 1 along every axis along which they do not change."""
    kept = varying_axes(values, values)
    return np.ascontiguousarray(values[tuple(slice(None if axis in kept else 1) for axis in range(values.ndim))])
