"""Copies of a Keras model with layers replaced, inserted or dropped."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Container

import keras
from keras import tree

from r2keras._models import insert
from r2keras._models.keras_internals import compile_settings
from r2keras._models.layer_copies import by_name, copy_layer, own_objects, stand_ins
from r2keras._models.policies import default_policy
from r2keras._models.ties import named_in_errors
from r2keras._models.walk import ModelView, view_of
from r2keras._models.weight_transfer import transfer

__all__ = ["copy_bidirectional", "copy_layer", "rebuild", "transfer"]


def rebuild(
    model: keras.Model | ModelView,
    replace: Callable[[str, keras.Layer], keras.Layer | None] | None = None,
    objects: dict[str, object] | None = None,
    *,
    append: Callable[[str, str], keras.Layer | None] | None = None,
    drop: Container[str] = (),
    carry: Callable[[str, keras.Layer, keras.Layer], None] | None = None,
    dtype: str | None = None,
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
        dtype: type of the copy's float inputs, and policy of the copied models and of layers made without one; None
            takes those of `model`.
        objects: unregistered classes and functions by name that the configs of the new layers mention. Those of the
            model's own layers are found without it.

    Returns:
        A model of the same class, with the same names, compiled like `model` if that was compiled (fresh optimizer).

    Raises:
        TypeError: a subclassed model.
        ValueError: the model is not built, a weight of it has no counterpart in the copy, or two layers share a weight
            in a way that a copy does not keep (`ties.Tie`).
    """
    view = view_of(model)
    paths = {id(layer): path for path, layer in view.layers}
    for tie in view.ties:
        tie.check()
    shared = {**_compile_objects(view.model), **(objects or {})}
    new_layers: dict[int, keras.Layer] = {}

    def clone(layer: keras.Layer) -> keras.Layer:
        if id(layer) in new_layers:
            return new_layers[id(layer)]
        ties = [tie for tie in view.ties if tie.path == paths.get(id(layer))]
        pairs = [(tie.source, clone(tie.source)) for tie in ties]
        # One scope: an inner one would hide the names of an outer one.
        with (
            keras.saving.custom_object_scope({**own_objects(layer), **shared}),
            stand_ins(pairs),
            named_in_errors(ties),
        ):
            new = replace(paths[id(layer)], layer) if replace is not None and id(layer) in paths else None
            new_layers[id(layer)] = new or copy_layer(layer)
        return new_layers[id(layer)]

    with default_policy(dtype or view.model.dtype_policy), keras.saving.custom_object_scope(shared):
        copy = insert.copy_with(view.model, clone, append, drop, dtype)
    for path, layer in view.layers:
        if layer.weights and path not in drop and not getattr(new_layers[id(layer)], "holds_constants", False):
            (carry or transfer)(path, layer, new_layers[id(layer)])
    return copy


def copy_bidirectional(
    layer: keras.layers.Bidirectional, forward: keras.Layer, backward: keras.Layer
) -> keras.layers.Bidirectional:
    """Returns a new, unbuilt `Bidirectional` like `layer` around two other layers."""
    config = {name: value for name, value in layer.get_config().items() if name not in ("layer", "backward_layer")}
    return keras.layers.Bidirectional(forward, backward_layer=backward, **config)


def _compile_objects(model: keras.Model) -> dict[str, object]:
    """Returns the caller's own losses, metrics and optimizers by name."""
    settings = tree.flatten(compile_settings(model)) if model.compiled else []
    return by_name([part if inspect.isfunction(part) else type(part) for part in settings])
