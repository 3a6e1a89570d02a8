"""A small NumPy palettizer for the tests of this folder: puts kernels on tables and keeps the record."""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np

from r2keras import PaletteSpec, PalettizedTensor
from r2keras._models.walk import kernels, leaf_layers
from r2keras.record import CompressionRecord, PaletteLayout, RangeFigures
from r2keras.specs import QuantSpec
from tests.export.quantize import channel_axis, quantize_tensor


def spec(num_bits, dim=1, group=None, **more):
    """Returns a spec, per group if a group size is given."""
    granularity = "per_tensor" if group is None else "per_group"
    return PaletteSpec(num_bits=num_bits, dim=dim, granularity=granularity, group_size=group, **more)


def fitting(chosen):
    """Returns the choice of one spec for every kernel, with `dim` and group size made to fit it."""

    def choose(name, shape):
        dim = min(chosen.dim, shape[-1])
        whole = chosen.group_size is None or (shape[-1] % chosen.group_size == 0 and dim == chosen.dim)
        granularity = chosen.granularity if whole else "per_tensor"
        group = chosen.group_size if whole else None
        return dataclasses.replace(chosen, dim=dim, granularity=granularity, group_size=group)

    return choose


def compress(
    model: keras.Model, spec_of: Callable[[str, tuple[int, ...]], PaletteSpec | QuantSpec | None]
) -> CompressionRecord:
    """Sets every kernel to values of its table or grid and returns the record; None keeps a kernel float."""
    tensors, kept = {}, {}
    for path, layer in leaf_layers(model):
        for relative, variable in kernels(layer):
            name = f"{path}/{relative}"
            spec = spec_of(name, tuple(variable.shape))
            if spec is None:
                kept[name] = "the test keeps it"
                continue
            make = palettize_tensor if isinstance(spec, PaletteSpec) else quantize_tensor
            tensors[name] = make(name, variable.numpy(), spec)
            variable.assign(tensors[name].values())
    return CompressionRecord(tensors, kept, model.count_params(), model.name)


def palettize_tensor(name: str, w: np.ndarray, spec: PaletteSpec) -> PalettizedTensor:
    """Palettizes one array: table entries are vectors drawn from it, indices the nearest entries."""
    rng = np.random.default_rng(len(name) + w.size)
    layout = PaletteLayout(w.shape, spec.dim, channel_axes(name, w), spec.group_size)
    scale = np.ones((1,) * w.ndim, np.float32)
    if spec.channel_scale:
        others = tuple(axis for axis in range(w.ndim) if axis not in layout.axes)
        scale = np.abs(w).max(axis=others, keepdims=True)
    vectors = layout.split(w / scale, np)
    table = np.stack([group[rng.choice(len(group), spec.entries)] for group in vectors])
    table_scale = np.ones(layout.groups, np.float32)
    if spec.table_dtype == "int8":
        table_scale = np.abs(table).max(axis=(1, 2)) / 127
        table = np.rint(table / table_scale[:, None, None])
    table = table.astype(spec.table_dtype)
    values = table.astype(np.float32) * table_scale[:, None, None]
    distance = np.square(vectors[:, :, None] - values[:, None]).sum(axis=-1)
    indices = layout.join_indices(distance.argmin(axis=-1).astype(np.uint8), np)
    return PalettizedTensor(name, indices, table, table_scale, scale, spec, layout, RangeFigures.of(w))


def channel_axes(name: str, w: np.ndarray) -> tuple[int, ...]:
    """Returns the output axes of a kernel."""
    if "depthwise" in name and w.ndim > 2:
        return (w.ndim - 2, w.ndim - 1)
    return (channel_axis(name, w),)
