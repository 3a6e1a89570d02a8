"""Walking a Keras model: its layers, their kernels, and a copy of the model with some layers replaced."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import tree

from r2keras import _insert
from r2keras._keras_internals import compile_settings, lambda_output_shape, parts_of

NOT_KERNELS = ("bias", "gamma", "beta", "alpha", "vector_u", "moving_mean", "moving_variance", "mean", "variance")


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
    found: dict[int, tuple[str, keras.Layer]] = {}
    _collect(model, "", found)
    return list(found.values())


def kernels(layer: keras.Layer) -> list[tuple[str, keras.Variable]]:
    """Returns the weights of a layer that compression is for: floats of rank 2 or more that are no bias or statistic.

    Args:
        layer: a built layer; composite ones (`Bidirectional`, `MultiHeadAttention`) give the kernels of all parts.

    Returns:
        Pairs `(name, variable)`; the name is relative to the layer: `"kernel"`, `"lstm_cell/recurrent_kernel"`.
    """
    others = quantizer_weights(layer)
    return [(name, v) for name, v in relative_weights(layer) if _is_kernel(v) and id(v) not in others]


def quantizer_weights(layer: keras.Layer) -> set[int]:
    """Returns the identities of the variables that belong to r2keras' quantizers inside a layer."""
    parts = (part for part in parts_of(layer) if getattr(part, "is_r2keras_quantizer", False))
    return {id(variable) for part in parts for variable in part.weights}


def relative_weights(layer: keras.Layer) -> list[tuple[str, keras.Variable]]:
    """Returns all weights of a layer with their names relative to it."""
    names = [_relative(variable.path, layer.name, last=True) for variable in layer.weights]
    if len(set(names)) < len(names):
        names = [_relative(variable.path, layer.name, last=False) for variable in layer.weights]
    # A copy's cells are built before their stack, whose name their paths then lack.
    stacks = {part.name for part in parts_of(layer) if isinstance(part, keras.layers.StackedRNNCells)}
    names = ["/".join(scope for scope in name.split("/") if scope not in stacks) for name in names]
    return list(zip(names, layer.weights, strict=True))


def rebuild(
    model: keras.Model,
    replace: Callable[[str, keras.Layer], keras.Layer | None],
    objects: dict[str, object] | None = None,
    *,
    append: Callable[[str], keras.Layer | None] | None = None,
    carry: Callable[[str, keras.Layer, keras.Layer], None] | None = None,
) -> keras.Model:
    """Returns a copy of a model with some layers replaced and every weight carried over.

    Args:
        model: a built Functional or Sequential model, nested ones included; left untouched.
        replace: called with `(path, layer)` for every layer that is not itself a model. Returns a new, unbuilt layer
            to stand in its place, or None for a plain copy. A new layer that has a `layer` attribute of the old
            layer's class counts as a wrapper around it; one that has `holds_constants` set takes no weights over.
        append: called with the path of every layer, operation and input. Returns a new layer that takes its output and
            stands in its place for all that follows, or None. The output of a layer called twice goes through it twice.
        carry: called with `(path, old, new)` for every layer with weights; None takes `transfer`.
        objects: classes and functions by name that nobody registered and that the new layers' configs mention.

    Returns:
        A model of the same class, with the same names, compiled like `model` if that was compiled (fresh optimizer).

    Raises:
        TypeError: a subclassed model.
        ValueError: the model is not built, or a weight of it has no place in the copy.
    """
    paths = {id(layer): path for path, layer in leaf_layers(model)}
    new_layers: dict[int, keras.Layer] = {}

    def clone(layer: keras.Layer) -> keras.Layer:
        new = replace(paths[id(layer)], layer) if id(layer) in paths else None
        new_layers[id(layer)] = new or _plain_copy(layer)
        return new_layers[id(layer)]

    # One scope: an inner one would hide the names of an outer one.
    with keras.saving.custom_object_scope({**_own_objects(model), **(objects or {})}):
        if append is None:
            copy = keras.models.clone_model(model, clone_function=clone, recursive=True)
        else:
            copy = _insert.copy_with(model, clone, append)
    for path, layer in leaf_layers(model):
        if layer.weights and not getattr(new_layers[id(layer)], "holds_constants", False):
            (carry or transfer)(path, layer, new_layers[id(layer)])
    return copy


def transfer(path: str, old: keras.Layer, new: keras.Layer) -> None:
    """Copies the weights of `old` to those of `new` in order; a regularizer's scalars only to the like."""
    layers = _unwrap(old, new), _unwrap(new, old)
    sources, targets = map(_own_weights, layers)
    if not _alike(sources, targets):
        # One of them quantizes by itself, as recurrent layers do, and the other does not.
        others = set().union(*map(quantizer_weights, layers))
        sources, targets = ([v for v in found if id(v) not in others] for found in (sources, targets))
    if not _alike(sources, targets):
        raise ValueError(
            f"The weights of {path} ({', '.join(v.name for v in sources)}) have no place in the rebuilt layer. "
            "Expected a layer that `from_config(get_config())` makes again. "
            f"Received: {type(old).__name__}. Check its get_config()."
        )
    for source, target in zip(sources, targets, strict=True):
        pairs = [(source, target)]
        scalars, places = _scalars(source), _scalars(target)
        if _alike(scalars, places):
            pairs += zip(scalars, places, strict=True)
        for value, variable in pairs:
            # Through NumPy: a shared JAX buffer would be donated, and so deleted, by the first step of either model.
            variable.assign(keras.ops.convert_to_numpy(value))
    if isinstance(new, keras.layers.Normalization):
        # It computes with copies of its weights.
        new.finalize_state()


def packed(model: keras.Model, batch: list):
    """Returns a list of arrays, one an input, in the structure that the model is called with."""
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
    """Returns factor and offset of a batch normalisation in inference: `y = factor x + offset`, float64."""
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
    """Raises unless r2keras can rebuild the model from its graph."""
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


def _collect(model: keras.Model, prefix: str, found: dict[int, tuple[str, keras.Layer]]) -> None:
    """Adds the leaf layers of `model` to `found`."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            _check_graph(layer)
            _collect(layer, f"{prefix}{layer.name}/", found)
        else:
            found.setdefault(id(layer), (prefix + layer.name, layer))


def _relative(path: str, layer_name: str, last: bool) -> str:
    """Returns what follows the layer's name in a variable's path."""
    *scopes, name = path.split("/")
    if layer_name not in scopes:
        return path
    place = len(scopes) - 1 - scopes[::-1].index(layer_name) if last else scopes.index(layer_name)
    return "/".join([*scopes[place + 1 :], name])


def _is_kernel(variable: keras.Variable) -> bool:
    """Whether a weight is one that compression is for."""
    name = variable.path.rpartition("/")[2]
    return len(variable.shape) >= 2 and name not in NOT_KERNELS and keras.backend.is_float_dtype(variable.dtype)


def _plain_copy(layer: keras.Layer) -> keras.Layer:
    """Returns a new layer of the same config."""
    if type(layer) is keras.layers.Lambda:
        # Keras makes no function of a config, lest a file hide code in it; here the function itself is at hand.
        options = {"mask": layer.mask, "arguments": layer.arguments, "dtype": layer.dtype_policy}
        return keras.layers.Lambda(layer.function, output_shape=lambda_output_shape(layer), name=layer.name, **options)
    return layer.__class__.from_config(layer.get_config())


def _own_objects(model: keras.Model) -> dict[str, object]:
    """Returns the user's functions and classes in a model by name: Keras looks those up that nobody registered."""
    fields = (part for _, layer in leaf_layers(model) for part in vars(layer).values())
    parts: list[Any] = [part for part in fields if inspect.isfunction(part)]
    settings = compile_settings(model) if model.compiled else {}
    for part in tree.flatten(settings):
        parts.append(part if inspect.isfunction(part) else type(part))
    own = [part for part in parts if part.__module__.partition(".")[0] not in ("builtins", "keras")]
    return {part.__name__: part for part in own if part.__name__ != "<lambda>"}


def _own_weights(layer: keras.Layer) -> list[keras.Variable]:
    """Returns the weights of a layer without the learned scalars of its regularizers."""
    scalars = {id(scalar) for variable in layer.weights for scalar in _scalars(variable)}
    return [variable for variable in layer.weights if id(variable) not in scalars]


def _alike(first: list[keras.Variable], second: list[keras.Variable]) -> bool:
    """Whether two lists hold weights of the same names and shapes."""
    return [(v.name, v.shape) for v in first] == [(v.name, v.shape) for v in second]


def _scalars(variable: keras.Variable) -> list[keras.Variable]:
    """Returns what the regularizer of a weight learns."""
    regularizer = variable.regularizer
    return list(regularizer.weights) if isinstance(regularizer, keras.Layer) else []


def _unwrap(layer: keras.Layer, other: keras.Layer) -> keras.Layer:
    """Returns the layer inside a wrapper whose partner is the bare layer."""
    inner = getattr(layer, "layer", None)
    return inner if isinstance(inner, type(other)) and not isinstance(layer, type(other)) else layer
