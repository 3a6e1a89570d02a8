"""Balanced weights: levels scaled by the weight's mean magnitude, so that all of them are used."""

from __future__ import annotations

import keras
from keras import ops

from r2keras.ops import affine
from r2keras.quantizers.base import WeightQuantizer, mean_magnitude

# The paper's range of the levels, in mean magnitudes.
REACH = 2.5


@keras.saving.register_keras_serializable(package="r2keras")
class BalancedQuantizer(WeightQuantizer):
    """Squashes a weight by tanh and rounds it to `2^b` levels over 2.5 times its mean magnitude.

    Forward: `v = tanh w`, `s = 2.5 mean|v|`, `x = clip(v / s, -1/2, 1/2) + 1/2`, `w_q = s (round(n x) / n - 1/2)`,
    `n = 2^b - 1`: on the mid-rise grid, `w_q = scale (code + 1/2)` with `code = round(n x) - 2^(b-1)` and
    `scale = s / n`.
    Gradient: `dw_q/dw = 1 - v^2` where `|v| <= s / 2`, else 0; `s` is a constant.

    For bell-shaped weights, the threshold `s / 2` clips a third of them, and all levels are used about equally often.
    The paper takes the mean over the whole matrix (`granularity="per_tensor"`).

    Args:
        spec: a spec with `method="balanced"`.
        shape: shape of the weight.
        scale_shape: shape of the scale, one entry per group of weights that shares it.

    Example:

    >>> from r2keras import QuantSpec
    >>> quantizer = BalancedQuantizer(QuantSpec(num_bits=2, method="balanced"), (1, 4), (1, 1))
    >>> ops.convert_to_numpy(quantizer(ops.convert_to_tensor([[-0.2, -0.01, 0.01, 0.2]]))).round(3).tolist()
    [[-0.12999999523162842, -0.0430000014603138, 0.0430000014603138, 0.12999999523162842]]

    Source: He et al., arXiv 1611.10176, section 2.2.
    """

    def call(self, weight, training: bool | None = None):
        """Returns the fake-quantized weight."""
        return self.with_gradient(weight, self._gradient)

    def grid(self, weight):
        """Returns the scale `s / n` and the zero point -1/2."""
        squashed = ops.tanh(ops.cast(weight, "float32"))
        return mean_magnitude(squashed, self.scale_shape) * (REACH / self.num_steps), self.symmetric_zero()

    def codes(self, weight):
        """Returns the codes of a weight: its rounded position in `[-s / 2, s / 2]` after tanh."""
        squashed, reach = self._squashed(weight)
        position = ops.clip(squashed / reach, -0.5, 0.5) + 0.5
        return ops.round(self.num_steps * position) + self.spec.quant_min

    def _gradient(self, upstream, weight):
        squashed, reach = self._squashed(weight)
        slope = ops.where(ops.abs(squashed) <= 0.5 * reach, 1.0 - ops.square(squashed), 0.0)
        return upstream * ops.cast(slope, upstream.dtype)

    def _squashed(self, weight):
        """Returns `tanh w` and `s`, the latter repeated for every weight."""
        squashed = ops.tanh(ops.cast(weight, "float32"))
        return squashed, affine.expand(REACH * mean_magnitude(squashed, self.scale_shape), squashed.shape)
