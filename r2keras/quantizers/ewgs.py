"""Element-wise gradient scaling (EWGS) for weights and activations."""

from __future__ import annotations

import math

import keras
from keras import ops

from r2keras.ops import affine
from r2keras.ops.ste import custom_gradient
from r2keras.quantizers.activation import ActivationQuantizer
from r2keras.quantizers.base import WeightQuantizer, mean_magnitude
from r2keras.quantizers.lsq import positive


def unit_steps(x, lower, upper, num_steps: int):
    """Returns `x_n = clip((x - lower) / (upper - lower), 0, 1)`, `round(num_steps x_n)`, and where `x` is not clipped.

    Args:
        x: float tensor.
        lower: tensor of the rank of `x` (see `ops.affine`).
        upper: tensor of `lower`'s shape.
        num_steps: number of steps from lower to upper bound.

    Returns:
        Three tensors of `x`'s shape: two float32, one boolean.
    """
    x = ops.cast(x, "float32")
    unit = (x - affine.expand(lower, x.shape)) / affine.expand(width(lower, upper), x.shape)
    inside = ops.logical_and(unit >= 0, unit <= 1)
    unit = ops.clip(unit, 0, 1)
    return unit, ops.round(num_steps * unit), inside


def width(lower, upper):
    """Returns `upper - lower`, above 0."""
    return affine.floored(upper - lower)


def scaled_gradient(x, lower, upper, scale, zero_point, quant_min: int, quant_max: int, *, delta, share: float = 1.0):
    """Rounds a tensor between two trained bounds to a grid with a trained scale; rounding errors scale the gradients.

    Forward: `x_n = clip((x - l) / (u - l), 0, 1)`, `x_q = round(n x_n) / n`, `n = quant_max - quant_min`, and
    `y = scale * (n x_q + quant_min - zero_point)`.
    Gradient: with `g = dL/dx_q = n scale dL/dy`, `dL/dx_n = g (1 + delta sign(g) (x_n - x_q))`. Where `x` lies between
    the bounds, `dx_n/dx = 1 / (u - l)`, `dx_n/dl = (x_n - 1) / (u - l)`, `dx_n/du = -x_n / (u - l)`; 0 elsewhere.
    `dy/dscale = y / scale`. Gradients to `l`, `u` and `scale` are summed over the values that share them and
    multiplied by `share`.

    Args:
        x: float tensor; float16 and bfloat16 are computed in float32.
        lower: lower bound, the rank of `x` (see `ops.affine`).
        upper: upper bound, `lower`'s shape.
        scale: positive tensor of `lower`'s shape.
        zero_point: tensor of `lower`'s shape; gets no gradient.
        quant_min: lowest code.
        quant_max: highest code.
        delta: strength of the gradient scaling, a number or scalar tensor; gets no gradient. 0 is the straight-through
            estimator.
        share: factor of the gradients to `lower`, `upper` and `scale`.

    Returns:
        Tensor of `x`'s shape and type; in float32 exactly on the grid.

    Example:

    >>> one = ops.ones((1,))
    >>> x = ops.convert_to_tensor([-0.9, 0.1, 3.0])
    >>> ops.convert_to_numpy(scaled_gradient(x, -one, one, 0.5 * one, -0.5 * one, -2, 1, delta=1e-3)).tolist()
    [-0.75, 0.25, 0.75]

    Source: Lee et al., arXiv 2104.00903, equations 1 to 6.
    """
    num_steps = quant_max - quant_min

    @custom_gradient
    def rounded(x, lower, upper, scale, zero_point, delta):
        unit, steps, inside = unit_steps(x, lower, upper, num_steps)
        levels = steps + quant_min - affine.expand(zero_point, x.shape)
        value = ops.cast(affine.expand(scale, x.shape) * levels, x.dtype)

        def backward(upstream):
            upstream = ops.cast(upstream, "float32")
            span = affine.expand(width(lower, upper), x.shape)
            to_rounded = num_steps * affine.expand(scale, x.shape) * upstream
            to_unit = to_rounded * (1.0 + delta * ops.sign(to_rounded) * (unit - steps / num_steps))
            to_x = ops.where(inside, to_unit / span, ops.zeros_like(to_unit))
            # Contributions of every value to the gradients of lower, upper and scale.
            terms = (to_x * (unit - 1.0), -to_x * unit, upstream * levels)
            to_scalars = [share * affine.reduce(ops.sum, term, scale.shape) for term in terms]
            return (ops.cast(to_x, x.dtype), *to_scalars, ops.zeros_like(zero_point), ops.zeros_like(delta))

        return value, backward

    return rounded(*map(ops.convert_to_tensor, (x, lower, upper, scale, zero_point)), ops.cast(delta, "float32"))


@keras.saving.register_keras_serializable(package="r2keras")
class EWGSQuantizer(WeightQuantizer):
    """Rounds a weight between two trained bounds; each gradient is scaled by its weight's own rounding error.

    Forward: `x_n = clip((w - l) / (u - l), 0, 1)`, `x_q = round(n x_n) / n`, `n = 2^b - 1`, `w_q = a (2 x_q - 1)`: on
    the mid-rise grid, `w_q = scale (code + 1/2)` with `code = n x_q - 2^(b-1)` and `scale = 2 a / n`.
    Gradient: with `g = dL/dx_q`, `dL/dx_n = g (1 + delta sign(g) (x_n - x_q))`; from there the chain rule to `w`, `l`
    and `u`, and `dw_q/dscale = code + 1/2` (`scaled_gradient`).

    `l`, `u` and `scale` are trained. The bounds start at `-3 std(w)` and `3 std(w)`, the scale at the least-squares fit
    of the grid to the weight. The paper multiplies the layer's output by `a` and trains the scalars at a separate
    learning rate; here their gradients are multiplied by `1 / sqrt(n_w n / 2)` instead, as in LSQ (`n_w` weights share
    a scalar).

    `delta` is a variable that is saved but not trained. It keeps the spec's value unless `callbacks.EWGSDelta`
    estimates it.

    Args:
        spec: a spec with `method="ewgs"` (and its `delta`).
        shape: shape of the weight.
        scale_shape: shape of the trained scalars, one entry per group of weights that shares them.

    Example:

    >>> from r2keras import QuantSpec
    >>> weight = ops.convert_to_tensor([[-1.0, -0.5, 0.5, 1.0]])
    >>> quantizer = EWGSQuantizer(QuantSpec(num_bits=1, method="ewgs"), (1, 4), (1, 1))
    >>> quantizer.initialize(weight)
    >>> ops.convert_to_numpy(quantizer(weight)).tolist()
    [[-0.75, -0.75, 0.75, 0.75]]

    Source: Lee et al., arXiv 2104.00903, sections 3.1 and 3.2.
    """

    def make_variables(self) -> None:
        """Adds the trained bounds and scale, and `delta`."""
        self.lower = self.scalar("lower")
        self.upper = self.scalar("upper")
        self.scale = self.scalar("scale")
        start = keras.initializers.Constant(self.spec.delta)
        self.delta = self.add_weight(shape=(), dtype="float32", initializer=start, trainable=False, name="delta")

    def initialize(self, weight, *, search: bool = True) -> None:
        """Sets the bounds to `-3 std(w)` and `3 std(w)`, and the scale to the least-squares fit.

        Args:
            weight: float tensor of `shape`.
            search: has no effect, because the start values are cheap.
        """
        weight = ops.cast(ops.convert_to_tensor(weight), "float32")
        bound = 3.0 * standard_deviation(weight, self.scale_shape)
        self.lower.assign(-bound)
        self.upper.assign(bound)
        levels = self.codes(weight) - self.offset
        fit = affine.reduce(ops.sum, weight * levels, self.scale_shape)
        squares = affine.reduce(ops.sum, ops.square(levels), self.scale_shape)
        self.scale.assign(affine.floored(fit / squares))

    def call(self, weight, training: bool | None = None):
        """Returns the fake-quantized weight."""
        lower, upper = self._bounds()
        scale, zero_point = self.grid(weight)
        gradient = {"delta": self.delta + 0.0, "share": self.gradient_share}
        return scaled_gradient(weight, lower, upper, scale, zero_point, *self.limits, **gradient)

    def grid(self, weight):
        """Returns the trained scale, kept positive, and the zero point -1/2."""
        return positive(self.scale), self.symmetric_zero()

    def codes(self, weight):
        """Returns the codes of a weight: its rounded position between the bounds."""
        return unit_steps(weight, *self._bounds(), self.num_steps)[1] + self.spec.quant_min

    def _bounds(self):
        # The sum makes a tensor, because TensorFlow's custom gradient does not accept variables.
        return self.lower + 0.0, self.upper + 0.0


def standard_deviation(weight, shape: tuple[int, ...]):
    """Returns the standard deviation of the weights that share an entry, or `mean|w|` if that is zero."""
    unit = affine.unit(affine.reduce(ops.max, ops.abs(weight), shape))
    scaled = weight * affine.expand(unit, weight.shape)
    mean = affine.expand(affine.reduce(ops.mean, scaled, shape), weight.shape)
    deviation = ops.sqrt(affine.reduce(ops.mean, ops.square(scaled - mean), shape)) / unit
    return ops.where(deviation > 0, deviation, mean_magnitude(weight, shape))


@keras.saving.register_keras_serializable(package="r2keras")
class EWGSActivation(ActivationQuantizer):
    """Rounds a tensor between trained bounds; each gradient is scaled by its value's own rounding error.

    Forward: `x_n = clip((x - l) / (u - l), 0, 1)`, `x_q = round(n x_n) / n`, `n = 2^b - 1`, `y = l + (u - l) x_q`,
    with the bounds shifted by at most half a step so that zero is on the grid; `l = 0` if unsigned. (The paper outputs
    `x_q` and relies on the batch normalization that follows; this layer keeps the scale of `x` and needs none.)
    Gradient: inside the bounds `dL/dx = g (1 + delta sign(g) (x_n - x_q))`, `g = dL/dy`; the gradients to the bounds
    are given in `ops.range_quantize.quantize_span`, multiplied by `1 / sqrt(m n)`, `m` features per sample. Outside,
    `dy/dx = 0` and the gradient to that bound is 1.

    `delta` is always the spec's: `callbacks.EWGSDelta` estimates it for weights only.

    The first batch, or calibration, sets the start: unsigned `u = 3 std(x) / sqrt(1 - 2 / pi)`, else as in LSQ
    (`quantizers.LSQActivation`). The trained variables are ratios to it.

    Args:
        spec: a spec with `method="ewgs"` (and its `delta`).

    Example:

    >>> from r2keras.specs import ActivationSpec
    >>> quantizer = EWGSActivation(ActivationSpec(num_bits=2, method="ewgs", unsigned=True))
    >>> tuple(quantizer(ops.convert_to_tensor([0.0, 1.4, 3.0])).shape)
    (3,)

    Source: Lee et al., arXiv 2104.00903, sections 3.1 and 3.2.
    """

    def make_variables(self) -> None:
        """Adds the bounds, relative to the stored ones."""
        self.upper = self.gain("upper")
        self.lower = None if self.spec.unsigned else self.gain("lower")

    def start_range(self, low, high, root, deviation):
        """Returns the paper's start if values are never negative, else LSQ's."""
        if not self.spec.unsigned:
            return super().start_range(low, high, root, deviation)
        return ops.zeros(()), 3.0 / math.sqrt(1.0 - 2.0 / math.pi) * deviation

    def learned(self, low, high):
        """Returns the stored bounds times the trained ratios."""
        lower = low if self.lower is None else low * ops.abs(self.lower + 0.0)
        return lower, high * ops.abs(self.upper + 0.0)
