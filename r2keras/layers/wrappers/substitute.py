"""The base class of wrappers that run a layer with other values in place of some of its weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
from keras import tree

from r2keras._models.keras_internals import clear_losses, parts_of
from r2keras.layers.wrappers.any_layer import AnyLayer, never_writes


class SubstituteWeights(AnyLayer):
    """Runs a layer with substituted weights; the layer itself, its variables and its regularizers stay as they are.

    Subclasses implement `build_substitutes(trained)`, which is called once the weights exist, and
    `substitutes(training)`, which returns a list of `(variable, value)`. Their constructor ends with
    `self._finish_build()`. Gradients flow through the values to the variables. The layer's `kernel_regularizer` sees
    the variables, not the values.

    Args:
        layer: any Keras layer that is not a model, built or not.
        tied: wrappers of other layers that `layer` holds as attributes; it runs with their substituted weights too.
        name: the wrapper's name; None uses the layer's.

    Raises:
        TypeError: `layer` is not a layer, or is a model or another wrapper of this type.
    """

    # Whether `initialize` will follow once the weights are there, so that `build_substitutes` need not set any ranges.
    starts_later = False

    def __init__(
        self,
        layer: keras.Layer,
        *,
        tied: Iterable[SubstituteWeights] = (),
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(layer, name=name, **kwargs)
        self.tied = list(tied)
        self._checked_in_training = False

    def build_substitutes(self, *, trained: bool) -> None:
        """Creates what `substitutes` needs; called once, when the layer's weights exist.

        Args:
            trained: True if the layer was passed in with its weights, False if they were just initialized.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement `build_substitutes`.")

    def set_up(self, *, trained: bool) -> None:
        """Creates the substitutes once the inner layer has its weights."""
        self.build_substitutes(trained=trained)

    def substitutes(self, training: bool | None) -> list[tuple[keras.Variable, Any]]:
        """Returns the pairs `(variable, value)`."""
        raise NotImplementedError(f"{type(self).__name__} must implement `substitutes`.")

    def notes(self, tensors: list) -> dict[str, str]:
        """Returns remarks on kernels for the record, by their names; `tensors` is the result of `quantized_tensors`."""
        return {}

    def kept_float(self) -> dict[str, str]:
        """Returns the reasons why kernels with a spec stay float, by their names."""
        return {}

    def __call__(self, *args: Any, **kwargs: Any):
        """Builds the inner layer for its own arguments, then runs it."""
        outputs = super().__call__(*args, **kwargs)
        if not self._checked_in_training:
            # A layer may write to its own weights in training only. One symbolic call in training mode refuses it here
            # rather than in the first training step.
            self._checked_in_training = True
            if not never_writes(self.layer):
                super().compute_output_spec(*args, **{**kwargs, "training": True})
        return outputs

    def call(self, inputs, *args: Any, training: bool | None = None, **kwargs: Any):
        """Runs the inner layer with the substituted weights."""
        values = {id(v): value for wrapper in (*self.tied, self) for v, value in wrapper.substitutes(training)}
        variables = [*self.layer.variables, *_states(self.layer)]
        mapping = [(v, values.get(id(v), v.value)) for v in variables]
        with keras.StatelessScope(state_mapping=mapping, collect_losses=True) as scope:
            before = [scope.get_current_value(v) for v in variables]
            outputs = self.run(inputs, *args, training=training, **kwargs)
            after = [scope.get_current_value(v) for v in variables]
        self._write_back(zip(variables, before, after, strict=True), values)
        # The wrapper reports the losses. The inner layer would report them again in Keras' own stateless scope.
        clear_losses(self.layer)
        for loss in scope.losses:
            self.add_loss(loss)
        return outputs

    def reset_state(self) -> None:
        """Resets the states of a stateful recurrent layer to zero, like that layer's own method."""
        for state in _states(self.layer):
            state.assign(keras.ops.zeros(state.shape, state.dtype))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as plain JSON."""
        config = super().get_config()
        return {**config, "tied": keras.saving.serialize_keras_object(list(self.tied))} if self.tied else config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> SubstituteWeights:
        """Returns the layer of a `get_config` result."""
        # Keras gives each wrapper in `tied` and in the model once. The layer inside must hold theirs.
        return super().from_config({**config, "tied": keras.saving.deserialize_keras_object(config.get("tied", []))})

    def _write_back(self, states: Iterable[tuple[keras.Variable, Any, Any]], values: dict[int, Any]) -> None:
        """Assigns the changes that the inner call made to its own state: seeds, statistics, recurrent states.

        Args:
            states: `(variable, value before, value after)`.
            values: the substitutes, by the identities of their variables.
        """
        for variable, before, after in states:
            if after is before:
                continue
            if id(variable) in values:
                raise ValueError(
                    f"The layer {self.name!r} ({type(self.layer).__name__}) writes to its own weight {variable.path} "
                    "when called, so a compressed value cannot replace it. Expected layers that do not. Leave it "
                    f"float: add the rule ({self.name!r}, None) at the top of the recipe, or replace the layer."
                )
            variable.assign(after)


def _states(layer: keras.Layer) -> list[keras.Variable]:
    """Returns the states of stateful recurrent layers, which are not among a layer's `variables`."""
    parts = [part for part in parts_of(layer) if isinstance(part, keras.layers.RNN) and part.stateful]
    return [state for part in parts if part.states is not None for state in tree.flatten(part.states)]
