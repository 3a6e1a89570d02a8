"""Layers that multiply the rows of their input, and layers that round these rows at run time."""

from __future__ import annotations

import keras

from r2keras._models.rebuild import copy_bidirectional, copy_layer, rebuild
from r2keras._models.walk import ModelView, view_of


def input_axis(layer: keras.Layer) -> int | None:
    """Returns the axis of a kernel that a product over the last axis of the input sums over; None without one.

    Args:
        layer: any layer.

    Example:

    >>> input_axis(keras.layers.Dense(2)), input_axis(keras.layers.Conv2D(2, 1)), input_axis(keras.layers.Conv2D(2, 3))
    (0, 2, None)
    """
    if type(layer) is keras.layers.EinsumDense:
        left, right = layer.equation.replace(" ", "").split("->")
        source, kernel = left.split(",")
        is_row = source[-1] in kernel and source[-1] not in right and not set(source[:-1].strip(".")) & set(kernel)
        return kernel.index(source[-1]) if is_row else None
    if type(layer) in (keras.layers.Conv1D, keras.layers.Conv2D):
        sizes = (*layer.kernel_size, *layer.strides, *layer.dilation_rate, layer.groups)
        return layer.rank if set(sizes) == {1} and layer.data_format == "channels_last" else None
    return 0 if type(layer) is keras.layers.Dense else None


def rounding_layers(view: ModelView) -> dict[str, keras.Layer]:
    """Returns the layers of a model that round the rows of their input at run time, by path."""
    return {path: layer for path, layer in view.layers if _rounds(layer)}


def without_rounding(view: ModelView) -> ModelView:
    """Returns a copy of a model in which no layer rounds rows at run time; the view itself if none does.

    Args:
        view: the model. Names and weights of the copy are the same.
    """
    paths = rounding_layers(view)
    if not paths:
        return view
    return view_of(rebuild(view, lambda path, layer: _plain(layer) if path in paths else None))


def _rounds(layer: keras.Layer) -> bool:
    """Whether a layer, or a half of a `Bidirectional`, rounds rows."""
    if isinstance(layer, keras.layers.Bidirectional):
        return _rounds(layer.forward_layer) or _rounds(layer.backward_layer)
    # Attributes rather than classes, which belong to a higher level.
    return bool(getattr(layer, "is_dynamic_input", False) or getattr(layer, "dynamic_products", False))


def _plain(layer: keras.Layer) -> keras.Layer:
    """Returns a new, unbuilt layer without the rounding."""
    if isinstance(layer, keras.layers.Bidirectional):
        return copy_bidirectional(layer, _plain(layer.forward_layer), _plain(layer.backward_layer))
    if getattr(layer, "is_dynamic_input", False):
        new = copy_layer(layer.layer)
        new.name = layer.name
        return new
    return copy_layer(layer, dynamic_products=False) if _rounds(layer) else copy_layer(layer)
