"""Keras models as a value: their layers, kernels and calls; and copies of them with other layers."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Container
from typing import Any, TypeVar

import keras
import numpy as np
from keras import tree

from r2keras import _insert, _weight_names
from r2keras._graph import Graph, graph_of
from r2keras._keras_internals import compile_settings, lambda_output_shape, parts_of

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
    def _kernels_by_path(self) -> dict[str, tuple[Kernel, ...]]:
        return {path: tuple(Kernel(path, *pair) for pair in kernels(layer)) for path, layer in self.layers}


def full_name(path: str, name: str) -> str:
    """Returns the name of a weight in recipes and records, from its layer's path and its name in the layer."""
    return f"{path}/{name}"


def view_of(model: keras.Model | ModelView) -> ModelView:
    """Returns the view of a model; a view as it is.

    Args:
        model: a built Functional or Sequential model, nested ones included.

    Raises:
        TypeError: `model` is not a Keras model, or it or a model inside it is subclassed.
        ValueError: the model is not built.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="head")], name="net")
    >>> [kernel.full_name for kernel in view_of(model).kernels]
    ['head/kernel']
    """
    return model if isinstance(model, ModelView) else ModelView(model, tuple(leaf_layers(model)))


def leaf_layers(model: keras.Model) -> list[tuple[str, keras.Layer]]:
    """Returns every layer that is not itself a model, with its path (`"block/conv1"` inside a nested `block`).

    Args:
        model: a built Functional or Sequential model, nested ones included.

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
    _check_graph(model)
    layers_by_id: dict[int, tuple[str, keras.Layer]] = {}
    _collect(model, "", layers_by_id)
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


def quantizer_weights(layer: keras.Layer) -> set[int]:
    """Returns the `id` of every variable of r2keras' quantizers inside a layer."""
    parts = (part for part in parts_of(layer) if getattr(part, "is_r2keras_quantizer", False))
    return {id(variable) for part in parts for variable in part.weights}


def relative_weights(layer: keras.Layer) -> list[tuple[str, keras.Variable]]:
    """Returns all weights of a layer with their names relative to it, which copies and saved files share."""
    return list(zip(_weight_names.relative_names(layer), layer.weights, strict=True))


def rebuild(
    model: keras.Model | ModelView,
    replace: Callable[[str, keras.Layer], keras.Layer | None] | None = None,
    objects: dict[str, object] | None = None,
    *,
    append: Callable[[str, str], keras.Layer | None] | None = None,
    drop: Container[str] = (),
    carry: Callable[[str, keras.Layer, keras.Layer], None] | None = None,
) -> keras.Model:
    """Returns a copy of a model with some layers replaced and every weight carried over.

    Args:
        model: a built Functional or Sequential model, nested ones included; left untouched.
        replace: called with `(path, layer)` for every layer that is not itself a model. Returns a new, unbuilt layer
            to stand in its place, or None for a plain copy. A new layer that has a `layer` attribute of the old
            layer's class counts as a wrapper around it; one that has `holds_constants` set takes no weights over.
        append: called with `(path, name)` of every layer, operation and input. Returns a new layer that takes its
            output and stands in its place for all that follows, or None. The output of a layer called twice goes
            through it twice.
        drop: paths of layers with one input and one output of the same shape, which the copy leaves out.
        carry: called with `(path, old, new)` for every layer with weights; None takes `transfer`.
        objects: unregistered classes and functions by name that the configs of the new layers mention. Those of the
            model's own layers are known without it.

    Returns:
        A model of the same class, with the same names, compiled like `model` if that was compiled (fresh optimizer).

    Raises:
        TypeError: a subclassed model.
        ValueError: the model is not built, or a weight of it has no counterpart in the copy.
    """
    view = view_of(model)
    paths = {id(layer): path for path, layer in view.layers}
    shared = {**_compile_objects(view.model), **(objects or {})}
    new_layers: dict[int, keras.Layer] = {}

    def clone(layer: keras.Layer) -> keras.Layer:
        # One scope: an inner one would hide the names of an outer one.
        with keras.saving.custom_object_scope({**_own_objects(layer), **shared}):
            new = replace(paths[id(layer)], layer) if replace is not None and id(layer) in paths else None
            new_layers[id(layer)] = new or copy_layer(layer)
        return new_layers[id(layer)]

    with keras.saving.custom_object_scope(shared):
        copy = _insert.copy_with(view.model, clone, append, drop)
    for path, layer in view.layers:
        if layer.weights and path not in drop and not getattr(new_layers[id(layer)], "holds_constants", False):
            (carry or transfer)(path, layer, new_layers[id(layer)])
    return copy


def copy_layer(layer: keras.Layer) -> keras.Layer:
    """Returns a new, unbuilt layer of the same config."""
    if type(layer) is keras.layers.Lambda:
        # From a config Keras makes no function, since a file could hide code in it. Here is the function itself.
        return keras.layers.Lambda(
            layer.function,
            output_shape=lambda_output_shape(layer),
            mask=layer.mask,
            arguments=layer.arguments,
            name=layer.name,
            dtype=layer.dtype_policy,
        )
    return layer.__class__.from_config(layer.get_config())


def transfer(path: str, old: keras.Layer, new: keras.Layer) -> None:
    """Copies the weights of `old` to those of `new` in order; a regularizer's scalars only to equal ones."""
    layers = _unwrap(old, new), _unwrap(new, old)
    sources, targets = map(_own_weights, layers)
    if not _alike(sources, targets):
        # One of them quantizes by itself, as recurrent layers do, and the other does not.
        ids = set().union(*map(quantizer_weights, layers))
        sources, targets = ([v for v in weights if id(v) not in ids] for weights in (sources, targets))
    if not _alike(sources, targets):
        raise ValueError(
            f"The weights of {path} ({', '.join(v.name for v in sources)}) have no counterpart in the rebuilt layer. "
            "Expected a layer that `from_config(get_config())` reproduces. "
            f"Received: {type(old).__name__}. Check its get_config()."
        )
    for source, target in zip(sources, targets, strict=True):
        _copy_value(source, target)
        learned, copies = _scalars(source), _scalars(target)
        if _alike(learned, copies):
            for scalar, copy in zip(learned, copies, strict=True):
                _copy_value(scalar, copy)
    if isinstance(new, keras.layers.Normalization):
        # It computes with copies of its weights.
        new.finalize_state()


def _copy_value(source: keras.Variable, target: keras.Variable) -> None:
    """Assigns the value of one weight to another."""
    # Through NumPy: a shared JAX buffer would be donated, and so deleted, by the first step of either model.
    target.assign(keras.ops.convert_to_numpy(source))


def packed(model: keras.Model, batch: list):
    """Returns a list of arrays, one per input, in the structure that the model takes."""
    # A Sequential model that was never called has no `input` to read the structure from.
    return batch[0] if isinstance(model, keras.Sequential) else keras.tree.pack_sequence_as(model.input, batch)


def check_finite(path: str, values: np.ndarray) -> None:
    """Raises ValueError if a weight has NaN or infinite entries, naming it."""
    if not np.isfinite(values).all():
        bad = int(values.size - np.isfinite(values).sum())
        raise ValueError(
            f"The weight {path} has {bad} NaN or infinite values of {values.size}. Expected finite weights. "
            "Train again with a smaller learning rate or gradient clipping, or restore an earlier checkpoint."
        )


def finite(path: str, variable: keras.Variable) -> np.ndarray:
    """Returns a weight as float32; raises ValueError if it has NaN or infinite entries, naming it."""
    values = to_numpy(variable)
    check_finite(path, values)
    return values


def to_numpy(variable: keras.Variable) -> np.ndarray:
    """Returns a weight as float32, from any float type and backend."""
    return np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(variable, "float32")))


def affine_of(norm: keras.layers.BatchNormalization) -> tuple[np.ndarray, np.ndarray]:
    """Returns factor and offset of a batch normalization in inference: `y = factor x + offset`, float64."""
    mean, variance = (to_numpy(v).astype(np.float64) for v in (norm.moving_mean, norm.moving_variance))
    factor = 1 / np.sqrt(variance + norm.epsilon)
    if norm.scale:
        factor = factor * to_numpy(norm.gamma)
    offset = -mean * factor
    return factor, offset + to_numpy(norm.beta) if norm.center else offset


def _is_graph(model: object) -> bool:
    """Whether a model is Sequential or Functional."""
    return isinstance(model, keras.Sequential) or (isinstance(model, keras.Model) and isinstance(model, keras.Function))


def _check_graph(model: object) -> None:
    """Raises unless the model can be rebuilt from its graph."""
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"Invalid value for argument `model`. Expected a Keras 3 model. Received: {type(model)}. "
            "Models of tf_keras go through r2keras.tfmot."
        )
    if not _is_graph(model):
        raise TypeError(
            f"r2keras rebuilds models from their graph. Expected a Functional or Sequential model. Received: the "
            f"subclassed {type(model).__name__} {model.name!r}. Call it on keras.Input tensors and make "
            "keras.Model(inputs, outputs) of its layers."
        )
    if not model.built:
        raise ValueError(
            f"The model {model.name!r} is not built, so it has no weights. Expected a built model. "
            "Give it a keras.Input, call model.build(input_shape), or call it once on data."
        )


def _collect(model: keras.Model, prefix: str, layers_by_id: dict[int, tuple[str, keras.Layer]]) -> None:
    """Adds the leaf layers of `model` to `layers_by_id`."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            _check_graph(layer)
            _collect(layer, f"{prefix}{layer.name}/", layers_by_id)
        else:
            layers_by_id.setdefault(id(layer), (prefix + layer.name, layer))


def _is_kernel(variable: keras.Variable) -> bool:
    """Whether a weight is a kernel by its shape, name and type."""
    is_float = keras.backend.is_float_dtype(variable.dtype)
    return len(variable.shape) >= 2 and variable.name not in NOT_KERNELS and is_float


def _own_objects(layer: keras.Operation) -> dict[str, object]:
    """Returns the caller's own functions and classes in a layer by name, of which Keras finds only registered ones."""
    # `x + y` is an operation that is not a layer.
    parts = parts_of(layer) if isinstance(layer, keras.Layer) else [layer]
    fields = [field for part in parts for field in vars(part).values()]
    functions = [field for field in fields if inspect.isfunction(field)]
    classes = [type(part) for part in (*parts, *fields) if hasattr(part, "get_config")]
    return _by_name([*functions, *classes])


def _compile_objects(model: keras.Model) -> dict[str, object]:
    """Returns the caller's own losses, metrics and optimizers by name."""
    settings = tree.flatten(compile_settings(model)) if model.compiled else []
    return _by_name([part if inspect.isfunction(part) else type(part) for part in settings])


def _by_name(objects: list[Any]) -> dict[str, object]:
    """Returns functions and classes by name, except those of Python and Keras."""
    own = [part for part in objects if part.__module__.partition(".")[0] not in ("builtins", "keras")]
    return {part.__name__: part for part in own if part.__name__ != "<lambda>"}


def _own_weights(layer: keras.Layer) -> list[keras.Variable]:
    """Returns the weights of a layer without the learned scalars of its regularizers."""
    scalars = {id(scalar) for variable in layer.weights for scalar in _scalars(variable)}
    return [variable for variable in layer.weights if id(variable) not in scalars]


def _alike(first: list[keras.Variable], second: list[keras.Variable]) -> bool:
    """Whether two lists hold weights of the same shapes and names; unnamed weights are alike."""
    return [_form(v) for v in first] == [_form(v) for v in second]


def _form(variable: keras.Variable) -> tuple[str, tuple[int, ...]]:
    """Returns the name of a weight, without the count of an unnamed one, and its shape."""
    return _weight_names.without_count(variable.name), tuple(variable.shape)


def _scalars(variable: keras.Variable) -> list[keras.Variable]:
    """Returns the variables that the regularizer of a weight learns."""
    regularizer = variable.regularizer
    return list(regularizer.weights) if isinstance(regularizer, keras.Layer) else []


def _unwrap(layer: keras.Layer, other: keras.Layer) -> keras.Layer:
    """Returns the layer inside a wrapper if the other layer is its bare form; else the layer."""
    inner = getattr(layer, "layer", None)
    return inner if isinstance(inner, type(other)) and not isinstance(layer, type(other)) else layer
