"""Rounding of a recurrent layer's input, and of its hidden state inside the time loop."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from r2keras import quantizers
from r2keras.layers.recurrent.specs import ValueSpec
from r2keras.quantizers.activation import ActivationQuantizer
from r2keras.quantizers.alternating import alternating_rows
from r2keras.quantizers.state import round_state, state_grid
from r2keras.record import QuantizedActivation
from r2keras.specs import ActivationSpec


class Rounder(keras.layers.Layer):
    """Rounds tensors to a fixed grid, to an observed or trained range, or row by row (alternating codes).

    Args:
        spec: a `QuantizedActivation` is a fixed grid. A `QuantSpec` is a grid over `bounds`, or alternating codes. An
            `ActivationSpec` is an observed or trained range, which starts at `bounds` if they are given.
        bounds: the range that the values never leave, if it is known.
    """

    def __init__(self, spec: ValueSpec, bounds: tuple[float, float] | None = None, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.spec = spec
        self.fixed_grid: QuantizedActivation | None = None
        # The attribute's name is part of the paths in saved weights.
        self.learner: ActivationQuantizer | None = None
        if isinstance(spec, QuantizedActivation):
            self.fixed_grid = spec
        elif isinstance(spec, ActivationSpec):
            self.learner = quantizers.make_activation(spec, name="learner")
            if bounds is not None:
                self.learner.start(*bounds)
        elif spec.method != "alternating":
            assert bounds is not None  # `RecurrentSpecs` takes such a spec for states only, which have bounds.
            self.fixed_grid = state_grid(spec, *bounds)
        self.supports_masking = True
        self.built = True

    def call(self, x, training: bool | None = None):
        """Returns the rounded tensor; a training batch may update the range."""
        return self.rounding()(x) if self.learner is None else self.learner(x, training=training)

    def rounding(self) -> Callable:
        """Returns a function that rounds tensors with the current range, for use inside a loop."""
        if self.learner is not None:
            return self.learner.rounding()
        grid = self.fixed_grid
        if grid is not None:
            return lambda x: round_state(x, grid)
        return lambda x: alternating_rows(x, self.spec.num_bits)

    def grid(self, name: str) -> QuantizedActivation | None:
        """Returns the current grid under a name; None for alternating codes, which differ from row to row.

        Raises:
            ValueError: no range has been observed yet.
        """
        if self.fixed_grid is not None:
            return dataclasses.replace(self.fixed_grid, name=name)
        if self.learner is None:
            return None
        if not ops.convert_to_numpy(self.learner.ready) > 0:
            raise ValueError(
                f"The activation {name!r} has no range yet. Expected a model that was trained. Call fit first."
            )
        scale, zero_point = (float(ops.convert_to_numpy(part)) for part in self.learner.grid())
        return QuantizedActivation(name, scale, int(zero_point), self.spec.num_bits)
