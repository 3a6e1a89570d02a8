"""Weight and activation quantizers of DoReFa-Net."""

from __future__ import annotations

import keras
from keras import ops

from r2keras.ops import affine
from r2keras.quantizers.activation import ActivationQuantizer
from r2keras.quantizers.base import WeightQuantizer, mean_magnitude


@keras.saving.register_keras_serializable(package="r2keras")
class DoReFaQuantizer(WeightQuantizer):
    """Squashes a weight by tanh, scales it to [-1, 1] and rounds it to `2^b` levels; 1 bit keeps the mean magnitude.

    Forward, 2 bits or more: `t = tanh w`, `x = t / (2 max|t|) + 1/2`, `w_q = 2 round(n x) / n - 1`, `n = 2^b - 1`: on
    the mid-rise grid, `w_q = scale (code + 1/2)` with `code = round(n x) - 2^(b-1)` and the constant `scale = 2 / n`.
    Gradient: `dw_q/dw = (1 - t^2) / max|t|`, with the maximum as a constant.
    Forward, 1 bit: `w_q = sign(w) mean|w|`, so `scale = 2 mean|w|`. Gradient: `dw_q/dw = 1`.

    The levels lie in [-1, 1] whatever the weight's own range, so batch normalization must follow the layer, or the
    model must learn its biases again. The paper takes maximum and mean over the whole tensor
    (`granularity="per_tensor"`).

    Args:
        spec: a spec with `method="dorefa"`.
        shape: shape of the weight.
        scale_shape: shape of the scale, one entry per group of weights that shares it.

    Example:

    >>> from r2keras import QuantSpec
    >>> quantizer = DoReFaQuantizer(QuantSpec(num_bits=2, method="dorefa"), (1, 3), (1, 1))
    >>> ops.convert_to_numpy(quantizer(ops.convert_to_tensor([[-0.9, -0.1, 0.9]]))).round(3).tolist()
    [[-1.0, -0.3330000042915344, 1.0]]

    Source: Zhou et al., arXiv 1606.06160, equations 7 to 9.
    """

    def call(self, weight, training: bool | None = None):
        """Returns the fake-quantized weight."""
        return self.with_gradient(weight, self._gradient)

    def grid(self, weight):
        """Returns the scale `2 / n` (1 bit: `2 mean|w|`) and the zero point -1/2."""
        if self.spec.num_bits == 1:
            return 2.0 * mean_magnitude(weight, self.scale_shape), self.symmetric_zero()
        return ops.full(self.scale_shape, 2.0 / self.num_steps, "float32"), self.symmetric_zero()

    def codes(self, weight):
        """Returns the codes of a weight: its rounded position in [-1, 1] after tanh, or its sign."""
        if self.spec.num_bits == 1:
            return ops.where(ops.cast(weight, "float32") >= 0, 0.0, -1.0)
        squashed, largest = self._squashed(weight)
        return ops.round(self.num_steps * (squashed / (2.0 * largest) + 0.5)) + self.spec.quant_min

    def _squashed(self, weight):
        """Returns `tanh w` and `max|tanh w|`, the latter repeated for every weight."""
        squashed = ops.tanh(ops.cast(weight, "float32"))
        largest = affine.floored(affine.reduce(ops.max, ops.abs(squashed), self.scale_shape))
        return squashed, affine.expand(largest, squashed.shape)

    def _gradient(self, upstream, weight):
        if self.spec.num_bits == 1:
            return upstream
        squashed, largest = self._squashed(weight)
        return upstream * ops.cast((1.0 - ops.square(squashed)) / largest, upstream.dtype)


@keras.saving.register_keras_serializable(package="r2keras")
class DoReFaActivation(ActivationQuantizer):
    """Clips a tensor to [0, 1] and rounds it to `2^b - 1` steps there.

    Forward: `y = round(n clip(x, 0, 1)) / n`, `n = 2^b - 1`. Gradient: `dy/dx = 1` where `0 <= x <= 1`, else 0.
    As an extension of the paper, a tensor with negative values is clipped to [-1, 1]. The range does not depend on the
    data, so batch normalization must come before. WRPN's activations are the same.

    Args:
        spec: a spec with `method="dorefa"`.

    Example:

    >>> from r2keras.specs import ActivationSpec
    >>> quantizer = DoReFaActivation(ActivationSpec(num_bits=2, method="dorefa", unsigned=True))
    >>> ops.convert_to_numpy(quantizer(ops.convert_to_tensor([-1.0, 0.9, 3.0]))).tolist()
    [0.0, 1.0, 1.0]

    Source: Zhou et al., arXiv 1606.06160, equation 11.
    """

    def make_variables(self) -> None:
        """Sets the fixed range."""
        self._store(*self.find(None))

    def find(self, x):
        """Returns [0, 1], or [-1, 1] if values can be negative."""
        return (ops.zeros(()) if self.spec.unsigned else -ops.ones(())), ops.ones(())

    @property
    def needs_values(self) -> bool:
        """Returns False: the range is fixed."""
        return False

    def over(self, observed):
        """Returns the fixed range."""
        return self.find(None)
