"""The base class of weight quantizers: a layer that maps a weight to grid values and owns the trained scalars."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from r2keras.ops import affine
from r2keras.ops.ste import custom_gradient
from r2keras.record import QuantizedTensor, RangeFigures, Tensor
from r2keras.specs import QuantSpec


class WeightQuantizer(keras.layers.Layer):
    """Maps a weight to `scale * (code - zero_point)`, exactly in float32, with codes within the limits of its spec.

    Subclasses implement `call` and `grid`. Those with variables also implement `make_variables` and `initialize`, and
    those whose codes are not the nearest ones on the grid implement `codes`.

    Args:
        spec: the grid and the method.
        shape: shape of the weight.
        scale_shape: shape of the scale, one entry per group of weights that shares it. It has the weight's rank, and
            each axis is 1, the weight's size, or a number of groups.
    """

    is_r2keras_quantizer = True

    def __init__(
        self, spec: QuantSpec | dict[str, Any], shape: tuple[int, ...], scale_shape: tuple[int, ...], **kwargs: Any
    ) -> None:
        super().__init__(autocast=False, **kwargs)
        self.spec = spec if isinstance(spec, QuantSpec) else QuantSpec.from_dict(dict(spec))
        self.shape = tuple(shape)
        self.scale_shape = tuple(scale_shape)
        self.make_variables()
        self.built = True

    def make_variables(self) -> None:
        """Adds the method's variables; most methods have none."""

    def initialize(self, weight, *, search: bool = True) -> None:
        """Sets the method's variables from a weight; does nothing for a method without variables.

        Args:
            weight: float tensor of `shape`.
            search: whether to search for the best values; False for weights that have not been trained.
        """

    def call(self, weight, training: bool | None = None):
        """Returns the grid values of a weight, with the method's gradient."""
        raise NotImplementedError(f"{type(self).__name__} must implement `call`.")

    def grid(self, weight):
        """Returns the scale and zero point for a weight, float32 tensors of `scale_shape`."""
        raise NotImplementedError(f"{type(self).__name__} must implement `grid`.")

    def codes(self, weight):
        """Returns the codes of a weight, float32 whole numbers of `shape`."""
        return affine.quantize(weight, *self.grid(weight), *self.limits)

    def tensor(self, name: str, weight, values: np.ndarray) -> Tensor:
        """Returns the weight's codes and scales, for the record.

        Args:
            name: full name of the weight.
            weight: the weight.
            values: the weight as a float32 array.
        """
        tensors = (self.codes(weight), *self.grid(weight))
        codes, scale, zero_point = (ops.convert_to_numpy(tensor) for tensor in tensors)
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
        """Number of steps from the lowest code to the highest."""
        return self.spec.quant_max - self.spec.quant_min

    @property
    def gradient_share(self) -> float:
        """The factor of the gradient to a trained scalar: `1 / sqrt(n Qp)`.

        `n` weights share the scalar, and the outermost level is `Qp` scales away from zero. The factor makes the
        relative steps of the scalar as large as those of the weights. Source: Esser et al., arXiv 1902.08153,
        section 2.2.
        """
        return 1.0 / math.sqrt(
            math.prod(self.shape) / math.prod(self.scale_shape) * (self.spec.quant_max - self.offset)
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as plain JSON."""
        config = {"spec": self.spec.to_dict(), "shape": list(self.shape), "scale_shape": list(self.scale_shape)}
        return {**super().get_config(), **config}

    def symmetric_zero(self):
        """Returns the zero points of a symmetric grid."""
        return ops.full(self.scale_shape, self.offset, "float32")

    def with_gradient(self, weight, gradient: Callable[[Any, Any], Any]):
        """Returns the grid values of a weight, with a gradient of its own.

        Args:
            weight: float tensor of `shape`.
            gradient: takes the gradient to the grid values and the weight; returns the gradient to the weight.
        """

        @custom_gradient
        def rounded(weight):
            value = affine.dequantize(self.codes(weight), *self.grid(weight))
            return ops.cast(value, weight.dtype), lambda upstream: gradient(upstream, weight)

        return rounded(ops.convert_to_tensor(weight))

    def straight_through_unit(self, weight):
        """Returns the grid values of a weight; gradient 1 for weights in [-1, 1], 0 outside."""

        def inside(upstream, weight):
            return ops.where(ops.abs(weight) <= 1.0, upstream, ops.zeros_like(upstream))

        return self.with_gradient(weight, inside)

    def scalar(self, name: str, start: str = "ones", *, trainable: bool = True) -> keras.Variable:
        """Adds a float32 variable of `scale_shape`."""
        return self.add_weight(
            shape=self.scale_shape, dtype="float32", initializer=start, trainable=trainable, name=name
        )


def mean_magnitude(weight, shape: tuple[int, ...]):
    """Returns `mean |w|` over the weights that share an entry, above 0."""
    return affine.floored(affine.reduce(ops.mean, ops.abs(ops.cast(weight, "float32")), shape))
