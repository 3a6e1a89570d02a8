"""Views of Keras models: their layers, kernels and calls, read once."""

from __future__ import annotations

import dataclasses
import functools
import os
from typing import TypeVar

import keras

from r2keras._models import weight_names
from r2keras._models.graph import Graph, graph_of
from r2keras._models.ties import Tie, ties_of
from r2keras._models.weight_transfer import quantizer_weights
from r2keras._util.errors import invalid_part

# The layer that quantizes the output of `"conv"` is called `"conv_quantized"`.
QUANTIZED_SUFFIX = "_quantized"
NOT_KERNELS = ("bias", "gamma", "beta", "alpha", "vector_u", "moving_mean", "moving_variance", "mean", "variance")

Kind = TypeVar("Kind", bound=keras.Layer)


@dataclasses.dataclass(frozen=True, eq=False)
class Kernel:
    """A kernel of a model.

    Args:
        path: the path of the layer, or of the part of a layer, that holds it: `"block/conv"`.
        name: its name relative to that layer: `"kernel"`, `"lstm_cell/recurrent_kernel"`.
        variable: the weight.
    """

    path: str
    name: str
    variable: keras.Variable

    @property
    def full_name(self) -> str:
        """The name in recipes and records, `"block/conv/kernel"`."""
        return full_name(self.path, self.name)


@dataclasses.dataclass(frozen=True, eq=False)
class ModelView:
    """The layers, kernels and calls of a model, read once at the start of a public function: `view_of(model)`.

    Args:
        model: the model.
        layers: every layer that is not itself a model with its path, as `leaf_layers` returns them.
    """

    model: keras.Model
    layers: tuple[tuple[str, keras.Layer], ...]

    @functools.cached_property
    def kernels(self) -> tuple[Kernel, ...]:
        """The kernels of all layers, in the order of the layers."""
        return tuple(kernel for path, layer in self.layers for kernel in self.kernels_in(path))

    @functools.cached_property
    def layers_by_path(self) -> dict[str, keras.Layer]:
        """The layers by their paths."""
        return dict(self.layers)

    @functools.cached_property
    def graph(self) -> Graph:
        """The calls of the model, nested models opened up."""
        return graph_of(self.model)

    def kernels_in(self, path: str) -> tuple[Kernel, ...]:
        """Returns the kernels of one layer."""
        return self._kernels_by_path[path]

    def instances(self, kind: type[Kind]) -> list[tuple[str, Kind]]:
        """Returns the layers of a class with their paths."""
        return [(path, layer) for path, layer in self.layers if isinstance(layer, kind)]

    @functools.cached_property
    def ties(self) -> tuple[Tie, ...]:
        """The layers that use the weights of another layer of the model."""
        return ties_of(self.layers, self.model)

    @property
    def tied_sources(self) -> set[str]:
        """The paths of layers whose weights another layer uses."""
        return {tie.source_path for tie in self.ties}

    def weights_in(self, path: str) -> list[tuple[str, keras.Variable]]:
        """Returns the weights that one layer owns with their names relative to it, not those that it is tied to."""
        return [pair for pair in relative_weights(self.layers_by_path[path]) if id(pair[1]) not in self._foreign(path)]

    def _foreign(self, path: str) -> set[int]:
        """Returns the `id` of every weight that a layer uses and another one owns."""
        return {id(variable) for tie in self.ties if tie.path == path for variable in tie.variables}

    @functools.cached_property
    def _kernels_by_path(self) -> dict[str, tuple[Kernel, ...]]:
        by_path = {}
        for path, layer in self.layers:
            foreign = self._foreign(path)
            by_path[path] = tuple(Kernel(path, *pair) for pair in kernels(layer) if id(pair[1]) not in foreign)
        return by_path


def full_name(path: str, name: str) -> str:
    """Returns the name of a weight in recipes and records, from its layer's path and its name in the layer."""
    return f"{path}/{name}"


def view_of(model: keras.Model | ModelView, argument: str = "model") -> ModelView:
    """Returns the view of a model; a view is returned unchanged.

    Args:
        model: a built Functional or Sequential model, nested ones included.
        argument: the name of the caller's argument, for errors.

    Raises:
        TypeError: `model` is not a Keras model, or it or a model inside it is subclassed.
        ValueError: the model is not built.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="head")], name="net")
    >>> [kernel.full_name for kernel in view_of(model).kernels]
    ['head/kernel']
    """
    return model if isinstance(model, ModelView) else ModelView(model, tuple(leaf_layers(model, argument)))


def leaf_layers(model: keras.Model, argument: str = "model") -> list[tuple[str, keras.Layer]]:
    """Returns every layer that is not itself a model, with its path (`"block/conv1"` inside a nested `block`).

    Args:
        model: a built Functional or Sequential model, nested ones included.
        argument: the name of the caller's argument, for errors.

    Returns:
        Pairs `(path, layer)` in the order of `model.layers`; a layer used several times appears once.

    Raises:
        TypeError: `model` is not a Keras model, or it or a model inside it is subclassed.
        ValueError: the model is not built.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="head")], name="net")
    >>> [path for path, _ in leaf_layers(model)]
    ['head']
    """
    _check_graph(model, argument)
    layers_by_id: dict[int, tuple[str, keras.Layer]] = {}
    _collect(model, "", layers_by_id, argument)
    return list(layers_by_id.values())


def kernels(layer: keras.Layer) -> list[tuple[str, keras.Variable]]:
    """Returns the weights of a layer that are compressed: floats of rank 2 or more, except biases and statistics.

    Args:
        layer: a built layer; composite ones (`Bidirectional`, `MultiHeadAttention`) give the kernels of all parts.

    Returns:
        Pairs `(name, variable)`; the name is relative to the layer: `"kernel"`, `"lstm_cell/recurrent_kernel"`.
    """
    ids = quantizer_weights(layer)
    return [(name, v) for name, v in relative_weights(layer) if _is_kernel(v) and id(v) not in ids]


def relative_weights(layer: keras.Layer) -> list[tuple[str, keras.Variable]]:
    """Returns all weights of a layer with their names relative to it, which copies and saved files share."""
    return list(zip(weight_names.relative_names(layer), layer.weights, strict=True))


def _is_graph(model: object) -> bool:
    """Whether a model is Sequential or Functional."""
    return isinstance(model, keras.Sequential) or (isinstance(model, keras.Model) and isinstance(model, keras.Function))


def _check_graph(model: object, argument: str) -> None:
    """Raises unless the model can be rebuilt from its graph."""
    if not isinstance(model, keras.Model):
        fix = "Use r2keras.tfmot for models of tf_keras"
        if isinstance(model, (str, os.PathLike)):
            fix = "Load the file with keras.saving.load_model"
        elif isinstance(model, tuple):
            fix = "Pass the model alone, without its record"
        raise TypeError(invalid_part(argument, "a Keras 3 model", str(type(model)), fix))
    if not _is_graph(model):
        received = f"the subclassed {type(model).__name__} {model.name!r}"
        fix = "Call its layers on keras.Input tensors, and make keras.Model(inputs, outputs) of the results"
        raise TypeError(invalid_part(argument, "a Functional or Sequential model", received, fix))
    if not model.built:
        received = f"the model {model.name!r}, which is not built and has no weights"
        fix = "Give it a keras.Input, call model.build(input_shape), or call it once on data"
        raise ValueError(invalid_part(argument, "a built model", received, fix))


def _collect(model: keras.Model, prefix: str, layers_by_id: dict[int, tuple[str, keras.Layer]], argument: str) -> None:
    """Adds the leaf layers of `model` to `layers_by_id`."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            _check_graph(layer, argument)
            _collect(layer, f"{prefix}{layer.name}/", layers_by_id, argument)
        else:
            layers_by_id.setdefault(id(layer), (prefix + layer.name, layer))


def _is_kernel(variable: keras.Variable) -> bool:
    """Whether a weight is a kernel by its shape, name and type."""
    is_float = keras.backend.is_float_dtype(variable.dtype)
    return len(variable.shape) >= 2 and variable.name not in NOT_KERNELS and is_float
