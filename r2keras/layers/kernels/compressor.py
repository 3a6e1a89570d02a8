"""Creation of the quantizer or palette that compresses one kernel."""

from __future__ import annotations

import math
from typing import overload

import keras

from r2keras import quantizers
from r2keras._models.channel_axes import output_axes, scale_shape
from r2keras.layers.kernels.palette import Palette
from r2keras.quantizers.base import WeightQuantizer
from r2keras.record import PaletteLayout
from r2keras.specs import PaletteSpec, QuantSpec


@overload
def compressor(spec: QuantSpec, layer: keras.Layer, variable: keras.Variable, *, name: str) -> WeightQuantizer: ...
@overload
def compressor(
    spec: QuantSpec | PaletteSpec, layer: keras.Layer, variable: keras.Variable, *, name: str
) -> WeightQuantizer | Palette | None: ...
def compressor(
    spec: QuantSpec | PaletteSpec, layer: keras.Layer, variable: keras.Variable, *, name: str
) -> WeightQuantizer | Palette | None:
    """Creates the layer that maps a kernel to the values in the file. The caller initializes it.

    Args:
        spec: the kernel's spec.
        layer: the layer that holds the kernel, directly or in a sublayer.
        variable: the kernel.
        name: the new layer's name.

    Returns:
        A `WeightQuantizer` or a `Palette`; None if the kernel is smaller than the palette's `min_size`.

    Raises:
        ValueError: granularity, vectors or groups that do not fit the kernel.
    """
    if isinstance(spec, QuantSpec):
        return quantizers.make(spec, variable.shape, scale_shape(spec, layer, variable), name=name)
    if math.prod(variable.shape) < spec.min_size:
        return None
    axes = output_axes(layer, variable)
    return Palette(spec, layout_of(spec, variable.shape, axes, variable.path), axes, name=name)


def too_small(spec: PaletteSpec, shape: tuple[int, ...]) -> str:
    """Returns the reason why a kernel stays float although its spec is a palette."""
    return f"its {math.prod(shape)} weights are fewer than the palette's min_size={spec.min_size}"


def layout_of(spec: PaletteSpec, shape: tuple[int, ...], axes: tuple[int, ...], path: str) -> PaletteLayout:
    """Returns the layout of a kernel's palette, and names the kernel in errors."""
    try:
        return PaletteLayout(shape, spec.dim, axes, spec.group_size)
    except ValueError as error:
        raise ValueError(f"The palette does not fit the weight {path}. {error}") from error
