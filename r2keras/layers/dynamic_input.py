"""A layer that rounds the rows of its products to 8 bits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras

from r2keras._models.row_products import products, rounded_rows
from r2keras._util.errors import invalid, invalid_part
from r2keras.layers.wrappers.any_layer import AnyLayer


@keras.saving.register_keras_serializable(package="r2keras")
class DynamicInput(AnyLayer):
    """Runs a layer whose products get rows rounded to 8 bits (`ops.dynamic_quantize`), as some `.tflite` files do.

    Forward: for `Dense`, `layer(dynamic_quantize(x))`. Inside `MultiHeadAttention`, `GroupQueryAttention` and
    `TimeDistributed`, the inputs of the projections and of the inner layer are rounded; in a separable convolution, the
    output of the depthwise half. An `EinsumDense` that sums over several axes gets rows along all of them. Gradient:
    that of the layer; 1 through the rounding.

    Args:
        layer: a layer that multiplies rows, itself or inside.
        kernels: names, relative to the layer, of the kernels in front of which rows are rounded (`"query/kernel"`);
            None stands for all of them.
        name: the wrapper's name; None uses the layer's.

    Raises:
        TypeError: `layer` is not a layer, or is a model or already wrapped.
        ValueError: the layer multiplies no rows; a name in `kernels` is not that of a kernel that multiplies rows.

    Example:

    >>> layer = DynamicInput(keras.layers.Dense(1, kernel_initializer="ones"))
    >>> float(layer(keras.ops.convert_to_tensor([[0.1, 255.0]]))[0, 0])
    255.0
    """

    is_dynamic_input = True

    def __init__(
        self, layer: keras.Layer, kernels: Iterable[str] | None = None, *, name: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(layer, name=name, **kwargs)
        self.kernels = None if kernels is None else tuple(kernels)
        self._finish_build()

    def set_up(self, *, trained: bool) -> None:
        """Checks the names of the kernels."""
        known = products(self.layer)
        if not known:
            received = f"the layer {self.layer.name!r} ({type(self.layer).__name__}), which multiplies none"
            raise ValueError(invalid_part("layer", "a layer of Keras that multiplies rows, such as Dense", received))
        for name in self.kernels or ():
            if name not in known:
                expected = f"names of kernels of {self.layer.name!r} that multiply rows: {list(known)}"
                raise ValueError(invalid("kernels", expected, name))

    def call(self, inputs, *args: Any, training: bool | None = None, **kwargs: Any):
        """Returns the layer's output."""
        with rounded_rows(self.layer, self.kernels):
            return self.run(inputs, *args, training=training, **kwargs)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as plain JSON."""
        return {**super().get_config(), "kernels": None if self.kernels is None else list(self.kernels)}
