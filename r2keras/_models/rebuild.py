"""Copies of a Keras model with layers replaced, inserted or dropped."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Container
from typing import Any

import keras
from keras import tree

from r2keras._models import insert, weight_names
from r2keras._models.keras_internals import compile_settings, lambda_output_shape, parts_of
from r2keras._models.walk import ModelView, quantizer_weights, view_of
from r2keras._util.errors import invalid_part


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
            that replaces it, or None for a plain copy. A new layer that has a `layer` attribute of the old
            layer's class counts as a wrapper around it; weights are not copied to one that has `holds_constants` set.
        append: called with `(path, name)` of every layer, operation and input. Returns a new layer to run on its
            output, whose own output the consumers get, or None. A layer called twice is followed by it twice.
        drop: paths of layers with one input and one output of the same shape, which the copy leaves out.
        carry: copies weights; called with `(path, old, new)` for every layer with weights. None uses `transfer`.
        objects: unregistered classes and functions by name that the configs of the new layers mention. Those of the
            model's own layers are found without it.

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
        copy = insert.copy_with(view.model, clone, append, drop)
    for path, layer in view.layers:
        if layer.weights and path not in drop and not getattr(new_layers[id(layer)], "holds_constants", False):
            (carry or transfer)(path, layer, new_layers[id(layer)])
    return copy


def copy_layer(layer: keras.Layer, /, **changes: Any) -> keras.Layer:
    """Returns a new, unbuilt layer of the same config, except for the entries that `changes` replaces.

    >>> copy_layer(keras.layers.Dense(2), use_bias=False).use_bias
    False
    """
    if type(layer) is keras.layers.Lambda:
        # Keras creates no function from a config, because a file could hide code in it. The function itself is safe.
        own = {"output_shape": lambda_output_shape(layer), "mask": layer.mask, "arguments": layer.arguments}
        return keras.layers.Lambda(layer.function, **own | {"name": layer.name, "dtype": layer.dtype_policy} | changes)
    return type(layer).from_config(layer.get_config() | changes)


def copy_bidirectional(
    layer: keras.layers.Bidirectional, forward: keras.Layer, backward: keras.Layer
) -> keras.layers.Bidirectional:
    """Returns a new, unbuilt `Bidirectional` like `layer` around two other layers."""
    config = {name: value for name, value in layer.get_config().items() if name not in ("layer", "backward_layer")}
    return keras.layers.Bidirectional(forward, backward_layer=backward, **config)


def transfer(path: str, old: keras.Layer, new: keras.Layer) -> None:
    """Copies the weights of `old` to those of `new` in order; a regularizer's scalars only to equal ones."""
    layers = _unwrap(old, new), _unwrap(new, old)
    sources, targets = map(_own_weights, layers)
    if not _alike(sources, targets):
        # One of them has quantizers of its own, as recurrent layers do, and the other does not.
        ids = set().union(*map(quantizer_weights, layers))
        sources, targets = ([v for v in weights if id(v) not in ids] for weights in (sources, targets))
    if not _alike(sources, targets):
        names = ", ".join(variable.name for variable in sources)
        received = f"{path} ({type(old).__name__}), whose weights ({names}) have no counterpart in its copy"
        expected = "layers that `from_config(get_config())` reproduces"
        raise ValueError(invalid_part("model", expected, received, "Check its get_config()"))
    for source, target in zip(sources, targets, strict=True):
        _copy_value(source, target)
        learned, copies = _scalars(source), _scalars(target)
        if _alike(learned, copies):
            for scalar, copy in zip(learned, copies, strict=True):
                _copy_value(scalar, copy)
    if isinstance(new, keras.layers.Normalization):
        # `Normalization` computes with copies of its weights.
        new.finalize_state()


def _copy_value(source: keras.Variable, target: keras.Variable) -> None:
    """Assigns the value of one weight to another."""
    # Through NumPy: a shared JAX buffer would be donated, and so deleted, by the first step of either model.
    target.assign(keras.ops.convert_to_numpy(source))


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
    return weight_names.without_count(variable.name), tuple(variable.shape)


def _scalars(variable: keras.Variable) -> list[keras.Variable]:
    """Returns the variables that the regularizer of a weight learns."""
    regularizer = variable.regularizer
    return list(regularizer.weights) if isinstance(regularizer, keras.Layer) else []


def _unwrap(layer: keras.Layer, other: keras.Layer) -> keras.Layer:
    """Returns the layer inside a wrapper if the other layer is its bare form; else the layer."""
    inner = getattr(layer, "layer", None)
    return inner if isinstance(inner, type(other)) and not isinstance(layer, type(other)) else layer
