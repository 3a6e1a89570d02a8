"""Layer that rounds activations to a fixed grid in a finalized tf_keras model."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tf_keras

from r2keras.layers.quantize_activation import GridForm


@tf_keras.utils.register_keras_serializable(package="r2keras")
class GridActivation(GridForm, tf_keras.layers.Layer):
    """Rounds its input to a fixed grid, as `r2keras.layers.GridActivation` does in Keras 3. It has no weights.

    Forward: `y = scale * (clip(round(x / scale + zero_point), -2^(b-1), 2^(b-1) - 1) - zero_point)` with
    `b = num_bits`. Gradient: that of the rounding, 0 everywhere, so the layer is for inference only.

    Args:
        scale: step of the grid, positive, in the input's units.
        zero_point: the integer code of zero, in `[-2^(b-1), 2^(b-1) - 1]`.
        num_bits: bits per code, 2 to 8.

    Raises:
        ValueError: a value out of range.

    Example:

    >>> layer = GridActivation(scale=0.5, zero_point=-2, num_bits=2)
    >>> layer(tf.constant([-1.0, 0.6, 9.0])).numpy().tolist()
    [0.0, 0.5, 1.5]

    Source: Jacob et al., arXiv 1712.05877, section 2.1.
    """

    # `r2keras.export` sets `marks` during a conversion: `call` then uses TensorFlow's fake quantization, by which the
    # converter recognizes the grid.
    marks = False

    def __init__(self, *, scale: float, zero_point: int, num_bits: int, **kwargs: Any):
        super().__init__(**kwargs)
        self._set_grid(scale, zero_point, num_bits)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the rounded tensor."""
        if self.marks:
            low, high = (self.scale * (end - self.zero_point) for end in (-128, 127))
            return tf.quantization.fake_quant_with_min_max_args(inputs, min=low, max=high, num_bits=8)
        return tf.cast(self._rounded(tf.cast(inputs, "float32")), inputs.dtype)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as plain JSON."""
        return {**super().get_config(), **self._grid_config()}
