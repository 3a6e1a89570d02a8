"""A layer whose input is rounded to 8 bits row by row."""

from __future__ import annotations

from typing import Any

import keras

from r2keras.ops.dynamic import dynamic_quantize


@keras.saving.register_keras_serializable(package="r2keras")
class DynamicInput(keras.layers.Wrapper):
    """Runs a layer on an input whose rows are rounded to 8 bits (`ops.dynamic_quantize`), as some `.tflite` files do.

    Forward: `layer(dynamic_quantize(x))`. Gradient: that of the layer; 1 through the rounding.

    Args:
        layer: a layer with one input, such as `Dense`.
        name: the wrapper's name; None uses the layer's.

    Example:

    >>> layer = DynamicInput(keras.layers.Dense(1, kernel_initializer="ones"))
    >>> float(layer(keras.ops.convert_to_tensor([[0.1, 255.0]]))[0, 0])
    255.0
    """

    # The wrapper and the layer have one name.
    is_r2keras_wrapper = True
    is_dynamic_input = True

    def __init__(self, layer: keras.Layer, name: str | None = None, **kwargs: Any) -> None:
        super().__init__(layer, name=name or layer.name, **kwargs)
        self.supports_masking = layer.supports_masking

    def call(self, inputs):
        """Returns the layer's output."""
        return self.layer(dynamic_quantize(inputs))

    def compute_output_shape(self, input_shape):
        """Returns the layer's output shape."""
        return self.layer.compute_output_shape(input_shape)
