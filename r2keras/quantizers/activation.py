"""The base class of activation quantizers, and the quantizer whose range is observed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from r2keras._models.sparse_marks import IgnoresSparseMarks
from r2keras.ops.percentile import percentiles
from r2keras.ops.range_quantize import on_grid, quantize_span, span_grid
from r2keras.quantizers.observed import Observed
from r2keras.specs import ActivationSpec

# Of the moving average of a range.
MOMENTUM = 0.99
# Values per tensor that the percentile and the error search look at in training.
SAMPLE = 4096
# The percentile that `range="percentile"` clips at.
PERCENT = 99.9
# The search for the least error clips at these fractions of the largest magnitude.
CLIP_FRACTIONS = np.geomspace(1.0, 0.025, 48, dtype="float32")
# A value closer than this to the midpoint of two codes, in steps, is a tie: float arithmetic decides how it is rounded.
TIE_DISTANCE = 1e-3
# With more than this fraction of ties, a range is widened.
MAX_TIES = 0.05
# Fraction that a range is widened by.
WIDENING = 2.0**-10


class ActivationQuantizer(IgnoresSparseMarks):
    """Rounds a tensor to a grid over a range. Subclasses determine the range (`find`) and train it (`learned`).

    The range measured on data is stored; the first training batch sets it unless calibration did. Trained variables
    are factors of the stored range and start at 1. A start value from data is thus never assigned to a trained
    variable, which JAX cannot do inside a training step.

    Args:
        spec: grid and method.
    """

    is_r2keras_quantizer = True
    # Whether bounds get a gradient from rounding inside the range: the `inner` argument of `quantize_span`.
    inner = 1.0
    # Whether every training batch updates the stored range, rather than the first one only.
    tracks_batches = False

    def __init__(self, spec: ActivationSpec | dict[str, Any], **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.supports_masking = True
        self.spec = spec if isinstance(spec, ActivationSpec) else ActivationSpec.from_dict(dict(spec))
        self.low = self._add_stored("low")
        self.high = self._add_stored("high")
        self.ready = self._add_stored("ready")
        self.make_variables()
        self.built = True

    def make_variables(self) -> None:
        """Adds the method's trained variables, which are relative to the stored range."""

    def find(self, x):
        """Returns the range for a tensor: two float32 scalars, `low <= 0 <= high`."""
        x = ops.cast(x, "float32")
        return self.start_range(*extremes(x, self.spec.unsigned), ops.sqrt(ops.mean(ops.square(x))), ops.std(x))

    def start_range(self, low, high, root, deviation):
        """Returns the range for a tensor with the given statistics.

        The bounds are `2 sqrt(2 Qp / pi)` times the root mean square of the tensor, with `Qp` steps above zero, but
        never beyond its minimum and maximum: at few bits, the full range would round nearly all values to zero. For
        normally distributed values this is LSQ's rule, a step of `2 mean|x| / sqrt(Qp)`; for others it clips fewer.

        Args:
            low: minimum, at most 0; 0 if unsigned.
            high: maximum, at least 0.
            root: root mean square.
            deviation: standard deviation.
        """
        above = self.num_steps if self.spec.unsigned else self.num_steps / 2
        reach = 2.0 * math.sqrt(2.0 * above / math.pi) * root
        return ops.maximum(low, -reach), ops.minimum(high, reach)

    def merge(self, old, new):
        """Returns the stored range after another batch; called only if `tracks_batches`."""
        return old

    def learned(self, low, high):
        """Returns the range in use: the stored range, changed by the trained variables."""
        return low, high

    def call(self, x, training: bool | None = None):
        """Returns the fake-quantized tensor; in training, a batch may set or update the stored range."""
        return self._rounded(x, *self.learned(*self._range(x, training and self.trainable)))

    def rounding(self) -> Callable:
        """Returns a function that rounds tensors to the range in use; it reads the range now, outside of any loop."""
        low, high = self.learned(self.low + 0.0, self.high + 0.0)
        return lambda x: self._rounded(x, low, high)

    def grid(self):
        """Returns the scale and zero point in use, float32 scalars."""
        low, high = self.learned(self.low + 0.0, self.high + 0.0)
        return span_grid(low, high, self.spec.quant_min, self.spec.quant_max)

    @property
    def needs_values(self) -> bool:
        """Whether `over` looks at more than the extremes of the values."""
        return True

    def fit(self, observed: Observed) -> None:
        """Sets the range from all values of the tensor.

        Values halfway between two codes, such as pixels `k / 127.5 - 1`, could be rounded one way here and another way
        on a device. If there are many of them, the range is widened by about a thousandth.

        Args:
            observed: statistics of the values, with a histogram if `needs_values`.
        """
        self._store(*self.over(observed))
        if observed.distinct is None:
            # So many different values are not halfway between the codes of one grid.
            return
        values, counts = observed.distinct
        scale, zero_point = (float(ops.convert_to_numpy(part)) for part in self.grid())
        steps = values.astype(np.float64) / scale + zero_point
        is_tie = np.abs(steps - np.floor(steps) - 0.5) < TIE_DISTANCE
        if counts[is_tie].sum() > MAX_TIES * counts.sum():
            self._store((1 + WIDENING) * self.low, (1 + WIDENING) * self.high)

    def over(self, observed: Observed):
        """Returns the range for observed values; it depends neither on their order nor on their batches."""
        if not observed.is_finite:
            return self._extremes_of(observed)
        return self.start_range(*self._extremes_of(observed), *observed.moments())

    def start(self, low: float, high: float) -> None:
        """Sets the range to one that is known without data."""
        self._store(ops.convert_to_tensor(low, "float32"), ops.convert_to_tensor(high, "float32"))

    def gradient_share(self, x) -> float:
        """Returns the factor of gradients to trained scalars: `1 / sqrt(n Qp)`, `n` features per sample."""
        return 1.0 / math.sqrt(math.prod(size or 1 for size in x.shape[1:]) * self.num_steps)

    @property
    def num_steps(self) -> int:
        """Number of steps from the lowest code to the highest."""
        return self.spec.quant_max - self.spec.quant_min

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as plain JSON."""
        return {**super().get_config(), "spec": self.spec.to_dict()}

    def gain(self, name: str, regularizer: keras.regularizers.Regularizer | None = None) -> keras.Variable:
        """Adds a trainable scalar that starts at 1."""
        return self.add_weight(shape=(), dtype="float32", initializer="ones", name=name, regularizer=regularizer)

    def _rounded(self, x, low, high):
        gradient = {"inner": self.inner, "delta": self.spec.delta or 0.0, "share": self.gradient_share(x)}
        return quantize_span(x, low, high, self.spec.quant_min, self.spec.quant_max, **gradient)

    def _extremes_of(self, observed: Observed) -> tuple[float, float]:
        """Returns minimum (0 if unsigned) and maximum, extended to include zero; NaN stays NaN."""
        low = 0.0 if self.spec.unsigned else float(np.minimum(observed.low, 0.0))
        return low, float(np.maximum(observed.high, 0.0))

    def _range(self, x, training: bool | None):
        """Returns the stored range, or that of this batch if none is stored yet; in training, stores it."""
        # A sum with 0 turns a variable into a tensor.
        stored = self.low + 0.0, self.high + 0.0
        is_ready = self.ready > 0.5
        x = ops.stop_gradient(x)
        if training and self.tracks_batches:
            of_batch = self.find(x)
            merged = self.merge(stored, of_batch)
            bounds = [ops.where(is_ready, new, first) for new, first in zip(merged, of_batch, strict=True)]
        else:
            bounds = ops.cond(is_ready, lambda: stored, lambda: tuple(self.find(x)))
        if training:
            self._store(*bounds)
        return bounds

    def _store(self, low, high) -> None:
        self.low.assign(low)
        self.high.assign(high)
        self.ready.assign(ops.ones(()))

    def _add_stored(self, name: str) -> keras.Variable:
        return self.add_weight(shape=(), dtype="float32", initializer="zeros", trainable=False, name=name)


@keras.saving.register_keras_serializable(package="r2keras")
class RangeActivation(ActivationQuantizer):
    """Rounds a tensor to a range that is observed, not trained.

    Forward: `y = scale * (clip(round(x / scale + zero_point), quant_min, quant_max) - zero_point)`,
    `scale = (high - low) / (2^b - 1)`. Gradient: `dy/dx = 1` inside `[low, high]`, 0 outside.

    In training, each batch updates the range: with `spec.range="min_max"` to the widest range so far, else by
    `0.01 (batch's range - range)`. Calibration takes all data at once: a moving average starts from their minimum and
    maximum.

    Args:
        spec: a spec with `method="ste"`.

    Example:

    >>> from r2keras.specs import ActivationSpec
    >>> quantizer = RangeActivation(ActivationSpec(num_bits=2, unsigned=True))
    >>> ops.convert_to_numpy(quantizer(ops.convert_to_tensor([0.0, 0.4, 3.0]), training=True)).tolist()
    [0.0, 0.0, 3.0]

    Source: Jacob et al., arXiv 1712.05877, section 3.1; Nagel et al., arXiv 2106.08295, section 3.1.
    """

    tracks_batches = True

    def find(self, x):
        """Returns the range of a tensor by the rule of `spec.range`."""
        if self.spec.range in ("moving_average", "min_max"):
            return extremes(x, self.spec.unsigned)
        values = sample(x)
        if self.spec.range == "percentile":
            return self._around_zero(percentiles(values, (1,), end)[0] for end in (100 - PERCENT, PERCENT))
        return self._least_error(values, ops.ones_like(values), *extremes(values, self.spec.unsigned))

    def merge(self, old, new):
        """Returns the wider range, or the moving average."""
        if self.spec.range == "min_max":
            return ops.minimum(old[0], new[0]), ops.maximum(old[1], new[1])
        return tuple(a + (1.0 - MOMENTUM) * (b - a) for a, b in zip(old, new, strict=True))

    @property
    def needs_values(self) -> bool:
        """Whether the rule is that of percentiles or of the least error."""
        return self.spec.range in ("percentile", "mse")

    def over(self, observed: Observed):
        """Returns the range of all observed values by the rule of `spec.range`; `moving_average` as `min_max`."""
        low, high = self._extremes_of(observed)
        if not self.needs_values or not observed.is_finite:
            return low, high
        if self.spec.range == "percentile":
            return self._around_zero(observed.percentile(end) for end in (100 - PERCENT, PERCENT))
        values, counts = (ops.convert_to_tensor(part.astype(np.float32)) for part in observed.table())
        return self._least_error(values, counts, low, high)

    def _around_zero(self, ends: Iterable):
        """Returns the ends of a range extended to include zero; from zero if unsigned."""
        low, high = ends
        return (ops.zeros(()) if self.spec.unsigned else ops.minimum(low, 0.0)), ops.maximum(high, 0.0)

    def _least_error(self, values, counts, low, high):
        """Returns the range with the least error among ranges clipped at the same distance on both sides of zero."""
        reach = ops.maximum(-low, high) * ops.convert_to_tensor(CLIP_FRACTIONS)
        lows, highs = ops.maximum(low, -reach), ops.minimum(high, reach)
        limits = (self.spec.quant_min, self.spec.quant_max)
        scales, zero_points = (ops.expand_dims(part, 1) for part in span_grid(lows, highs, *limits))
        errors = ops.sum(counts * ops.square(on_grid(values, scales, zero_points, *limits) - values), axis=1)
        best = ops.argmin(errors)
        return ops.take(lows, best), ops.take(highs, best)


def extremes(x, unsigned: bool):
    """Returns minimum (0 if unsigned) and maximum of a tensor, extended to include zero."""
    x = ops.cast(x, "float32")
    low = ops.zeros(()) if unsigned else ops.minimum(ops.min(x), 0.0)
    return low, ops.maximum(ops.max(x), 0.0)


def sample(x):
    """Returns 4,096 evenly spaced values of the tensor, with repetition if it has fewer."""
    flat = ops.reshape(ops.cast(x, "float32"), (-1,))
    size = ops.cast(ops.shape(flat)[0], "float32")
    index = ops.cast(ops.arange(SAMPLE, dtype="float32") * (size / SAMPLE), "int32")
    return ops.take(flat, ops.minimum(index, ops.cast(size, "int32") - 1))
