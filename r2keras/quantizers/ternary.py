"""Ternary weights: zero, or a sign times a shared magnitude."""

from __future__ import annotations

import keras
from keras import ops

from r2keras.ops import affine
from r2keras.quantizers.base import WeightQuantizer, mean_magnitude

# The paper's threshold, in mean magnitudes.
THRESHOLD = 0.7


@keras.saving.register_keras_serializable(package="r2keras")
class TernaryQuantizer(WeightQuantizer):
    """Sets small weights to zero and replaces the others by their sign times their mean magnitude.

    Forward: `t = 0.7 mean|w|`; `code = sign(w)` where `|w| > t`, else 0; `w_q = scale code` with `scale` the mean of
    `|w|` over the weights above `t`: the narrow mid-tread grid of 2 bits.
    Gradient: `dw_q/dw = 1`.

    Args:
        spec: a spec with `method="ternary"`, 2 bits.
        shape: shape of the weight.
        scale_shape: shape of the scale and of the threshold, one entry per group of weights that shares them.

    Example:

    >>> from r2keras import QuantSpec
    >>> quantizer = TernaryQuantizer(QuantSpec(num_bits=2, method="ternary"), (1, 4), (1, 1))
    >>> ops.convert_to_numpy(quantizer(ops.convert_to_tensor([[-1.0, 0.25, 0.25, 2.0]]))).tolist()
    [[-1.5, 0.0, 0.0, 1.5]]

    Source: Li et al., arXiv 1605.04711, sections 2.2 and 2.3.
    """

    def call(self, weight, training: bool | None = None):
        """Returns the ternary weight."""
        return self.with_gradient(weight, lambda upstream, weight: upstream)

    def grid(self, weight):
        """Returns the mean magnitude of the nonzero weights and the zero point 0."""
        nonzero = ops.abs(self.codes(weight))
        total = affine.reduce(ops.sum, nonzero * ops.abs(ops.cast(weight, "float32")), self.scale_shape)
        count = affine.reduce(ops.sum, nonzero, self.scale_shape)
        return affine.floored(total / ops.maximum(count, 1.0)), self.symmetric_zero()

    def codes(self, weight):
        """Returns -1, 0 and 1."""
        weight = ops.cast(weight, "float32")
        threshold = affine.expand(THRESHOLD * mean_magnitude(weight, self.scale_shape), weight.shape)
        return ops.where(ops.abs(weight) > threshold, ops.sign(weight), 0.0)
