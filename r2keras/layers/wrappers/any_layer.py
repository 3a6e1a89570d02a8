"""The base class of wrappers that run any layer."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import keras
from keras import tree

from r2keras._models.keras_internals import is_default, parts_of
from r2keras._models.layer_copies import deserialize, named
from r2keras._models.sparse_marks import IgnoresSparseMarks
from r2keras._util.errors import invalid


def never_writes(layer: keras.Layer) -> bool:
    """Whether a layer is known not to write to its own kernels when called: the layers of Keras but one."""
    parts = parts_of(layer)
    return all(_is_of_keras(part) and not isinstance(part, keras.layers.SpectralNormalization) for part in parts)


class AnyLayer(IgnoresSparseMarks):
    """Builds, saves and loads a layer of any class, with any inputs, inside a wrapper of the same name.

    Subclasses implement `call(inputs, *args, training=None, **kwargs)`. Their constructor ends with
    `self._finish_build()`.

    Args:
        layer: any Keras layer that is not a model, built or not.
        name: the wrapper's name; None uses the layer's.

    Raises:
        TypeError: `layer` is not a layer, or is a model or another wrapper of this type.
    """

    is_r2keras_wrapper = True
    layer: keras.Layer
    built: bool

    def __init__(self, layer: keras.Layer, *, name: str | None = None, **kwargs: Any) -> None:
        if not isinstance(layer, keras.Layer) or isinstance(layer, (keras.Model, AnyLayer)):
            expected = "a Keras layer that is neither a model nor already wrapped"
            raise TypeError(invalid("layer", expected, layer, "Use r2keras.prepare for a model"))
        # Latent weights are read in their own precision, because a mixed policy would flip codes. The inner layer casts
        # its inputs itself.
        kwargs.setdefault("dtype", layer.variable_dtype)
        super().__init__(name=name or layer.name, autocast=False, **kwargs)
        self.layer = layer
        self.supports_masking = layer.supports_masking
        self._build_shapes: dict[str, Any] | None = None
        self._first_call: tuple[tuple, dict[str, Any]] | None = None
        self._is_set_up = False

    def set_up(self, *, trained: bool) -> None:
        """Creates what the wrapper adds to the layer; called once, when the layer's weights exist.

        Args:
            trained: True if the layer was passed in with its weights, False if they were just initialized.
        """

    def __call__(self, *args: Any, **kwargs: Any):
        """Builds the inner layer for its own arguments, then runs it."""
        if self._build_shapes is None:
            self._build_shapes = _argument_shapes(self.layer, args, kwargs)
        if not self._is_set_up:
            self._first_call = _symbolic((args, kwargs))
            # Keras takes a layer from a file for built.
            self.built = False
        outputs = super().__call__(*args, **kwargs)
        self._first_call = None
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

    def run(self, inputs, *args: Any, training: bool | None = None, **kwargs: Any):
        """Calls the inner layer, with `training` if it takes that."""
        if "training" in inspect.signature(self.layer.call).parameters:
            kwargs["training"] = training
        return self.layer(inputs, *args, **kwargs)

    def compute_mask(self, inputs, previous_mask=None):
        """Returns the inner layer's mask."""
        return self.layer.compute_mask(inputs, previous_mask)

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
        return {**super().get_config(), "layer": {**layer, "config": {**named(self.layer), **layer["config"]}}}

    @classmethod
    def from_config(cls, config: dict[str, Any]):
        """Returns the layer of a `get_config` result."""
        config = dict(config)
        # The wrapper builds the inner layer. With the layer's own build_config, the wrapper would receive a built layer
        # and search the ranges of its fresh weights.
        layer = {key: value for key, value in config["layer"].items() if key != "build_config"}
        config["layer"] = deserialize(layer, config.get("tied", []))
        return cls(**config)

    def _finish_build(self, trained: bool = True) -> None:
        """Calls `set_up` once the inner layer has its weights."""
        if self.layer.built and not self._is_set_up and (_is_complete(self.layer) or not trained):
            self.set_up(trained=trained)
            self.built = self._is_set_up = True


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
