"""What every quantizer of weights is: a layer that owns its learned scalars and turns a weight into grid values."""

from __future__ import annotations

import math

import keras
import numpy as np
from keras import ops

from r2keras.ops import affine
from r2keras.ops.ste import custom_gradient
from r2keras.record import QuantizedTensor, RangeFigures, Tensor
from r2keras.specs import QuantSpec


class WeightQuantizer(keras.layers.Layer):
    """Turns a weight into `scale * (code - zero_point)`, exactly in float32, with codes in the limits of its spec.

    Subclasses implement `call` and `grid`, and where they have variables, `make_variables` and `initialize`. Where the
    codes are not simply the nearest ones on the grid, they implement `codes` too.

    Args:
        spec: the grid and the method.
        shape: shape of the weight.
        scale_shape: shape of the scale (`quantizers.axes.scale_shape`): one entry for each group of weights that
            shares its statistics.
    """

    is_r2keras_quantizer = True

    def __init__(self, spec: QuantSpec | dict, shape: tuple[int, ...], scale_shape: tuple[int, ...], **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.spec = spec if isinstance(spec, QuantSpec) else QuantSpec.from_dict(dict(spec))
        self.shape, self.scale_shape = tuple(shape), tuple(scale_shape)
        self.make_variables()
        self.built = True

    def make_variables(self) -> None:
        """Adds the method's variables; most methods have none."""

    def initialize(self, weight, *, search: bool = True) -> None:
        """Sets the method's variables from a weight; nothing to do for a method without variables.

        Args:
            weight: float tensor of `shape`.
            search: whether to spend time on a search; False where the weights have not been trained.
        """

    def call(self, weight, training=None):
        """Returns the grid values of a weight, with the method's gradient."""
        raise RuntimeError(f"{type(self).__name__} must implement call.")

    def grid(self, weight):
        """Returns the scale and zero point for a weight, float32 tensors of `scale_shape`."""
        raise RuntimeError(f"{type(self).__name__} must implement grid.")

    def codes(self, weight):
        """Returns the codes of a weight, float32 whole numbers of `shape`."""
        return affine.quantize(weight, *self.grid(weight), *self.limits)

    def tensor(self, name: str, weight, values: np.ndarray) -> Tensor:
        """Returns the weight's codes and scales, for the record.

        Args:
            name: full name of the weight.
            weight: the weight.
            values: the same as a float32 array.
        """
        parts = (self.codes(weight), *self.grid(weight))
        codes, scale, zero_point = (ops.convert_to_numpy(part) for part in parts)
        return QuantizedTensor(name, codes.astype(np.int8), scale, zero_point, self.spec, RangeFigures.of(values))

    @property
    def limits(self) -> tuple[int, int]:
        """The lowest and the highest code."""
        return self.spec.quant_min, self.spec.quant_max

    @property
    def offset(self) -> float:
        """The zero point of a symmetric grid: 0, or -1/2 if mid-rise."""
        return -0.5 if self.spec.levels == "mid_rise" else 0.0

    @property
    def num_steps(self) -> int:
        """Steps from the lowest code to the highest."""
        return self.spec.quant_max - self.spec.quant_min

    @property
    def gradient_share(self) -> float:
        """What the gradient of a learned scalar is multiplied by: `1 / sqrt(n Qp)`.

        `n` weights share the scalar, and the outermost level is `Qp` scales away from zero. It makes steps of the
        scalar as large, relative to it, as those of the weights. Source: Esser et al., arXiv 1902.08153, section 2.2.
        """
        return 1.0 / math.sqrt(
            math.prod(self.shape) / math.prod(self.scale_shape) * (self.spec.quant_max - self.offset)
        )

    def get_config(self):
        """Returns the constructor's arguments as plain JSON."""
        config = {"spec": self.spec.to_dict(), "shape": list(self.shape), "scale_shape": list(self.scale_shape)}
        return {**super().get_config(), **config}

    def symmetric_zero(self):
        """Returns the zero points of a symmetric grid."""
        return ops.full(self.scale_shape, self.offset, "float32")

    def straight_through_unit(self, weight):
        """Returns the grid values of a weight; gradient 1 for weights in [-1, 1], 0 outside."""

        @custom_gradient
        def rounded(weight):
            value = affine.dequantize(self.codes(weight), *self.grid(weight))

            def backward(upstream):
                return ops.where(ops.abs(weight) <= 1.0, upstream, ops.zeros_like(upstream))

            return ops.cast(value, weight.dtype), backward

        return rounded(ops.convert_to_tensor(weight))

    def scalar(self, name: str, start: str = "ones", *, trainable: bool = True) -> keras.Variable:
        """Adds a float32 variable of `scale_shape`."""
        return self.add_weight(
            shape=self.scale_shape, dtype="float32", initializer=start, trainable=trainable, name=name
        )


def mean_magnitude(weight, shape):
    """Returns `mean |w|` over the weights that share an entry, at least 2^-64."""
    return ops.maximum(affine.reduce(ops.mean, ops.abs(ops.cast(weight, "float32")), shape), affine.MIN_SCALE)
