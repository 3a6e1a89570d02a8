"""What rounds the values that a recurrent layer computes with: its input, or its hidden state inside the time loop."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import keras
from keras import ops

from r2keras import quantizers
from r2keras.quantizers.alternating import alternating_rows
from r2keras.quantizers.state import round_state, state_grid
from r2keras.record import QuantizedActivation
from r2keras.specs import ActivationSpec, QuantSpec


class Rounder(keras.layers.Layer):
    """Rounds tensors to a fixed grid, to a range that is observed or learned, or row by row (alternating).

    Args:
        spec: a `QuantizedActivation` is a fixed grid; a `QuantSpec` a grid over `bounds`, or alternating codes; an
            `ActivationSpec` learns or observes, from `bounds` on if there are any.
        bounds: the range that the values never leave, if that is known.
    """

    def __init__(self, spec: QuantSpec | ActivationSpec | QuantizedActivation, bounds: tuple | None = None, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.spec, self.fixed, self.learner = spec, None, None
        if isinstance(spec, QuantizedActivation):
            self.fixed = spec
        elif isinstance(spec, ActivationSpec):
            self.learner = quantizers.make_activation(spec, name="learner")
            if bounds is not None:
                self.learner.start(*bounds)
        elif spec.method != "alternating":
            self.fixed = state_grid(spec, *bounds)
        self.supports_masking = True
        self.built = True

    def call(self, x, training=None):
        """Returns the rounded tensor; a training batch moves a range that is observed."""
        return self.rounding()(x) if self.learner is None else self.learner(x, training=training)

    def rounding(self) -> Callable:
        """Returns a function that rounds tensors as the quantizer does by now, for use inside a loop."""
        if self.learner is not None:
            return self.learner.rounding()
        if self.fixed is not None:
            return lambda x: round_state(x, self.fixed)
        return lambda x: alternating_rows(x, self.spec.num_bits)

    def grid(self, name: str) -> QuantizedActivation | None:
        """Returns the present grid under a name; None for alternating codes, which each row has of its own.

        Raises:
            ValueError: no range has been observed yet.
        """
        if self.fixed is not None:
            return dataclasses.replace(self.fixed, name=name)
        if self.learner is None:
            return None
        if not ops.convert_to_numpy(self.learner.ready) > 0:
            raise ValueError(
                f"The activation {name!r} has no range yet. Expected a model that was trained. Call fit first."
            )
        scale, zero_point = (float(ops.convert_to_numpy(part)) for part in self.learner.grid())
        return QuantizedActivation(name, scale, int(zero_point), self.spec.num_bits)
