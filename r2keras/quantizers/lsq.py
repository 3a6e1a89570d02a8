"""Learned step size quantization of weights (LSQ), and of activations with an offset (LSQ+)."""

from __future__ import annotations

import math

import keras
from keras import ops

from r2keras.ops import affine
from r2keras.ops.ste import custom_gradient
from r2keras.quantizers.activation import ActivationQuantizer
from r2keras.quantizers.base import WeightQuantizer, mean_magnitude


def learned_step(x, scale, zero_point, quant_min: int, quant_max: int, share: float = 1.0):
    """Rounds a tensor to a grid whose scale is trained.

    Forward: `y = scale * (code - zero_point)`, `v = x / scale + zero_point`, `code = clip(round(v), quant_min,
    quant_max)`.
    Gradient: where `quant_min < v < quant_max`, `dy/dx = 1` and `dy/dscale = round(v) - v`; elsewhere `dy/dx = 0` and
    `dy/dscale = code - zero_point`. The gradient to `scale` is summed over the values that share it and multiplied by
    `share`.

    Args:
        x: float tensor; float16 and bfloat16 are computed in float32.
        scale: positive tensor, the rank of `x` (see `ops.affine`).
        zero_point: tensor of `scale`'s shape; gets no gradient.
        quant_min: lowest code.
        quant_max: highest code.
        share: factor of the scale's gradient.

    Returns:
        Tensor of `x`'s shape and type; in float32 exactly on the grid.

    Example:

    >>> one = ops.ones((1,))
    >>> ops.convert_to_numpy(learned_step(ops.convert_to_tensor([-9.0, 0.4, 0.8]), 0.5 * one, 0 * one, -2, 1)).tolist()
    [-1.0, 0.5, 0.5]

    Source: Esser et al., arXiv 1902.08153, equations 1 to 5.
    """

    @custom_gradient
    def rounded(x, scale, zero_point):
        codes = affine.quantize(x, scale, zero_point, quant_min, quant_max)
        value = ops.cast(affine.dequantize(codes, scale, zero_point), x.dtype)

        def backward(upstream):
            zero = affine.expand(zero_point, x.shape)
            steps = ops.cast(x, "float32") / affine.expand(scale, x.shape) + zero
            inside = ops.logical_and(steps > quant_min, steps < quant_max)
            scale_slope = codes - ops.where(inside, steps, zero)
            to_scale = share * affine.reduce(ops.sum, ops.cast(upstream, "float32") * scale_slope, scale.shape)
            to_x = ops.where(inside, upstream, ops.zeros_like(upstream))
            return to_x, to_scale, ops.zeros_like(zero_point)

        return value, backward

    return rounded(*map(ops.convert_to_tensor, (x, scale, zero_point)))


@keras.saving.register_keras_serializable(package="r2keras")
class LSQQuantizer(WeightQuantizer):
    """Rounds a weight to a grid whose scale `s` is trained with the model.

    Forward: `w_q = s (code - z)`, `v = w / s + z`, `code = clip(round(v), quant_min, quant_max)`; `z = 0` for a
    mid-tread grid, `-1/2` for a mid-rise one.
    Gradient: where `quant_min < v < quant_max`, `dw_q/dw = 1` and `dw_q/ds = round(v) - v`; elsewhere 0 and `code - z`.
    The gradient to `s` is multiplied by `1 / sqrt(n Qp)`, `n` weights per entry of `s`, `Qp = quant_max - z`.

    `s` starts at `2 mean|w| / sqrt(Qp)`. Mid-rise grids are not in the paper; its formulas hold with `z = -1/2`.

    Args:
        spec: a spec with `method="lsq"`.
        shape: shape of the weight.
        scale_shape: shape of the scale, one entry per group of weights that shares it.

    Example:

    >>> from r2keras import QuantSpec
    >>> quantizer = LSQQuantizer(QuantSpec(num_bits=3, method="lsq"), (1, 3), (1, 1))
    >>> quantizer.initialize(ops.convert_to_tensor([[-0.5, 0.1, 1.5]]))
    >>> ops.convert_to_numpy(quantizer.codes(ops.convert_to_tensor([[-0.5, 0.1, 1.5]]))).tolist()
    [[-1.0, 0.0, 2.0]]

    Source: Esser et al., arXiv 1902.08153, section 2.
    """

    def make_variables(self) -> None:
        """Adds the trained scale."""
        self.scale = self.scalar("scale")

    def initialize(self, weight, *, search: bool = True) -> None:
        """Sets the scale to `2 mean|w| / sqrt(Qp)`.

        Args:
            weight: float tensor of `shape`.
            search: has no effect, because the start value is cheap.
        """
        start = 2.0 / math.sqrt(self.spec.quant_max - self.offset)
        self.scale.assign(start * mean_magnitude(ops.convert_to_tensor(weight), self.scale_shape))

    def call(self, weight, training: bool | None = None):
        """Returns the fake-quantized weight."""
        scale, zero_point = self.grid(weight)
        return learned_step(weight, scale, zero_point, *self.limits, self.gradient_share)

    def grid(self, weight):
        """Returns the trained scale, kept positive, and the zero point."""
        return positive(self.scale), self.symmetric_zero()


def positive(variable):
    """Returns `|v|`, floored so that a trained scale stays valid if an optimizer step takes it past zero."""
    return affine.floored(ops.abs(ops.convert_to_tensor(variable)))


@keras.saving.register_keras_serializable(package="r2keras")
class LSQActivation(ActivationQuantizer):
    """Rounds a tensor to a grid with a trained step `s` and, for signed values, a trained lower end `l` (LSQ+).

    Forward: `y = s (code - zero_point)`, `code = clip(round(x / s + zero_point), quant_min, quant_max)`, where
    `zero_point = round(quant_min - l / s)` keeps zero on the grid (LSQ+ has a real offset); `l = 0` if unsigned.
    Gradient: inside the range `dy/dx = 1`, `dy/ds = round(v) - v` for `v = x / s + zero_point`; outside 0 and
    `code - quant_min`, and `dy/dl = 1`. Those to `s` and `l` are multiplied by `1 / sqrt(n Qp)`, `n` features per
    sample.

    The first batch, or calibration, sets the start: `Qp s = 2 sqrt(2 Qp / pi) rms(x)`, with `Qp = 2^b - 1` unsigned,
    else half of that and `l = -Qp s`; neither end lies beyond the tensor's own. The paper uses `mean|x|` in place of
    `sqrt(2 / pi) rms(x)`, which is the same for normally distributed values. The trained variables are ratios to the
    start.

    Args:
        spec: a spec with `method="lsq"`.

    Example:

    >>> from r2keras.specs import ActivationSpec
    >>> quantizer = LSQActivation(ActivationSpec(num_bits=2, method="lsq"))
    >>> ops.convert_to_numpy(quantizer(ops.convert_to_tensor([-1.0, 0.4, 2.0]))).tolist()
    [-1.0, 0.0, 2.0]

    Source: Esser et al., arXiv 1902.08153, section 2; Bhalgat et al., arXiv 2004.09576, section 3.
    """

    def make_variables(self) -> None:
        """Adds the step, and the lower end of a signed range, relative to the stored ones."""
        self.step = self.gain("step")
        self.lower = None if self.spec.unsigned else self.gain("lower")

    def learned(self, low, high):
        """Returns the range that starts at the trained lower end and has the trained step."""
        lower = low if self.lower is None else low * ops.abs(self.lower + 0.0)
        return lower, lower + (high - low) * ops.abs(self.step + 0.0)
