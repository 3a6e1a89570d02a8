"""Weights of wide reduced-precision networks (WRPN)."""

from __future__ import annotations

import keras
from keras import ops

from r2keras.quantizers.base import WeightQuantizer


@keras.saving.register_keras_serializable(package="r2keras")
class WRPNQuantizer(WeightQuantizer):
    """Clips a weight to [-1, 1] and rounds it to `2^(b-1) - 1` steps on each side of zero.

    Forward: `w_q = round(n clip(w, -1, 1)) / n`, `n = 2^(b-1) - 1`: on the narrow mid-tread grid, `w_q = scale code`
    with the constant `scale = 1 / n`.
    Gradient: `dw_q/dw = 1` where `|w| <= 1`, else 0.

    The grid does not adapt to the weight: weights much smaller than `1 / n` all become zero. The paper widens layers as
    bits shrink. Train from scratch, with batch normalization.

    Args:
        spec: a spec with `method="wrpn"`, 2 bits or more.
        shape: shape of the weight.
        scale_shape: shape of the scale; all its entries are equal.

    Example:

    >>> from r2keras import QuantSpec
    >>> quantizer = WRPNQuantizer(QuantSpec(num_bits=2, method="wrpn"), (1, 4), (1, 1))
    >>> ops.convert_to_numpy(quantizer(ops.convert_to_tensor([[-3.0, 0.4, 0.6, 1.0]]))).tolist()
    [[-1.0, 0.0, 1.0, 1.0]]

    Source: Mishra et al., arXiv 1709.01134, section 5.
    """

    def call(self, weight, training: bool | None = None):
        """Returns the fake-quantized weight."""
        return self.straight_through_unit(weight)

    def grid(self, weight):
        """Returns the scale `1 / n` and the zero point 0."""
        return ops.full(self.scale_shape, 1.0 / self.spec.quant_max, "float32"), self.symmetric_zero()
