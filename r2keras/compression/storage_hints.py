"""Hints about kernels that take more bytes in a file than their bits suggest, known before anything is quantized."""

from __future__ import annotations

import dataclasses
import math

from r2keras._models.channel_axes import output_axes, scale_shape
from r2keras._models.walk import Kernel, ModelView
from r2keras._util.hints import log_once
from r2keras._util.text import count
from r2keras.compression.weight_plan import WeightPlan
from r2keras.export.weights.uniform import container_bits
from r2keras.specs import PaletteSpec, QuantSpec

# Bytes in a .tflite file beside codes and tables. Files with one Dense layer or convolution of C = 32 or 128 channels
# are larger with a palette than with a grid: by 656 - 12 C bytes at 4 bits, with a table of 64; by 336 - 4 C at 2.
PALETTE_OPERATORS = 592
GRID_OPERATORS = {"mid_tread": 0, "mid_rise": 272}
BYTES_PER_SCALE = {"mid_tread": 12, "mid_rise": 4}
BYTES = {"float32": 4, "float16": 2, "int8": 1}
# Names in one hint.
MOST_NAMES = 4


def log_storage_hints(view: ModelView, plan: WeightPlan) -> None:
    """Logs the hints of `storage_hints`: on containers each once, on palettes once per model."""
    containers, palettes = storage_hints(view, plan)
    for hint in containers:
        log_once(hint)
    if palettes:
        log_once(" ".join(palettes), f"palettes of {view.model.name}")


def storage_hints(view: ModelView, plan: WeightPlan) -> tuple[list[str], list[str]]:
    """Returns hints on bits that a file stores in wider containers, and on palettes that take more bytes than grids.

    Args:
        view: the model.
        plan: the specs of its kernels.
    """
    kernels = [(kernel, plan[kernel.path].get(kernel.name)) for kernel in view.kernels if kernel.path in plan]
    sizes = [_size(view, kernel, spec) for kernel, spec in kernels if isinstance(spec, PaletteSpec)]
    floats = {size.name for size in sizes if size.is_float}
    stored = {spec.num_bits for kernel, spec in kernels if spec is not None and kernel.full_name not in floats}
    containers = [_container_hint(num_bits) for num_bits in sorted(stored) if container_bits(num_bits) != num_bits]
    large = [size for size in sizes if size.palette > size.grid]
    by_form = (
        ([size for size in large if size.is_float], _float_hint),
        ([s for s in large if not s.is_float], _palette_hint),
    )
    return containers, [text(some) for some, text in by_form if some]


@dataclasses.dataclass(frozen=True)
class _Size:
    """Bytes of a kernel under a palette (as float, if it has fewer weights than `min_size`), and on a grid."""

    name: str
    is_float: bool
    palette: int
    grid: int


def _size(view: ModelView, kernel: Kernel, spec: PaletteSpec) -> _Size:
    """Returns the bytes of a kernel in a file, about."""
    shape, layer = tuple(kernel.variable.shape), view.layers_by_path[kernel.path]
    num_weights = math.prod(shape)
    grid = QuantSpec(math.ceil(spec.bits_per_weight))
    num_scales = math.prod(scale_shape(grid, layer, kernel.variable))
    grid_bytes = container_bits(grid.num_bits) * num_weights // 8 + GRID_OPERATORS[grid.levels or "mid_tread"]
    grid_bytes += BYTES_PER_SCALE[grid.levels or "mid_tread"] * num_scales
    if num_weights < spec.min_size:
        return _Size(kernel.full_name, True, BYTES["float32"] * num_weights, grid_bytes)
    channels = math.prod(shape[axis] for axis in output_axes(layer, kernel.variable))
    indices = num_weights // shape[-1] * math.ceil(shape[-1] / spec.dim)
    tables = spec.entries * spec.dim * BYTES[spec.table_dtype] * (channels // (spec.group_size or channels))
    scales = BYTES["float32"] * channels * spec.channel_scale
    bytes_of_indices = container_bits(spec.num_bits) * indices // 8
    return _Size(kernel.full_name, False, bytes_of_indices + tables + scales + PALETTE_OPERATORS, grid_bytes)


def _container_hint(num_bits: int) -> str:
    """Returns the hint on bits that need a wider container."""
    wide = container_bits(num_bits)
    narrow = f", or {wide // 2}" if wide // 2 in (2, 4) else ""
    return (
        f"A .tflite file of to_litert stores {num_bits}-bit weights in {wide}-bit containers: they take as many bytes "
        f"as {wide}-bit weights. Choose {wide} bits, which keep more accuracy{narrow}."
    )


def _float_hint(sizes: list[_Size]) -> str:
    """Returns the hint on kernels that a palette leaves float."""
    return (
        f"{_names(sizes)} have fewer weights than the palette's min_size and stay float: about "
        f"{count(sum(size.palette for size in sizes))} bytes in a file, where grids of as many bits take "
        f"{count(sum(size.grid for size in sizes))}. Give these layers a QuantSpec."
    )


def _palette_hint(sizes: list[_Size]) -> str:
    """Returns the hint on palettes that are larger than grids."""
    return (
        f"The palettes of {_names(sizes)} take about {count(sum(size.palette for size in sizes))} bytes in a file, "
        f"where grids of as many bits take {count(sum(size.grid for size in sizes))}, because of tables and look-ups. "
        "Where bytes matter, give these layers a QuantSpec."
    )


def _names(sizes: list[_Size]) -> str:
    """Returns the first names as text."""
    names = ", ".join(size.name for size in sizes[:MOST_NAMES])
    return f"{names} and {len(sizes) - MOST_NAMES} more" if len(sizes) > MOST_NAMES else names
