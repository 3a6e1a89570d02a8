"""Uniform quantization of a weight as a layer: it owns the scale where the scale is not a function of the weight."""

from __future__ import annotations

import keras
from keras import ops

from r2keras.ops import affine
from r2keras.specs import QuantSpec


@keras.saving.register_keras_serializable(package="r2keras")
class AffineQuantizer(keras.layers.Layer):
    """Rounds a weight to its grid at every step; gradients pass straight through inside the clip range.

    Forward: `scale * (clip(round(w / scale + zero_point), quant_min, quant_max) - zero_point)`.
    Gradient: `dy/dw = 1` inside the clip range, 0 outside; none to the scale.

    With `range="min_max"` or `"percentile"` the scale is computed from the weight at every step. With `range="mse"` it
    is a non-trainable variable: `initialize` searches it, and every training step moves it by one least-squares round
    (`ops.affine.refine_scale`), so that it follows the weight at the cost of one multiplication. It stays where it is
    while the quantizer is frozen (`trainable=False`).

    Args:
        spec: the grid.
        shape: shape of the weight.
        scale_shape: shape of the scale (`quantizers.axes.scale_shape`).

    Example:

    >>> quantizer = AffineQuantizer(QuantSpec(num_bits=4, range="min_max"), (2, 3), (1, 3))
    >>> ops.convert_to_numpy(quantizer(ops.ones((2, 3)))).tolist()
    [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]

    Source: Jacob et al., arXiv 1712.05877, section 3; Bengio et al., arXiv 1308.3432.
    """

    def __init__(self, spec: QuantSpec | dict, shape: tuple[int, ...], scale_shape: tuple[int, ...], **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.spec = spec if isinstance(spec, QuantSpec) else QuantSpec.from_dict(dict(spec))
        self.shape, self.scale_shape = tuple(shape), tuple(scale_shape)
        if self.spec.range == "mse":
            self.scale = self._constant("scale", "ones")
            self.zero_point = self._constant("zero_point", "zeros")
        self.built = True

    def initialize(self, weight, *, search: bool = True) -> None:
        """Sets the stored scale and zero point from a weight; only `range="mse"` stores them.

        Args:
            weight: float tensor of `shape`.
            search: whether to search the range with the least squared error. False takes the min-max range, which is
                enough for weights that have not been trained: training moves the scale from there.
        """
        if self.spec.range == "mse":
            weight = ops.convert_to_tensor(weight)
            scale, zero_point = self._searched(weight) if search else self._min_max(weight)
            self.scale.assign(scale)
            self.zero_point.assign(zero_point)

    def call(self, weight, training=None):
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
        return self._min_max(ops.stop_gradient(weight))

    def codes(self, weight):
        """Returns the codes of a weight, float32 whole numbers of `shape`."""
        return affine.quantize(weight, *self.grid(weight), *self.limits)

    @property
    def limits(self) -> tuple[int, int]:
        """The lowest and the highest code."""
        return self.spec.quant_min, self.spec.quant_max

    @property
    def offset(self) -> float:
        """The zero point of a symmetric grid: 0, or -1/2 if mid-rise."""
        return -0.5 if self.spec.levels == "mid_rise" else 0.0

    def get_config(self):
        """Returns the constructor's arguments as plain JSON."""
        config = {"spec": self.spec.to_dict(), "shape": list(self.shape), "scale_shape": list(self.scale_shape)}
        return {**super().get_config(), **config}

    def _searched(self, weight):
        return affine.mse_range(weight, self.scale_shape, *self.limits, self.offset, self.spec.symmetric)

    def _min_max(self, weight):
        if self.spec.range == "percentile":
            weight = affine.percentile_clip(weight, self.scale_shape, self.spec.percentile, self.spec.symmetric)
        if not self.spec.symmetric:
            return affine.asymmetric_range(weight, self.scale_shape, *self.limits)
        scale = affine.symmetric_scale(weight, self.scale_shape, *self.limits, self.offset)
        return scale, ops.full(self.scale_shape, self.offset, "float32")

    def _constant(self, name: str, start: str) -> keras.Variable:
        return self.add_weight(shape=self.scale_shape, dtype="float32", initializer=start, trainable=False, name=name)
