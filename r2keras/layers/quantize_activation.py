"""Layers that round activations to a grid: one that observes or trains the grid, and one with a fixed grid."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from r2keras import quantizers
from r2keras._models.sparse_marks import IgnoresSparseMarks
from r2keras._util.errors import check_positive, invalid
from r2keras._util.numeric import as_number
from r2keras.ops.range_quantize import on_grid
from r2keras.quantizers.observed import Observed
from r2keras.specs import ActivationSpec


@keras.saving.register_keras_serializable(package="r2keras")
class QuantizeActivation(IgnoresSparseMarks):
    """Rounds its input to a grid. `r2keras.prepare` inserts one after each tensor that gets `activation_bits`.

    Forward: `y = scale * (clip(round(x / scale + zero_point), quant_min, quant_max) - zero_point)`. Gradient: that of
    the spec's method (`r2keras.quantizers`): with `"ste"`, `dy/dx = 1` inside the range, 0 outside.

    The first training batch sets the range, or `r2keras.calibrate` does. Before that, each batch uses its own range.
    A sparse tensor becomes dense.

    Args:
        spec: an `ActivationSpec`; None means 8 bits, straight-through estimator, with a moving average of the range.
        name: the layer's name.

    Raises:
        TypeError: `spec` is not an `ActivationSpec`.

    Example:

    >>> layer = QuantizeActivation(ActivationSpec(num_bits=2, unsigned=True))
    >>> ops.convert_to_numpy(layer(ops.convert_to_tensor([0.0, 0.4, 3.0]), training=True)).tolist()
    [0.0, 0.0, 3.0]

    Source: Jacob et al., arXiv 1712.05877, section 3.1.
    """

    def __init__(self, spec: ActivationSpec | None = None, *, name: str | None = None, **kwargs: Any) -> None:
        super().__init__(name=name, autocast=False, **kwargs)
        self.spec = ActivationSpec() if spec is None else spec
        if not isinstance(self.spec, ActivationSpec):
            raise TypeError(invalid("spec", "an r2keras.specs.ActivationSpec", spec))
        self.quantizer = quantizers.make_activation(self.spec, name="quantizer")
        self.supports_masking = True
        self.built = True
        self._observed: Observed | None = None

    def call(self, inputs, training: bool | None = None):
        """Returns the rounded tensor, or the tensor itself while calibration observes it."""
        inputs = ops.convert_to_tensor(inputs, sparse=False)
        if self._observed is not None:
            self._observed.add(ops.convert_to_numpy(ops.cast(inputs, "float32")))
            return inputs
        return self.quantizer(inputs, training=training)

    @property
    def ready(self) -> bool:
        """Whether training or calibration has set the range."""
        return bool(ops.convert_to_numpy(self.quantizer.ready) > 0)

    def observe(self) -> None:
        """Starts to count the inputs, which pass unchanged until `fit`; calls must be eager."""
        self._observed = Observed(bins=self.quantizer.needs_values)

    def fit(self) -> None:
        """Sets the range from all values since `observe`, if there are any, and resumes rounding."""
        if self._observed is not None and self._observed.count:
            self.quantizer.fit(self._observed)
        self._observed = None

    def grid(self) -> tuple[float, int]:
        """Returns the scale and the zero point.

        Raises:
            ValueError: no range has been set yet, or it is not finite.
        """
        if not self.ready:
            raise ValueError(
                f"The activation {self.name!r} has no range yet. Expected a model that was trained or calibrated. "
                "Call student.fit(...), or r2keras.calibrate(model, recipe, data)."
            )
        scale, zero_point = (float(ops.convert_to_numpy(part)) for part in self.quantizer.grid())
        if not np.isfinite([scale, zero_point]).all():
            raise ValueError(
                f"The range of the activation {self.name!r} is not finite. Expected finite activations. "
                "Train again with a smaller learning rate, or check the data for NaN."
            )
        return scale, int(zero_point)

    def frozen(self) -> GridActivation:
        """Returns the layer that rounds to the current grid, under this layer's name."""
        scale, zero_point = self.grid()
        return GridActivation(scale=scale, zero_point=zero_point, num_bits=self.spec.num_bits, name=self.name)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as plain JSON."""
        return {**super().get_config(), "spec": self.spec.to_dict()}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> QuantizeActivation:
        """Returns the layer of a `get_config` result."""
        return cls(**{**config, "spec": ActivationSpec.from_dict(config["spec"])})


class GridForm:
    """The grid of `GridActivation`, a mixin for the layers of Keras 3 and tf_keras."""

    # The grid is in the config, so that no weights are transferred from the layer that this one replaces.
    holds_constants = True

    def _set_grid(self, scale: float, zero_point: int, num_bits: int) -> None:
        """Checks and stores the grid."""
        spec = ActivationSpec(num_bits=num_bits)
        step, zero = check_positive("scale", scale, "a positive, finite number"), as_number(zero_point)
        if zero is None:
            raise TypeError(invalid("zero_point", "a number", zero_point))
        if not spec.quant_min <= zero <= spec.quant_max:
            raise ValueError(invalid("zero_point", f"a code from {spec.quant_min} to {spec.quant_max}", zero_point))
        self.scale = step
        self.zero_point = zero
        self.num_bits = spec.num_bits
        self.limits = (spec.quant_min, spec.quant_max)
        self.supports_masking = True

    def _rounded(self, values):
        """Returns a float32 tensor rounded to the grid."""
        return on_grid(values, self.scale, float(self.zero_point), *self.limits)

    def _grid_config(self) -> dict[str, Any]:
        """Returns the arguments of the grid as plain JSON."""
        return {"scale": self.scale, "zero_point": self.zero_point, "num_bits": self.num_bits}


@keras.saving.register_keras_serializable(package="r2keras")
class GridActivation(GridForm, IgnoresSparseMarks):
    """Rounds its input to a fixed grid. `r2keras.finalize` replaces a `QuantizeActivation` by it. It has no weights.

    Forward: `y = scale * (clip(round(x / scale + zero_point), -2^(b-1), 2^(b-1) - 1) - zero_point)`.
    Gradient: 0 everywhere, that of rounding, because this layer is for inference.

    Args:
        scale: step of the grid, positive, in the input's units.
        zero_point: the integer code of zero, in `[-2^(b-1), 2^(b-1) - 1]`.
        num_bits: bits per code, 2 to 8.
        name: the layer's name.

    Raises:
        TypeError: an argument of another type.
        ValueError: a value out of range.

    Example:

    >>> layer = GridActivation(scale=0.5, zero_point=-2, num_bits=2)
    >>> ops.convert_to_numpy(layer(ops.convert_to_tensor([-1.0, 0.6, 9.0]))).tolist()
    [0.0, 0.5, 1.5]

    Source: Jacob et al., arXiv 1712.05877, section 2.1.
    """

    def __init__(self, *, scale: float, zero_point: int, num_bits: int, name: str | None = None, **kwargs: Any) -> None:
        super().__init__(name=name, autocast=False, **kwargs)
        self._set_grid(scale, zero_point, num_bits)
        self.built = True

    def call(self, inputs):
        """Returns the rounded tensor."""
        inputs = ops.convert_to_tensor(inputs, sparse=False)
        return ops.cast(self._rounded(ops.cast(inputs, "float32")), inputs.dtype)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as plain JSON."""
        return {**super().get_config(), **self._grid_config()}
