"""Conversion of a record to int8 codes times scales, the only weights that XNNPACK runs at full speed."""

from __future__ import annotations

import dataclasses

import numpy as np

from r2keras._util.errors import invalid
from r2keras.export.weights.palette import collapse_constant_axes
from r2keras.record import CompressionRecord, PalettizedTensor, QuantizedTensor, Tensor
from r2keras.specs import QuantSpec

FULL_RANGE = QuantSpec(num_bits=8, narrow_range=False)


def int8_record(record: CompressionRecord) -> CompressionRecord:
    """Returns the record with every weight as 8-bit codes that give the same values, up to one rounding.

    Raises:
        ValueError: the table of a palette is not int8.
    """
    palettes = [tensor for tensor in record.tensors.values() if isinstance(tensor, PalettizedTensor)]
    floats = [tensor for tensor in palettes if tensor.spec.table_dtype != "int8"]
    if floats:
        names = ", ".join(f"{tensor.name!r} ({tensor.spec.table_dtype})" for tensor in floats)
        fix = "Train or calibrate with PaletteSpec(table_dtype='int8'), or export with optimize='size'"
        raise ValueError(invalid("optimize", f"'size' or 'memory' for the float tables of {names}", "latency", fix))
    return dataclasses.replace(record, tensors={name: _int8(tensor) for name, tensor in record.tensors.items()})


def int8_palettes(record: CompressionRecord) -> CompressionRecord:
    """Returns the record with every palette of an int8 table as 8-bit codes; other weights stay as they are."""
    tensors = {
        name: _palette_codes(tensor)
        if isinstance(tensor, PalettizedTensor) and tensor.spec.table_dtype == "int8"
        else tensor
        for name, tensor in record.tensors.items()
    }
    return dataclasses.replace(record, tensors=tensors)


def _int8(tensor: Tensor) -> QuantizedTensor:
    """Returns one weight as 8-bit codes."""
    if isinstance(tensor, PalettizedTensor):
        return _palette_codes(tensor)
    if tensor.spec.num_bits == 8:
        return tensor
    if np.all(tensor.zero_point == -0.5):
        # Mid-rise: half steps become whole ones on a grid twice as fine.
        return _recoded(tensor, 2 * tensor.codes + np.int8(1), tensor.scale / np.float32(2), FULL_RANGE)
    spec = FULL_RANGE if tensor.spec.symmetric else QuantSpec(num_bits=8, symmetric=False)
    return _recoded(tensor, tensor.codes, tensor.scale, spec, tensor.zero_point)


def _palette_codes(tensor: PalettizedTensor) -> QuantizedTensor:
    """Returns an int8 palette with the centroid of each weight as its code."""
    layout, indices = tensor.layout, tensor.layout.split_indices(tensor.indices, np)
    codes = layout.join(np.stack([table[index] for table, index in zip(tensor.codebook, indices, strict=True)]), np)
    table_scale = np.repeat(tensor.table_scale[:, None], indices.shape[1] * layout.dim, axis=1)
    scale = layout.join(table_scale.reshape(layout.groups, -1, layout.dim), np) * tensor.scale
    return _recoded(tensor, codes, collapse_constant_axes(scale), FULL_RANGE)


def _recoded(
    tensor: Tensor,
    codes: np.ndarray,
    scale: np.ndarray,
    spec: QuantSpec,
    zero_point: np.ndarray | None = None,
) -> QuantizedTensor:
    """Returns a tensor with other codes and another grid; `zero_point` is 0 if None."""
    zero_point = np.zeros_like(scale) if zero_point is None else zero_point
    return QuantizedTensor(tensor.name, codes, scale, zero_point, spec, tensor.before)
