"""A wrapper that runs any layer with other values in place of some of its weights."""

from __future__ import annotations

import inspect

import keras
from keras import tree


class SubstituteWeights(keras.layers.Layer):
    """Runs a layer with substituted weights; the layer itself, its variables and its regularizers stay as they are.

    Subclasses implement `build_substitutes(trained)` (make what they need once the weights exist) and
    `substitutes(training)`, a list of `(variable, value)`; their constructor ends with `self._finish_build()`.
    Gradients flow through the values to the variables. The layer's `kernel_regularizer` sees the variables, not the
    values.

    Args:
        layer: any Keras layer that is not a model; built or not.
        name: the wrapper's name; None takes the layer's.

    Raises:
        TypeError: `layer` is a model, a wrapper of this kind, or no layer.
    """

    is_r2keras_wrapper = True
    layer: keras.Layer
    built: bool

    def __init__(self, layer: keras.Layer, *, name: str | None = None, **kwargs):
        if not isinstance(layer, keras.Layer) or isinstance(layer, (keras.Model, SubstituteWeights)):
            raise TypeError(
                f"Invalid value for argument `layer`. Expected a Keras layer that is no model and not wrapped yet. "
                f"Received: {layer!r}. Models go through r2keras.prepare."
            )
        # Latent weights are read in their own precision, else a mixed policy would flip codes; the inner layer casts
        # for itself.
        kwargs.setdefault("dtype", layer.variable_dtype)
        super().__init__(name=name or layer.name, autocast=False, **kwargs)
        self.layer = layer
        self.supports_masking = layer.supports_masking
        self._shapes: dict | None = None
        self._probed = False

    def build_substitutes(self, *, trained: bool) -> None:
        """Makes what `substitutes` needs; called once, when the layer's weights exist.

        Args:
            trained: whether the layer came with its weights, rather than with fresh ones.
        """
        raise RuntimeError(f"{type(self).__name__} must implement build_substitutes.")

    def substitutes(self, training) -> list:
        """Returns the pairs `(variable, value)`."""
        raise RuntimeError(f"{type(self).__name__} must implement substitutes.")

    def notes(self, tensors: list) -> dict[str, str]:
        """Returns remarks for the record on kernels, by their names; `tensors` is what `quantized_tensors` returned."""
        return {}

    def kept_float(self) -> dict[str, str]:
        """Returns why kernels that a spec is for stay float nevertheless, by their names."""
        return {}

    def __call__(self, *args, **kwargs):
        """Builds the inner layer for its own arguments, then runs it."""
        if self._shapes is None:
            self._shapes = _argument_shapes(self.layer, args, kwargs)
        outputs = super().__call__(*args, **kwargs)
        if not self._probed:
            self._probed = True
            self.compute_output_spec(*args, **{**kwargs, "training": True})
        return outputs

    def build(self, input_shape=None):
        """Builds the inner layer, then the substitutes."""
        if not self.layer.built:
            self.layer.build(**(self._shapes or {_first_parameter(self.layer.build): input_shape}))
        self._finish_build(trained=False)

    def call(self, inputs, *args, training=None, **kwargs):
        """Runs the inner layer with the substituted weights."""
        values = {id(variable): value for variable, value in self.substitutes(training)}
        variables = [*self.layer.variables, *_states(self.layer)]
        if "training" in inspect.signature(self.layer.call).parameters:
            kwargs["training"] = training
        mapping = [(v, values.get(id(v), v.value)) for v in variables]
        with keras.StatelessScope(state_mapping=mapping, collect_losses=True) as scope:
            before = [scope.get_current_value(v) for v in variables]
            outputs = self.layer(inputs, *args, **kwargs)
            after = [scope.get_current_value(v) for v in variables]
        self._write_back(zip(variables, before, after, strict=True), values)
        # The wrapper reports the losses; the inner layer would report them a second time where Keras runs statelessly.
        self.layer._clear_losses()
        for loss in scope.losses:
            self.add_loss(loss)
        return outputs

    def compute_mask(self, inputs, previous_mask=None):
        """Returns the inner layer's mask."""
        return self.layer.compute_mask(inputs, previous_mask)

    def reset_state(self):
        """Sets the states of a stateful recurrent layer back to zero, as that layer's own method does."""
        for state in _states(self.layer):
            state.assign(keras.ops.zeros(state.shape, state.dtype))

    def get_build_config(self):
        """Returns the shapes the layer was built with."""
        return {"shapes": self._shapes} if self._shapes else super().get_build_config()

    def build_from_config(self, config):
        """Builds the layer from `get_build_config`."""
        if config and "shapes" in config:
            self._shapes = {name: _tuples(shape) for name, shape in config["shapes"].items()}
            self.build()
        else:
            super().build_from_config(config)

    def get_config(self):
        """Returns the constructor's arguments as plain JSON."""
        return {**super().get_config(), "layer": keras.saving.serialize_keras_object(self.layer)}

    @classmethod
    def from_config(cls, config):
        """Returns the layer of a `get_config` result."""
        config = dict(config)
        # Built by the wrapper, for the shapes it was called with; the layer's own entry would search ranges of fresh
        # weights.
        layer = {key: value for key, value in config["layer"].items() if key != "build_config"}
        config["layer"] = keras.saving.deserialize_keras_object(layer)
        return cls(**config)

    def _finish_build(self, trained: bool = True) -> None:
        """Makes the substitutes once the inner layer has its weights."""
        if self.layer.built and not self.built:
            self.build_substitutes(trained=trained)
            self.built = True

    def _write_back(self, states, values: dict) -> None:
        """Carries over what the inner call did to its own state: seeds, statistics, recurrent states."""
        for variable, before, after in states:
            if after is before:
                continue
            if id(variable) in values:
                raise ValueError(
                    f"The layer {self.name!r} ({type(self.layer).__name__}) writes to its own weight {variable.path} "
                    "when called, so r2keras cannot put a compressed value in its place. Leave it float: add the "
                    f"rule ({self.name!r}, None) at the top of the recipe, or replace the layer."
                )
            variable.assign(after)


def _states(layer: keras.Layer) -> list[keras.Variable]:
    """Returns the states that recurrent layers keep from call to call, which are not among a layer's `variables`."""
    parts = [part for part in layer._flatten_layers() if isinstance(part, keras.layers.RNN) and part.stateful]
    return [state for part in parts if part.states is not None for state in tree.flatten(part.states)]


def _argument_shapes(layer: keras.Layer, args: tuple, kwargs: dict) -> dict:
    """Returns what `layer.build` wants for these call arguments, as Keras itself would find it."""
    call, wanted = inspect.signature(layer.call), list(inspect.signature(layer.build).parameters)
    known = {k: v for k, v in kwargs.items() if k in call.parameters}
    bound = call.bind(*args, **known).arguments
    shapes = {f"{name}_shape": _shape(value) for name, value in bound.items() if _is_tensors(value)}
    if len(wanted) == 1:
        return {wanted[0]: next(iter(shapes.values()), None)}
    return {name: shape for name, shape in shapes.items() if name in wanted}


def _shape(value):
    """Returns the shapes of a structure of tensors."""
    return tree.map_structure(lambda x: None if x is None else tuple(x.shape), value)


def _tuples(shape):
    """Returns a shape, or a structure of shapes, as it was before JSON made lists of its tuples."""
    if not isinstance(shape, (list, tuple)):
        return shape
    parts = [_tuples(part) for part in shape]
    return tuple(parts) if all(part is None or isinstance(part, int) for part in parts) else parts


def _is_tensors(value) -> bool:
    """Whether a call's argument is a tensor or a structure of them."""
    leaves = tree.flatten(value)
    return bool(leaves) and all(hasattr(x, "shape") for x in leaves)


def _first_parameter(function) -> str:
    """Returns the name of a function's first parameter."""
    return next(iter(inspect.signature(function).parameters))
