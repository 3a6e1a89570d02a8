"""The record of a model that another tool left on few values: clustered, pruned or quantized weights."""

from __future__ import annotations

import math

import keras
import numpy as np

from r2keras._models.channel_axes import output_axes
from r2keras._models.either_keras import SourceModel, read_model
from r2keras._models.values import check_finite
from r2keras._util.errors import check_int, invalid_part
from r2keras.record import CompressionRecord, PaletteLayout, PalettizedTensor, QuantizedTensor, RangeFigures, Tensor
from r2keras.specs import PaletteSpec, QuantSpec

# The largest code of a grid, and the entries of the largest palette.
LARGEST_CODE, MOST_VALUES = 127, 256


def recover(model: keras.Model, *, max_bits: int = 8) -> CompressionRecord:
    """Finds the grids and palettes of a model whose kernels have few different values, and returns their record.

    Nothing is rounded: a kernel gets a grid `scale * code`, per tensor or per output channel, or a palette, only if
    that gives its values bit for bit, and it gets the one with the fewest bytes. Kernels with too many different values
    stay float, and `record.kept_float` says how many they have. The model is not changed; pass it to `to_litert` with
    the record.

    Args:
        model: a built Functional or Sequential model of Keras 3 or tf_keras: one that `strip_clustering` or
            `strip_pruning` of TFMOT returned, say, or whose weights were read from elsewhere.
        max_bits: the most bits per weight, 1 to 8; kernels that need more stay float.

    Returns:
        The record.

    Raises:
        TypeError: `model` is not a model, or is subclassed.
        ValueError: no kernel has few enough values; a weight is NaN or infinite; the model is not built.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, use_bias=False, name="head")])
    >>> model.set_weights([np.array([[0.5, -0.25], [0.0, 0.25], [-0.5, 0.5], [0.25, 0.0]], np.float32)])
    >>> record = recover(model)
    >>> record.tensors["head/kernel"].codes.tolist()
    [[2, -1], [0, 1], [-2, 2], [1, 0]]
    """
    max_bits = check_int("max_bits", max_bits, 1, 8)
    source = read_model(model)
    tensors: dict[str, Tensor] = {}
    kept_float: dict[str, str] = {}
    axes, variables = _output_axes(source), dict(source.weights)
    for name in source.kernel_shapes():
        values = np.asarray(variables[name], np.float32)
        check_finite(name, values)
        tensor = _recovered(name, values, axes.get(name, (values.ndim - 1,)), max_bits)
        if tensor is None:
            kept_float[name] = f"{len(np.unique(values)):,} different values, on no grid of {max_bits} bits"
        else:
            tensors[name] = tensor
    if not tensors:
        reasons = "; ".join(f"{name} has {reason}" for name, reason in list(kept_float.items())[:3]) or "no kernel"
        expected = "a model with a kernel of few different values"
        raise ValueError(invalid_part("model", expected, reasons, "Compress it with calibrate or prepare"))
    return CompressionRecord(tensors, kept_float, source.num_values, source.name)


def _output_axes(source: SourceModel) -> dict[str, tuple[int, ...]]:
    """Returns the axes of output channels by kernel; empty for tf_keras, whose kernels have them last."""
    if source.is_tf_keras:
        return {}
    layers = dict(source.layers)
    return {
        kernel.full_name: output_axes(layers[kernel.path], kernel.variable)
        for kernel in source.view.kernels
        if kernel.path in layers
    }


def _recovered(name: str, values: np.ndarray, axes: tuple[int, ...], max_bits: int) -> Tensor | None:
    """Returns the form of a kernel with the fewest bytes; None if no form gives its values."""
    if not values.size:
        return None
    forms = [_grid(name, values, ()), _grid(name, values, axes), _palette(name, values, axes)]
    found = [form for form in forms if form is not None and form.spec.num_bits <= max_bits]
    smallest = min(found, key=_num_bytes, default=None)
    return smallest if smallest is not None and _num_bytes(smallest) < values.nbytes else None


def _num_bytes(tensor: Tensor) -> float:
    """Returns the bytes of codes, scales and table."""
    if isinstance(tensor, PalettizedTensor):
        return tensor.indices.size * tensor.spec.num_bits / 8 + 4 * tensor.codebook.size
    return tensor.codes.size * tensor.spec.num_bits / 8 + 4 * tensor.scale.size


def _grid(name: str, values: np.ndarray, axes: tuple[int, ...]) -> QuantizedTensor | None:
    """Returns the values as codes times scales, one scale per index of `axes`; None if they lie on no grid."""
    others = tuple(axis for axis in range(values.ndim) if axis not in axes)
    moved = np.transpose(values, (*axes, *others)).reshape(math.prod(values.shape[axis] for axis in axes), -1)
    grids = [_scale_of(row) for row in moved]
    if any(grid is None for grid in grids):
        return None
    scale, largest = (np.array(part) for part in zip(*(grid for grid in grids if grid is not None), strict=True))
    shape = tuple(values.shape[axis] if axis in axes else 1 for axis in range(values.ndim))
    scales = scale.astype(np.float32).reshape([values.shape[axis] for axis in axes] + [1] * len(others))
    scales = np.transpose(scales, np.argsort((*axes, *others))).reshape(shape)
    codes = np.rint(values / scales).astype(np.int8)
    zero_points, levels = np.zeros_like(scales), "mid_tread"
    if np.all(codes % 2):
        # Odd multiples of half a step: a grid without zero needs one bit less.
        codes, scales = (codes - 1) // 2, 2 * scales
        zero_points, levels = zero_points - np.float32(0.5), "mid_rise"
        largest = (largest - 1) // 2
    bits = int(largest.max()).bit_length() + 1
    spec = QuantSpec(num_bits=bits, granularity="per_channel" if axes else "per_tensor", levels=levels)
    return QuantizedTensor(name, codes, scales, zero_points, spec, RangeFigures.of(values))


def _scale_of(values: np.ndarray) -> tuple[np.float32, int] | None:
    """Returns the largest scale of which all values are whole multiples, in float32, and the largest code."""
    different = np.unique(np.abs(values))
    if len(different) > LARGEST_CODE + 1:
        return None
    top = different[-1]
    if top == 0:
        return np.float32(1.0), 1
    for largest in range(1, LARGEST_CODE + 1):
        near = np.float32(top / largest)
        for scale in (near, np.nextafter(near, np.float32(np.inf)), np.nextafter(near, np.float32(0.0))):
            if scale > 0 and np.array_equal(np.rint(different / scale).astype(np.float32) * scale, different):
                return scale, largest
    return None


def _palette(name: str, values: np.ndarray, axes: tuple[int, ...]) -> PalettizedTensor | None:
    """Returns the values as indices into a table; None if there are more than 256."""
    entries, indices = np.unique(values, return_inverse=True)
    if len(entries) > MOST_VALUES:
        return None
    spec = PaletteSpec(num_bits=max(1, (len(entries) - 1).bit_length()), min_size=0)
    table = np.pad(entries, (0, spec.entries - len(entries)), mode="edge")
    layout = PaletteLayout(values.shape, 1, axes, None)
    one = np.ones((1,) * values.ndim, np.float32)
    indices = indices.reshape(values.shape).astype(np.uint8)
    return PalettizedTensor(
        name, indices, table[None, :, None], one.ravel()[:1], one, spec, layout, RangeFigures.of(values)
    )
