"""What every quantizer of activations is: a layer that finds the range of a tensor, or learns it."""

from __future__ import annotations

import math
from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from r2keras.ops.percentile import percentiles
from r2keras.ops.span import on_grid, quantize_span, span_grid
from r2keras.specs import ActivationSpec

MOMENTUM = 0.99
SAMPLE = 4096
PERCENT = 99.9
# Of the largest magnitude: where the search for the least error clips.
SHARES = np.geomspace(1.0, 0.025, 48, dtype="float32")
# Closer than this to the middle of two codes, float arithmetic decides; what share of values is too many; how much a
# range is widened then.
HALFWAY, MANY, WIDER = 1e-3, 0.05, 2.0**-10


class ActivationQuantizer(keras.layers.Layer):
    """Rounds a tensor to a grid over a range; subclasses find the range (`find`) and learn from there (`learned`).

    The range that data gave is stored; the first training batch sets it unless calibration did. What learns is
    relative to it and starts at 1, so that a start value from data needs no assignment to a trained variable, which
    JAX cannot make inside a step.

    Args:
        spec: grid and method.
    """

    is_r2keras_quantizer = True
    inner = 1.0
    follows = False

    def __init__(self, spec: ActivationSpec | dict, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.supports_masking = True
        self.spec = spec if isinstance(spec, ActivationSpec) else ActivationSpec.from_dict(dict(spec))
        self.low, self.high, self.ready = (self._stored(name) for name in ("low", "high", "ready"))
        self.make_variables()
        self.built = True

    def make_variables(self) -> None:
        """Adds what the method learns, relative to the stored range."""

    def find(self, x):
        """Returns the range that a tensor asks for: two float32 scalars, `low <= 0 <= high`.

        They reach `2 sqrt(2 Qp / pi)` times the root mean square of the tensor, `Qp` the steps above zero, and no
        further than its own ends: at few bits the range from minimum to maximum would round nearly everything to zero.
        For normally distributed values that is LSQ's rule, `2 mean|x| / sqrt(Qp)` a step; of others it clips fewer.
        """
        low, high = extremes(x, self.spec.unsigned)
        above = self.num_steps if self.spec.unsigned else self.num_steps / 2
        root = ops.sqrt(ops.mean(ops.square(ops.cast(x, "float32"))))
        reach = 2.0 * math.sqrt(2.0 * above / math.pi) * root
        return ops.maximum(low, -reach), ops.minimum(high, reach)

    def merge(self, old, new):
        """Returns the stored range after another batch; only where `follows`."""
        return old

    def learned(self, low, high):
        """Returns the range in use for the stored one."""
        return low, high

    def call(self, x, training=None):
        """Returns the fake-quantized tensor; a training batch sets or moves the range."""
        return self._rounded(x, *self.learned(*self._range(x, training and self.trainable)))

    def rounding(self) -> Callable:
        """Returns a function that rounds tensors to the range in use, which is read once: here, outside of a loop."""
        low, high = self.learned(self.low + 0.0, self.high + 0.0)
        return lambda x: self._rounded(x, low, high)

    def grid(self):
        """Returns the scale and zero point in use, float32 scalars."""
        low, high = self.learned(self.low + 0.0, self.high + 0.0)
        return span_grid(low, high, self.spec.quant_min, self.spec.quant_max)

    def fit(self, batches: list[np.ndarray]) -> None:
        """Sets the range from values of the tensor.

        Values that lie halfway between two codes, as pixels `k / 127.5 - 1` do, would be rounded one way here and
        another on a device: where they are many, the range is made wider by a thousandth.

        Args:
            batches: flat arrays, one a batch.
        """
        self._store(*self.over(batches))
        scale, zero_point = (float(ops.convert_to_numpy(part)) for part in self.grid())
        places = np.concatenate(batches).astype(np.float64) / scale + zero_point
        if np.mean(np.abs(places - np.floor(places) - 0.5) < HALFWAY) > MANY:
            self._store(*((1 + WIDER) * end for end in (self.low, self.high)))

    def over(self, batches: list[np.ndarray]):
        """Returns the range that several batches ask for."""
        return self.find(ops.convert_to_tensor(np.concatenate(batches)))

    def start(self, low: float, high: float) -> None:
        """Sets the range to one that is known without data."""
        self._store(ops.convert_to_tensor(low, "float32"), ops.convert_to_tensor(high, "float32"))

    def gradient_share(self, x) -> float:
        """What gradients of learned scalars are multiplied by: `1 / sqrt(n Qp)`, `n` features a sample."""
        return 1.0 / math.sqrt(math.prod(size or 1 for size in x.shape[1:]) * self.num_steps)

    @property
    def num_steps(self) -> int:
        """Steps from the lowest code to the highest."""
        return self.spec.quant_max - self.spec.quant_min

    def get_config(self):
        """Returns the constructor's arguments as plain JSON."""
        return {**super().get_config(), "spec": self.spec.to_dict()}

    def gain(self, name: str, regularizer=None) -> keras.Variable:
        """Adds a trainable scalar that starts at 1."""
        return self.add_weight(shape=(), dtype="float32", initializer="ones", name=name, regularizer=regularizer)

    def _rounded(self, x, low, high):
        strength = {"inner": self.inner, "delta": self.spec.delta or 0.0, "share": self.gradient_share(x)}
        return quantize_span(x, low, high, self.spec.quant_min, self.spec.quant_max, **strength)

    def _range(self, x, training):
        """Returns the stored range; before there is one, that of this batch. Training stores it."""
        stored, seen, x = (self.low + 0.0, self.high + 0.0), self.ready > 0.5, ops.stop_gradient(x)
        if training and self.follows:
            fresh = self.find(x)
            moved = self.merge(stored, fresh)
            found = [ops.where(seen, new, first) for new, first in zip(moved, fresh, strict=True)]
        else:
            found = ops.cond(seen, lambda: stored, lambda: tuple(self.find(x)))
        if training:
            self._store(*found)
        return found

    def _store(self, low, high) -> None:
        self.low.assign(low)
        self.high.assign(high)
        self.ready.assign(ops.ones(()))

    def _stored(self, name: str) -> keras.Variable:
        return self.add_weight(shape=(), dtype="float32", initializer="zeros", trainable=False, name=name)


@keras.saving.register_keras_serializable(package="r2keras")
class RangeActivation(ActivationQuantizer):
    """Rounds a tensor to a range that is observed, not learned.

    Forward: `y = scale * (clip(round(x / scale + zero_point), quant_min, quant_max) - zero_point)`,
    `scale = (high - low) / (2^b - 1)`. Gradient: `dy/dx = 1` inside `[low, high]`, 0 outside.

    In training each batch moves the range: with `spec.range="min_max"` to the widest seen, else by
    `0.01 (batch's range - range)`.

    Args:
        spec: a spec with `method="ste"`.

    Example:

    >>> from r2keras.specs import ActivationSpec
    >>> quantizer = RangeActivation(ActivationSpec(num_bits=2, unsigned=True))
    >>> ops.convert_to_numpy(quantizer(ops.convert_to_tensor([0.0, 0.4, 3.0]), training=True)).tolist()
    [0.0, 0.0, 3.0]

    Source: Jacob et al., arXiv 1712.05877, section 3.1; Nagel et al., arXiv 2106.08295, section 3.1.
    """

    follows = True

    def find(self, x):
        """Returns the range of a tensor by the rule of `spec.range`."""
        if self.spec.range in ("moving_average", "min_max"):
            return extremes(x, self.spec.unsigned)
        part = sample(x)
        return self._percentile(part) if self.spec.range == "percentile" else self._least_error(part)

    def merge(self, old, new):
        """Returns the wider range, or the moving average."""
        if self.spec.range == "min_max":
            return ops.minimum(old[0], new[0]), ops.maximum(old[1], new[1])
        return tuple(a + (1.0 - MOMENTUM) * (b - a) for a, b in zip(old, new, strict=True))

    def over(self, batches: list[np.ndarray]):
        """Returns the range of several batches; a moving average becomes the plain average over them."""
        if self.spec.range != "moving_average":
            return super().over(batches)
        found = [self.find(ops.convert_to_tensor(batch)) for batch in batches]
        return tuple(sum(bounds) / len(found) for bounds in zip(*found, strict=True))

    def _percentile(self, part):
        high = percentiles(part, (1,), PERCENT)[0]
        low = ops.zeros(()) if self.spec.unsigned else percentiles(part, (1,), 100 - PERCENT)[0]
        return ops.minimum(low, 0.0), ops.maximum(high, 0.0)

    def _least_error(self, part):
        """Returns, of ranges clipped at the same distance below and above zero, the one with the least error."""
        low, high = extremes(part, self.spec.unsigned)
        reach = ops.maximum(-low, high) * ops.convert_to_tensor(SHARES)
        lows, highs = ops.maximum(low, -reach), ops.minimum(high, reach)
        limits = (self.spec.quant_min, self.spec.quant_max)
        grids = (ops.expand_dims(number, 1) for number in span_grid(lows, highs, *limits))
        best = ops.argmin(ops.mean(ops.square(on_grid(part, *grids, *limits) - part), axis=1))
        return ops.take(lows, best), ops.take(highs, best)


def extremes(x, unsigned: bool):
    """Returns minimum (0 if unsigned) and maximum of a tensor, widened to hold zero."""
    x = ops.cast(x, "float32")
    low = ops.zeros(()) if unsigned else ops.minimum(ops.min(x), 0.0)
    return low, ops.maximum(ops.max(x), 0.0)


def sample(x):
    """Returns 4,096 values, evenly spaced in the tensor, with repetition where it has fewer."""
    flat = ops.reshape(ops.cast(x, "float32"), (-1,))
    size = ops.cast(ops.shape(flat)[0], "float32")
    places = ops.cast(ops.arange(SAMPLE, dtype="float32") * (size / SAMPLE), "int32")
    return ops.take(flat, ops.minimum(places, ops.cast(size, "int32") - 1))
