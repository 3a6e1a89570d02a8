"""A record whose weights are all int8 codes times scales, the one form of weights that XNNPACK takes at full speed."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from r2keras._errors import invalid
from r2keras.export.palettes import shrunk
from r2keras.palettized import PalettizedTensor
from r2keras.record import CompressionRecord, QuantizedTensor
from r2keras.specs import QuantSpec

WIDE = QuantSpec(num_bits=8, narrow_range=False)


def int8_record(record: CompressionRecord) -> CompressionRecord:
    """Returns the record with every weight as codes of 8 bits: of the same values, up to one rounding.

    Raises:
        ValueError: palettes whose tables are not int8.
    """
    palettes = [tensor for tensor in record.tensors.values() if isinstance(tensor, PalettizedTensor)]
    floats = [tensor for tensor in palettes if tensor.spec.table_dtype != "int8"]
    if floats:
        names = ", ".join(f"{tensor.name!r} ({tensor.spec.table_dtype})" for tensor in floats)
        fix = "Train or calibrate with PaletteSpec(table_dtype='int8'), or export with optimize='size'"
        raise ValueError(invalid("optimize", f"'size' or 'memory' for the float tables of {names}", "latency", fix))
    return dataclasses.replace(record, tensors={name: _int8(tensor) for name, tensor in record.tensors.items()})


def _int8(tensor: Any) -> QuantizedTensor:
    """Returns one weight as codes of 8 bits."""
    if isinstance(tensor, PalettizedTensor):
        return _palette(tensor)
    spec, half = tensor.spec, bool(np.all(tensor.zero_point == -0.5))
    if spec.num_bits == 8:
        return tensor
    if half:
        return _tensor(tensor, 2 * tensor.codes + np.int8(1), tensor.scale / np.float32(2), WIDE)
    wide = WIDE if spec.symmetric else QuantSpec(num_bits=8, symmetric=False)
    return _tensor(tensor, tensor.codes, tensor.scale, wide, tensor.zero_point)


def _palette(tensor: PalettizedTensor) -> QuantizedTensor:
    """Returns an int8 palette with each weight's own centroid as its code."""
    layout, indices = tensor.layout, tensor.layout.split_indices(tensor.indices, np)
    codes = layout.join(np.stack([table[index] for table, index in zip(tensor.codebook, indices, strict=True)]), np)
    each = np.repeat(tensor.table_scale[:, None], indices.shape[1] * layout.dim, axis=1)
    scale = layout.join(each.reshape(layout.groups, -1, layout.dim), np) * tensor.scale
    return _tensor(tensor, codes, shrunk(scale), WIDE)


def _tensor(
    tensor: Any, codes: np.ndarray, scale: np.ndarray, spec: QuantSpec, zero_point: np.ndarray | None = None
) -> QuantizedTensor:
    """Returns codes in the place of a tensor."""
    zero_point = np.zeros_like(scale) if zero_point is None else zero_point
    return QuantizedTensor(tensor.name, codes, scale, zero_point, spec, tensor.before)
