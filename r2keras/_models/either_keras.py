"""Models to export, of Keras 3 or of tf_keras, with their layers, weights and kernels."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import TYPE_CHECKING, TypeAlias

import keras

from r2keras._models import tf_keras_layers, walk
from r2keras._models.keras_internals import parts_of
from r2keras._models.walk import ModelView, full_name
from r2keras._util.errors import invalid_part

if TYPE_CHECKING:
    import tensorflow as tf
    import tf_keras

    Model: TypeAlias = "keras.Model | tf_keras.Model"
    Layer: TypeAlias = "keras.Layer | tf_keras.layers.Layer"
    Variable: TypeAlias = "keras.Variable | tf.Variable"


@dataclasses.dataclass(frozen=True, eq=False)
class SourceModel:
    """A model to export, walked once by `read_model`.

    Args:
        model: a built Functional or Sequential model.
        is_tf_keras: whether it is a model of tf_keras, not of Keras 3.
        layers: every layer that is not itself a model, with its path.
        recurrent: every recurrent layer of Keras 3, also inside wrappers, with the path of the outer layer. Empty for
            tf_keras, whose recurrent layers are converted like any other.
        weights: every weight, with its full name `"<layer path>/<variable>"`.
    """

    model: Model
    is_tf_keras: bool
    layers: tuple[tuple[str, Layer], ...]
    recurrent: tuple[tuple[str, keras.layers.RNN], ...]
    weights: tuple[tuple[str, Variable], ...]

    @property
    def name(self) -> str:
        """The model's name."""
        return self.model.name

    @property
    def num_values(self) -> int:
        """The number of values in all weights."""
        return sum(math.prod(variable.shape) for _, variable in self.weights)

    @functools.cached_property
    def view(self) -> ModelView:
        """The view of a model of Keras 3, from which copies are made without walking it again."""
        return ModelView(self.model, self.layers)

    def kernel_shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns the shape of every kernel by its full name."""
        if not self.is_tf_keras:
            return {kernel.full_name: tuple(kernel.variable.shape) for kernel in self.view.kernels}
        kernels = tf_keras_layers.kernels
        return {full_name(path, name): tuple(v.shape) for path, layer in self.layers for name, v in kernels(layer)}


def read_model(model: Model) -> SourceModel:
    """Reads the layers and weights of a model for an export.

    Args:
        model: a built Functional or Sequential model, of Keras 3 or of tf_keras.

    Raises:
        TypeError: not a model, or a subclassed one.
        ValueError: the model is not built.
    """
    if tf_keras_layers.is_tf_keras(model) and tf_keras_layers.is_a(model, "Model"):
        _check_tf_keras(model)
        layers, is_tf_keras = tf_keras_layers.leaf_layers(model), True
        named_weights = [(path, *pair) for path, layer in layers for pair in tf_keras_layers.named_weights(layer)]
    else:
        layers, is_tf_keras = walk.leaf_layers(model), False
        view = ModelView(model, tuple(layers))
        named_weights = [(path, *pair) for path, _ in layers for pair in view.weights_in(path)]
    weights = [(full_name(path, name), variable) for path, name, variable in named_weights]
    recurrent = [] if is_tf_keras else _recurrent(layers)
    return SourceModel(model, is_tf_keras, tuple(layers), tuple(recurrent), tuple(weights))


def _check_tf_keras(model: tf_keras.Model) -> None:
    """Raises unless a model of tf_keras is built and has a graph."""
    if not (tf_keras_layers.is_a(model, "Sequential") or model._is_graph_network):
        received = f"the subclassed {type(model).__name__} {model.name!r}"
        fix = "Call its layers on tf_keras.Input tensors, and make tf_keras.Model(inputs, outputs) of the results"
        raise TypeError(invalid_part("model", "a Functional or Sequential model", received, fix))
    if not model.built or not model.inputs:
        received = f"the model {model.name!r}, which is not built and has no weights"
        raise ValueError(
            invalid_part("model", "a built model", received, "Give it a tf_keras.Input as its first layer")
        )


def _recurrent(layers: list[tuple[str, keras.Layer]]) -> list[tuple[str, keras.layers.RNN]]:
    """Returns the recurrent layers of Keras 3 among layers and the parts of layers."""
    parts = [(path, part) for path, layer in layers for part in parts_of(layer)]
    return [(path, part) for path, part in parts if isinstance(part, keras.layers.RNN)]
