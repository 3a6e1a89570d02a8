"""Binary weights: a sign and a shared magnitude."""

from __future__ import annotations

import keras
from keras import ops

from r2keras.quantizers.base import WeightQuantizer, mean_magnitude


@keras.saving.register_keras_serializable(package="r2keras")
class BinaryQuantizer(WeightQuantizer):
    """Replaces each weight by its sign times the mean magnitude of the weights that share a scale.

    Forward: `w_q = mean|w|` where `w >= 0`, else `-mean|w|`: on the mid-rise grid of 1 bit, `w_q = scale (code +
    1/2)` with codes -1 and 0 and `scale = 2 mean|w|`, the least-squares fit.
    Gradient: `dw_q/dw = 1` where `|w| <= 1`, else 0.

    Args:
        spec: a spec with `method="binary"`, 1 bit.
        shape: shape of the weight.
        scale_shape: shape of the scale, one entry per group of weights that shares it.

    Example:

    >>> from r2keras import QuantSpec
    >>> quantizer = BinaryQuantizer(QuantSpec(num_bits=1, method="binary"), (1, 3), (1, 1))
    >>> ops.convert_to_numpy(quantizer(ops.convert_to_tensor([[-1.0, 0.25, 0.25]]))).tolist()
    [[-0.5, 0.5, 0.5]]

    Source: Rastegari et al., arXiv 1603.05279, section 3.1 (values); Courbariaux et al., arXiv 1511.00363 (gradient).
    """

    def call(self, weight, training: bool | None = None):
        """Returns the binary weight."""
        return self.straight_through_unit(weight)

    def grid(self, weight):
        """Returns the scale `2 mean|w|` and the zero point -1/2."""
        return 2.0 * mean_magnitude(weight, self.scale_shape), self.symmetric_zero()

    def codes(self, weight):
        """Returns 0 for non-negative weights, -1 for negative ones."""
        return ops.where(ops.cast(weight, "float32") >= 0, 0.0, -1.0)
