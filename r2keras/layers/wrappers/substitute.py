"""The base class of wrappers that run any layer with other values in place of some of its weights."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import keras
from keras import tree

from r2keras._models.keras_internals import clear_losses, is_default, parts_of
from r2keras._models.layer_copies import deserialize, named
from r2keras._models.sparse_marks import IgnoresSparseMarks
from r2keras._util.errors import invalid


def never_writes(layer: keras.Layer) -> bool:
    """Whether a layer is known not to write to its own kernels when called: the layers of Keras but one."""
    parts = parts_of(layer)
    return all(_is_of_keras(part) and not isinstance(part, keras.layers.SpectralNormalization) for part in parts)


class SubstituteWeights(IgnoresSparseMarks):
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

    is_r2keras_wrapper = True
    # Whether `initialize` will follow once the weights are there, so that `build_substitutes` need not set any ranges.
    starts_later = False
    layer: keras.Layer
    built: bool

    def __init__(
        self,
        layer: keras.Layer,
        *,
        tied: Iterable[SubstituteWeights] = (),
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(layer, keras.Layer) or isinstance(layer, (keras.Model, SubstituteWeights)):
            expected = "a Keras layer that is neither a model nor already wrapped"
            raise TypeError(invalid("layer", expected, layer, "Use r2keras.prepare for a model"))
        # Latent weights are read in their own precision, because a mixed policy would flip codes. The inner layer casts
        # its inputs itself.
        kwargs.setdefault("dtype", layer.variable_dtype)
        super().__init__(name=name or layer.name, autocast=False, **kwargs)
        self.layer = layer
        self.tied = list(tied)
        self.supports_masking = layer.supports_masking
        self._build_shapes: dict[str, Any] | None = None
        self._first_call: tuple[tuple, dict[str, Any]] | None = None
        self._has_substitutes = False
        self._checked_in_training = False

    def build_substitutes(self, *, trained: bool) -> None:
        """Creates what `substitutes` needs; called once, when the layer's weights exist.

        Args:
            trained: True if the layer was passed in with its weights, False if they were just initialized.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement `build_substitutes`.")

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
        if self._build_shapes is None:
            self._build_shapes = _argument_shapes(self.layer, args, kwargs)
        if not self._has_substitutes:
            self._first_call = _symbolic((args, kwargs))
            # Keras takes a layer from a file for built.
            self.built = False
        outputs = super().__call__(*args, **kwargs)
        self._first_call = None
        if not self._checked_in_training:
            # A layer may write to its own weights in training only. One symbolic call in training mode refuses it here
            # rather than in the first training step.
            self._checked_in_training = True
            if not never_writes(self.layer):
                super().compute_output_spec(*args, **{**kwargs, "training": True})
        return outputs

    def compute_output_spec(self, *args: Any, **kwargs: Any):
        """Returns shapes and types of the outputs: those that a layer of Keras declares, else those of a call."""
        if not (never_writes(self.layer) and _knows_its_outputs(self.layer)):
            return super().compute_output_spec(*args, **kwargs)
        if "training" not in inspect.signature(self.layer.call).parameters:
            kwargs.pop("training", None)
        return self.layer.compute_output_spec(*args, **kwargs)

    def build(self, input_shape=None) -> None:
        """Builds the inner layer, then the substitutes."""
        if not self.layer.built and not _is_built_by_calls(self.layer):
            self.layer.build(**(self._build_shapes or {_first_parameter(self.layer.build): input_shape}))
        if self._first_call is not None and not _is_complete(self.layer):
            # Layers inside it get their weights only when they are called.
            args, kwargs = self._first_call
            self.layer(*args, **kwargs)
        self._finish_build(trained=False)

    def call(self, inputs, *args: Any, training: bool | None = None, **kwargs: Any):
        """Runs the inner layer with the substituted weights."""
        values = {id(v): value for wrapper in (*self.tied, self) for v, value in wrapper.substitutes(training)}
        variables = [*self.layer.variables, *_states(self.layer)]
        if "training" in inspect.signature(self.layer.call).parameters:
            kwargs["training"] = training
        mapping = [(v, values.get(id(v), v.value)) for v in variables]
        with keras.StatelessScope(state_mapping=mapping, collect_losses=True) as scope:
            before = [scope.get_current_value(v) for v in variables]
            outputs = self.layer(inputs, *args, **kwargs)
            after = [scope.get_current_value(v) for v in variables]
        self._write_back(zip(variables, before, after, strict=True), values)
        # The wrapper reports the losses. The inner layer would report them again in Keras' own stateless scope.
        clear_losses(self.layer)
        for loss in scope.losses:
            self.add_loss(loss)
        return outputs

    def compute_mask(self, inputs, previous_mask=None):
        """Returns the inner layer's mask."""
        return self.layer.compute_mask(inputs, previous_mask)

    def reset_state(self) -> None:
        """Resets the states of a stateful recurrent layer to zero, like that layer's own method."""
        for state in _states(self.layer):
            state.assign(keras.ops.zeros(state.shape, state.dtype))

    def get_build_config(self) -> dict[str, Any]:
        """Returns the shapes the layer was built with."""
        return {"shapes": self._build_shapes} if self._build_shapes else super().get_build_config()

    def build_from_config(self, config: dict[str, Any]) -> None:
        """Builds the layer from `get_build_config`."""
        if config and "shapes" in config:
            self._build_shapes = {name: _tuples(shape) for name, shape in config["shapes"].items()}
            if not _is_built_by_calls(self.layer):
                self.layer.build(**self._build_shapes)
            # The weights of a layer that is not complete come into being in the first call of its model.
            if _is_complete(self.layer):
                self.build()
        else:
            super().build_from_config(config)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as plain JSON."""
        layer = keras.saving.serialize_keras_object(self.layer)
        # Keras' own get_config() may leave the name out; the names of weights in the layer can depend on it.
        config = {**super().get_config(), "layer": {**layer, "config": {**named(self.layer), **layer["config"]}}}
        return {**config, "tied": keras.saving.serialize_keras_object(list(self.tied))} if self.tied else config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> SubstituteWeights:
        """Returns the layer of a `get_config` result."""
        config = dict(config)
        # The wrapper builds the inner layer. With the layer's own build_config, the wrapper would receive a built layer
        # and search the ranges of its fresh weights.
        layer = {key: value for key, value in config["layer"].items() if key != "build_config"}
        # Keras gives each wrapper in `tied` and in the model once. The layer inside must hold theirs.
        config["tied"] = keras.saving.deserialize_keras_object(config.get("tied", []))
        config["layer"] = deserialize(layer, config["tied"])
        return cls(**config)

    def _finish_build(self, trained: bool = True) -> None:
        """Creates the substitutes once the inner layer has its weights."""
        if self.layer.built and not self._has_substitutes and (_is_complete(self.layer) or not trained):
            self.build_substitutes(trained=trained)
            self.built = self._has_substitutes = True

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


def _is_built_by_calls(layer: keras.Layer) -> bool:
    """Whether a layer has no `build` of its own, and layers inside it that are not built yet."""
    return is_default(layer.build) and not _is_complete(layer)


def _is_complete(layer: keras.Layer) -> bool:
    """Whether all layers inside a layer are built."""
    return all(part.built for part in parts_of(layer)[1:])


def _symbolic(arguments: Any) -> Any:
    """Returns the arguments of a call with symbolic tensors in place of the tensors."""
    return tree.map_structure(
        lambda x: keras.KerasTensor(x.shape, x.dtype) if hasattr(x, "shape") and hasattr(x, "dtype") else x, arguments
    )


def _is_of_keras(layer: keras.Layer) -> bool:
    """Whether the class of a layer is one of Keras, not a subclass of the caller's."""
    return type(layer).__module__.partition(".")[0] == "keras"


def _knows_its_outputs(layer: keras.Layer) -> bool:
    """Whether the class of a layer computes the shapes of its outputs without a call."""
    kind = type(layer)
    own_shape = kind.compute_output_shape is not keras.layers.Layer.compute_output_shape
    return own_shape or kind.compute_output_spec is not keras.layers.Layer.compute_output_spec


def _states(layer: keras.Layer) -> list[keras.Variable]:
    """Returns the states of stateful recurrent layers, which are not among a layer's `variables`."""
    parts = [part for part in parts_of(layer) if isinstance(part, keras.layers.RNN) and part.stateful]
    return [state for part in parts if part.states is not None for state in tree.flatten(part.states)]


def _argument_shapes(layer: keras.Layer, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Returns the arguments of `layer.build` for these call arguments, by the same rules as Keras."""
    call_signature = inspect.signature(layer.call)
    build_parameters = list(inspect.signature(layer.build).parameters)
    known = {name: value for name, value in kwargs.items() if name in call_signature.parameters}
    bound = call_signature.bind(*args, **known).arguments
    shapes = {f"{name}_shape": _shape(value) for name, value in bound.items() if _is_tensors(value)}
    if len(build_parameters) == 1:
        return {build_parameters[0]: next(iter(shapes.values()), None)}
    return {name: shape for name, shape in shapes.items() if name in build_parameters}


def _shape(value: Any) -> Any:
    """Returns the shapes of a structure of tensors."""
    return tree.map_structure(lambda x: None if x is None else tuple(x.shape), value)


def _tuples(shape: Any) -> Any:
    """Restores the tuples of a shape, or of a structure of shapes, that JSON turned into lists."""
    if not isinstance(shape, (list, tuple)):
        return shape
    parts = [_tuples(part) for part in shape]
    return tuple(parts) if all(part is None or isinstance(part, int) for part in parts) else parts


def _is_tensors(value: Any) -> bool:
    """Whether a call argument is a tensor or a structure of tensors."""
    leaves = tree.flatten(value)
    return bool(leaves) and all(hasattr(x, "shape") for x in leaves)


def _first_parameter(function: Callable) -> str:
    """Returns the name of a function's first parameter."""
    return next(iter(inspect.signature(function).parameters))
