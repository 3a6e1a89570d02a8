"""Walking a tf_keras model."""

from __future__ import annotations

from collections.abc import Iterator

import keras
import tf_keras

from r2keras._errors import invalid

# The class of Functional models, which tf_keras does not export.
_FUNCTIONAL = tf_keras.Sequential.__mro__[1]


def check_tf_keras(model: object, keras3_fix: str) -> None:
    """Raises unless `model` is a built Functional or Sequential model of tf_keras, the models inside it as well.

    Args:
        model: what the user gave.
        keras3_fix: what to do with a Keras 3 model.
    """
    if isinstance(model, keras.layers.Layer):
        raise TypeError(
            "Invalid value for argument `model`. Expected a tf_keras model. "
            f"Received: the Keras 3 model {model.name!r}. {keras3_fix}."
        )
    if not isinstance(model, tf_keras.Model):
        raise TypeError(invalid("model", "a Functional or Sequential model of tf_keras", model))
    if not isinstance(model, (tf_keras.Sequential, _FUNCTIONAL)):
        raise TypeError(
            "r2keras rebuilds models from their graph. Expected a Functional or Sequential model. Received: the "
            f"subclassed {type(model).__name__} {model.name!r}. Call it on tf_keras.Input tensors and make "
            "tf_keras.Model(inputs, outputs) of its layers."
        )
    if not model.built or not model.inputs:
        raise ValueError(
            f"The model {model.name!r} is not built, so it has no weights. Expected a built model. "
            "Give it a tf_keras.Input, or call it once on data."
        )
    for layer in model.layers:
        if isinstance(layer, tf_keras.Model):
            check_tf_keras(layer, keras3_fix)


def leaf_layers(model: tf_keras.Model, prefix: str = "") -> Iterator[tuple[str, tf_keras.layers.Layer]]:
    """Yields every layer that is not itself a model, with its path (`"block/conv1"` inside a nested `block`).

    Args:
        model: a model that `check_tf_keras` lets pass.
        prefix: the path of the model itself, with a slash.
    """
    for layer in model.layers:
        if isinstance(layer, tf_keras.Model):
            yield from leaf_layers(layer, f"{prefix}{layer.name}/")
        elif not isinstance(layer, tf_keras.layers.InputLayer):
            yield prefix + layer.name, layer
