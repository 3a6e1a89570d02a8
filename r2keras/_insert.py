"""A copy of a Keras model with layers put in between, through the public `clone_model`."""

from __future__ import annotations

from collections.abc import Callable

import keras
from keras import tree

Clone = Callable[[keras.Layer], keras.Layer]
Append = Callable[[str], keras.Layer | None]


def copy_with(model: keras.Model, clone: Clone, append: Append) -> keras.Model:
    """Returns a copy of a model with a layer after each layer, operation or input that `append` returns one for.

    Args:
        model: a built Functional or Sequential model, nested ones included.
        clone: makes the new layer for an old one that is no model.
        append: takes a path, returns a new layer or None; called once a path.

    Returns:
        A model of the same class, names and compile settings.
    """
    return _Copier(clone, append).copy(model, "", top=True)


class _Copier:
    """Copies models, and remembers what it has copied: shared layers stay shared."""

    def __init__(self, clone: Clone, append: Append):
        self.clone, self.append = clone, append
        self.copies: dict[int, keras.Layer] = {}
        self.extras: dict[int, keras.Layer | None] = {}

    def copy(self, model: keras.Model, prefix: str, *, top: bool = False) -> keras.Model:
        """Returns the copy of a model; only the inputs of the outermost one are inputs of the whole."""
        if isinstance(model, keras.Sequential):
            return self._sequential(model, prefix, top)
        new = tree.map_structure(_new_input, model.input)
        extras = [self.append(x.name) if top else None for x in tree.flatten(new)]
        swapped = {id(x): layer(x) for x, layer in zip(tree.flatten(new), extras, strict=True) if layer}

        def call(layer, *args, **kwargs):
            args, kwargs = tree.map_structure(lambda x: swapped.get(id(x), x), (args, kwargs))
            outputs = layer(*args, **kwargs)
            extra = self.extras.get(id(layer))
            return outputs if extra is None else _append_to(extra, outputs)

        return keras.models.clone_model(
            model, input_tensors=new, clone_function=lambda x: self._layer(x, prefix), call_function=call
        )

    def _sequential(self, model: keras.Sequential, prefix: str, top: bool) -> keras.Sequential:
        """Returns the copy of a Sequential model, with a longer list of layers."""
        layers = [_new_input(model.inputs[0])]
        layers += [self.append(layers[0].name)] if top else []
        for layer in model.layers:
            new = self._layer(layer, prefix)
            layers += [new, self.extras.get(id(new))]
        copy = keras.Sequential([x for x in layers if x is not None], name=model.name, trainable=model.trainable)
        if model.compiled:
            copy.compile_from_config(model.get_compile_config())
        return copy

    def _layer(self, layer: keras.Layer, prefix: str) -> keras.Layer:
        """Returns the copy of a layer, and notes what follows it."""
        if id(layer) not in self.copies:
            path = prefix + layer.name
            nested = isinstance(layer, keras.Model)
            self.copies[id(layer)] = self.copy(layer, path + "/") if nested else self.clone(layer)
            self.extras[id(self.copies[id(layer)])] = None if nested else self.append(path)
        return self.copies[id(layer)]


def _append_to(extra: keras.Layer, outputs):
    """Runs the first of a layer's outputs through another layer."""
    if not isinstance(outputs, (list, tuple)):
        return extra(outputs)
    return type(outputs)([extra(outputs[0]), *outputs[1:]])


def _new_input(tensor):
    return keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name)
