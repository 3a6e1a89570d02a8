"""A small NumPy quantizer for the tests of this folder: puts a model's kernels on a grid and keeps the record."""

from collections.abc import Callable

import keras
import numpy as np

from r2keras._models.walk import kernels, leaf_layers
from r2keras.record import CompressionRecord, QuantizedTensor, RangeFigures, broadcast_scales
from r2keras.specs import QuantSpec

GRIDS = [(True, "mid_tread"), (True, "mid_rise"), (False, "mid_tread")]


def specs():
    """Yields every width, sharing and grid."""
    for num_bits in range(1, 9):
        for granularity in ("per_tensor", "per_channel", "per_group"):
            for symmetric, levels in GRIDS:
                if num_bits > 1 or levels == "mid_rise" or not symmetric:
                    size = 4 if granularity == "per_group" else None
                    yield QuantSpec(
                        num_bits=num_bits,
                        granularity=granularity,
                        group_size=size,
                        symmetric=symmetric,
                        levels=levels,
                    )


def quantize(model: keras.Model, spec_of: Callable[[str], QuantSpec | None]) -> CompressionRecord:
    """Sets every kernel to `scale * (code - zero_point)` and returns the record; None keeps a kernel float."""
    tensors, kept = {}, {}
    for path, layer in leaf_layers(model):
        for relative, variable in kernels(layer):
            name = f"{path}/{relative}"
            spec = spec_of(name)
            if spec is None:
                kept[name] = "the test keeps it"
                continue
            tensors[name] = quantize_tensor(name, variable.numpy(), spec)
            variable.assign(tensors[name].values())
    return CompressionRecord(tensors, kept, model.count_params(), model.name)


def quantize_tensor(name: str, w: np.ndarray, spec: QuantSpec) -> QuantizedTensor:
    """Quantizes one array by minimum and maximum."""
    low, high = _bounds(name, w, spec)
    if spec.symmetric:
        largest = np.maximum(np.abs(low), np.abs(high))
        half = 0.5 if spec.levels == "mid_rise" else 0.0
        scale = largest / (spec.quant_max + half)
        zero_point = np.full(scale.shape, -half)
    else:
        low, high = np.minimum(low, 0), np.maximum(high, 0)
        scale = (high - low) / (spec.quant_max - spec.quant_min)
        safe = np.where(scale > 0, scale, 1.0)
        zero_point = np.clip(np.rint(spec.quant_min - low / safe), spec.quant_min, spec.quant_max)
    scale = np.where(scale > 0, scale, 1.0).astype(np.float32)
    steps = w / broadcast_scales(scale, w.shape) + broadcast_scales(zero_point, w.shape)
    codes = np.clip(np.rint(steps), spec.quant_min, spec.quant_max).astype(np.int8)
    return QuantizedTensor(name, codes, scale, zero_point.astype(np.float32), spec, RangeFigures.of(w))


def channel_axis(name: str, w: np.ndarray) -> int:
    """Returns the output axis of a kernel."""
    return w.ndim - 2 if "depthwise" in name or name.startswith("transpose") else w.ndim - 1


def _bounds(name: str, w: np.ndarray, spec: QuantSpec) -> tuple[np.ndarray, np.ndarray]:
    """Returns minimum and maximum over whatever shares a scale, with the rank of `w`."""
    if spec.granularity == "per_tensor":
        return w.min(keepdims=True).reshape((1,) * w.ndim), w.max(keepdims=True).reshape((1,) * w.ndim)
    out = channel_axis(name, w)
    if spec.granularity == "per_channel":
        axes = tuple(a for a in range(w.ndim) if a != out)
        return w.min(axis=axes, keepdims=True), w.max(axis=axes, keepdims=True)
    axis = w.ndim - 2 if out == w.ndim - 1 else w.ndim - 1
    group = spec.group_size if w.shape[axis] % spec.group_size == 0 else w.shape[axis]
    split = w.reshape(*w.shape[:axis], w.shape[axis] // group, group, *w.shape[axis + 1 :])
    others = tuple(a if a < axis else a + 1 for a in range(w.ndim) if a not in (axis, out))
    low = split.min(axis=(*others, axis + 1), keepdims=True).squeeze(axis + 1)
    return low, split.max(axis=(*others, axis + 1), keepdims=True).squeeze(axis + 1)
