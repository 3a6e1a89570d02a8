"""Copies of Keras models with layers inserted or left out, by `clone_model`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Container

import keras
from keras import tree

from r2keras._models.keras_internals import parts_of

Clone = Callable[[keras.Layer], keras.Layer]
Append = Callable[[str, str], keras.Layer | None]
# Layers that a copy may have in place of one, and frames of the stack around the recursion.
LAYERS_PER_LAYER, OTHER_FRAMES = 3, 500


def copy_with(
    model: keras.Model,
    clone: Clone,
    append: Append | None = None,
    drop: Container[str] = (),
    dtype: str | None = None,
) -> keras.Model:
    """Returns a copy of a model with some layers left out and others inserted.

    Args:
        model: a built Functional or Sequential model, nested ones included.
        clone: returns the new layer for an old one that is not a model.
        append: takes path and name of a layer, operation or input; returns a new layer to follow it, or None. Called
            once per path. None inserts nothing.
        drop: paths of layers to leave out; their consumers get their inputs.
        dtype: type of the copy's float inputs; None takes those of `model`.

    Returns:
        A model of the same class, names and compile settings.
    """
    _allow_depth(len(parts_of(model)))
    return _Copier(clone, append or _nothing, drop, dtype).copy(model, "", top=True)


def _allow_depth(num_layers: int) -> None:
    """Raises Python's recursion limit for a deep model, for good: Keras walks models layer by layer in recursion.

    Copies with inserted layers are deeper than the model, which Keras could still build, and Keras walks them again
    whenever they are copied or loaded.
    """
    needed = LAYERS_PER_LAYER * num_layers + OTHER_FRAMES
    sys.setrecursionlimit(max(sys.getrecursionlimit(), needed))


class _Copier:
    """Copies models and stores the copies, so that shared layers stay shared."""

    def __init__(self, clone: Clone, append: Append, drop: Container[str], dtype: str | None):
        self.clone = clone
        self.append = append
        self.drop = drop
        self.dtype = dtype
        self.copies: dict[int, keras.Layer] = {}
        self.extras: dict[int, keras.Layer | None] = {}

    def copy(self, model: keras.Model, prefix: str, *, top: bool = False) -> keras.Model:
        """Returns the copy of a model; only the outermost model appends layers to its inputs."""
        if isinstance(model, keras.Sequential):
            return self._sequential(model, prefix, top)
        new = tree.map_structure(lambda x: _new_input(x, self.dtype), model.input)
        extras = [self.append(x.name, x.name) if top else None for x in tree.flatten(new)]
        swapped = {id(x): layer(x) for x, layer in zip(tree.flatten(new), extras, strict=True) if layer}

        def call(layer, *args, **kwargs):
            if swapped:
                args, kwargs = tree.map_structure(lambda x: swapped.get(id(x), x), (args, kwargs))
            if isinstance(layer, _Dropped):
                return next(x for x in tree.flatten((args, kwargs)) if isinstance(x, keras.KerasTensor))
            outputs = layer(*args, **kwargs)
            extra = self.extras.get(id(layer))
            return outputs if extra is None else _append_to(extra, outputs)

        return keras.models.clone_model(
            model, input_tensors=new, clone_function=lambda x: self._layer(x, prefix), call_function=call
        )

    def _sequential(self, model: keras.Sequential, prefix: str, top: bool) -> keras.Sequential:
        """Returns the copy of a Sequential model, from its list of layers."""
        layers = [_input_of(model, self.dtype)]
        layers += [self.append(layers[0].name, layers[0].name)] if top else []
        for layer in model.layers:
            new = self._layer(layer, prefix)
            if not isinstance(new, _Dropped):
                layers += [new, self.extras.get(id(new))]
        copy = keras.Sequential([x for x in layers if x is not None], name=model.name, trainable=model.trainable)
        if model.compiled:
            copy.compile_from_config(model.get_compile_config())
        return copy

    def _layer(self, layer: keras.Layer, prefix: str) -> keras.Layer:
        """Returns the copy of a layer, and stores the layer that follows it."""
        if id(layer) not in self.copies:
            path = prefix + layer.name
            nested = isinstance(layer, keras.Model)
            if nested:
                new = self.copy(layer, path + "/")
            else:
                new = _Dropped() if path in self.drop else self.clone(layer)
            self.copies[id(layer)] = new
            self.extras[id(new)] = None if nested else self.append(path, layer.name)
        return self.copies[id(layer)]


class _Dropped(keras.layers.Layer):
    """Placeholder for a layer that the copy leaves out."""


def _nothing(path: str, name: str) -> None:
    """Appends no layer."""


def _append_to(extra: keras.Layer, outputs):
    """Runs the first of a layer's outputs through another layer."""
    first, *others = tree.flatten(outputs)
    return tree.pack_sequence_as(outputs, [extra(first), *others])


def _input_of(model: keras.Sequential, dtype: str | None):
    """Returns a new input like that of a Sequential model."""
    try:
        return _new_input(model.inputs[0], dtype)
    except AttributeError:
        # Keras could not infer the shapes after some layer, so the model has a first layer but no `inputs`.
        return keras.layers.InputLayer.from_config(model.get_config()["layers"][0]["config"])


def _new_input(tensor, dtype: str | None):
    """Returns a new input like a tensor, a float one in `dtype` unless that is None; that of a sparse one is sparse."""
    is_changed = dtype is not None and keras.backend.is_float_dtype(tensor.dtype)
    chosen = dtype if is_changed else tensor.dtype
    return keras.Input(batch_shape=tensor.shape, dtype=chosen, name=tensor.name, sparse=tensor.sparse)
