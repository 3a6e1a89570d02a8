"""Straight-through uniform quantization of a weight, with a scale computed from the weight rather than trained."""

from __future__ import annotations

import keras
from keras import ops

from r2keras.ops import affine
from r2keras.ops.percentile import clip_to_percentile
from r2keras.quantizers import grid_search
from r2keras.quantizers.base import WeightQuantizer


@keras.saving.register_keras_serializable(package="r2keras")
class AffineQuantizer(WeightQuantizer):
    """Rounds a weight to its grid at every step; gradients pass straight through inside the clip range.

    Forward: `scale * (clip(round(w / scale + zero_point), quant_min, quant_max) - zero_point)`.
    Gradient: `dy/dw = 1` inside the clip range, 0 outside; none to the scale.

    With `range="min_max"` or `"percentile"`, the scale is computed from the weight at every step (a percentile sorts
    the weight). With `range="mse"`, it is a non-trainable variable: `initialize` searches for it, and every training
    step updates it by one least-squares round (`ops.affine.refine_scale`), which follows the weight at low cost. It
    does not change while the quantizer is frozen (`trainable=False`).

    Args:
        spec: the grid.
        shape: shape of the weight.
        scale_shape: shape of the scale, one entry per group of weights that shares it.

    Example:

    >>> from r2keras import QuantSpec
    >>> quantizer = AffineQuantizer(QuantSpec(num_bits=4, range="min_max"), (2, 3), (1, 3))
    >>> ops.convert_to_numpy(quantizer(ops.ones((2, 3)))).tolist()
    [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]

    Source: Jacob et al., arXiv 1712.05877, section 3; Bengio et al., arXiv 1308.3432.
    """

    def make_variables(self) -> None:
        """Adds the stored scale and zero point if `range="mse"`; other ranges store nothing."""
        if self.spec.range == "mse":
            self.scale = self.scalar("scale", trainable=False)
            self.zero_point = self.scalar("zero_point", "zeros", trainable=False)

    def initialize(self, weight, *, search: bool = True) -> None:
        """Sets the stored scale and zero point from a weight if `range="mse"`; other ranges store nothing.

        Args:
            weight: float tensor of `shape`.
            search: whether to search for the range with the least squared error. False uses the min-max range, which is
                enough for weights that have not been trained: training updates the scale from there.
        """
        if self.spec.range == "mse":
            weight = ops.convert_to_tensor(weight)
            scale, zero_point = self._mse_range(weight) if search else self._min_max(weight)
            self.scale.assign(scale)
            self.zero_point.assign(zero_point)

    def call(self, weight, training: bool | None = None):
        """Returns the fake-quantized weight."""
        scale, zero_point = self.grid(weight)
        if training and self.trainable and self.spec.range == "mse":
            scale = affine.refine_scale(ops.stop_gradient(weight), scale, zero_point, *self.limits)
            self.scale.assign(scale)
        return affine.fake_quantize(weight, scale, zero_point, *self.limits)

    def grid(self, weight):
        """Returns the scale and zero point for a weight, float32 tensors of `scale_shape`."""
        if self.spec.range == "mse":
            return ops.convert_to_tensor(self.scale), ops.convert_to_tensor(self.zero_point)
        weight = ops.stop_gradient(weight)
        if self.spec.range == "percentile":
            weight = clip_to_percentile(weight, self.scale_shape, self.spec.percentile, self.spec.symmetric)
        return self._min_max(weight)

    def _mse_range(self, weight):
        weight = ops.cast(weight, "float32")
        unit = affine.unit(affine.reduce(ops.max, ops.abs(weight), self.scale_shape))
        scaled = weight * affine.expand(unit, self.shape)
        grid = self.scale_shape, *self.limits, self.offset, self.spec.symmetric
        scale, zero_point = grid_search.mse_range(scaled, *grid)
        return affine.floored(scale / unit), zero_point

    def _min_max(self, weight):
        if not self.spec.symmetric:
            return affine.asymmetric_range(weight, self.scale_shape, *self.limits)
        scale = affine.symmetric_scale(weight, self.scale_shape, *self.limits, self.offset)
        return scale, self.symmetric_zero()
