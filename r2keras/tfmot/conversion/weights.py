"""Copies weights, and the learned scalars of regularizers, to a layer's counterpart in the other Keras."""

from __future__ import annotations

from typing import TypeAlias

import keras
import tensorflow as tf
import tf_keras

from r2keras._models.tf_keras_layers import last_name
from r2keras.tfmot.conversion.translator import Layer
from r2keras.tfmot.regularizers import LearnedRegularizer

Variable: TypeAlias = keras.Variable | tf.Variable


def carry_over(path: str, old: Layer, new: Layer) -> None:
    """Copies the weights of a layer to its counterpart in order, and the scalars that its regularizers have learned.

    Args:
        path: the layer's path, for messages.
        old: a built layer of either Keras.
        new: a built layer of either Keras.

    Raises:
        ValueError: the two do not have the same weights.
    """
    sources, targets = plain_weights(old), plain_weights(new)
    if [_form(v) for v in sources] != [_form(v) for v in targets]:
        raise ValueError(
            f"The rebuilt layer {path} has other weights. Expected {[_form(v) for v in sources]}. "
            f"Received: {[_form(v) for v in targets]}. Remove layers of the class {type(old).__name__}."
        )
    old_scalars = scalars(old)
    new_scalars = scalars(new)
    for source, target in zip(sources, targets, strict=True):
        target.assign(keras.ops.convert_to_numpy(source))
        if id(target) in new_scalars and id(source) in old_scalars:
            new_scalars[id(target)].assign(keras.ops.convert_to_numpy(old_scalars[id(source)]))
    if hasattr(new, "finalize_state"):
        # `Normalization` computes with constants derived from its weights; they must follow the new values.
        new.finalize_state()


def plain_weights(layer: Layer) -> list[Variable]:
    """Returns the weights of a layer without the learned scalars of its regularizers."""
    learned = {id(scalar) for scalar in scalars(layer).values()}
    # `count` is the number of samples that tf_keras' Normalization has seen; Keras 3 does not store it.
    return [v for v in layer.weights if id(v) not in learned and _form(v)[0] != "count"]


def scalars(layer: Layer) -> dict[int, Variable]:
    """Returns the learned scalar of each regularized weight, by the identity of the weight."""
    if isinstance(layer, tf_keras.layers.Layer):
        return {id(weight): regularizer.weights[0] for weight, regularizer in learned_regularizers(layer)}
    regularized = [(v, v.regularizer) for v in layer.weights if isinstance(v.regularizer, keras.Layer)]
    return {id(weight): regularizer.weights[0] for weight, regularizer in regularized if regularizer.weights}


def learned_regularizers(layer: tf_keras.layers.Layer) -> list[tuple[tf.Variable, LearnedRegularizer]]:
    """Returns the regularizers with a learned scalar in a built tf_keras layer, each with its weight."""
    regularizers = [part for part in layer.submodules if isinstance(part, LearnedRegularizer) and part.weights]
    # A regularizer is connected to its weight when the losses are first computed.
    losses = layer.losses if regularizers else []
    return [(part.weight, part) for part in regularizers if losses and part.weight is not None]


def _form(variable: Variable) -> tuple[str, tuple[int, ...]]:
    """Returns the name and shape of a weight, both as in Keras 3, where a depthwise kernel is called `kernel`."""
    name = last_name(variable)
    return name.replace("depthwise_kernel", "kernel"), tuple(variable.shape)
