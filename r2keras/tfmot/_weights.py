"""The weights of a layer, of either Keras, and of the regularizers on them, carried over to its counterpart."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
import tf_keras

from r2keras.tfmot.regularizers import LearnedRegularizer


def carry_over(path: str, old, new) -> None:
    """Copies the weights of a layer to its counterpart in order, and what its regularizers have learned.

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
            f"The weights of {path} are others in the rebuilt layer. Expected {[_form(v) for v in sources]}. "
            f"Received: {[_form(v) for v in targets]}. Leave a layer of this class, {type(old).__name__}, out."
        )
    before, after = scalars(old), scalars(new)
    for source, target in zip(sources, targets, strict=True):
        target.assign(_numpy(source))
        if id(target) in after and id(source) in before:
            after[id(target)].assign(_numpy(before[id(source)]))
    if hasattr(new, "finalize_state"):
        # Normalization computes with copies of its weights.
        new.finalize_state()


def plain_weights(layer) -> list:
    """Returns the weights of a layer without the learned scalars of its regularizers."""
    learned = {id(scalar) for scalar in scalars(layer).values()}
    # The number of samples that tf_keras' Normalization has seen: Keras 3 does not keep it.
    return [v for v in layer.weights if id(v) not in learned and _form(v)[0] != "count"]


def scalars(layer) -> dict[int, keras.Variable | tf.Variable]:
    """Returns the learned scalar of each regularized weight, by the identity of the weight."""
    if isinstance(layer, tf_keras.layers.Layer):
        return {id(owner): part.weights[0] for owner, part in learned_regularizers(layer)}
    found = [(v, v.regularizer) for v in layer.weights if isinstance(v.regularizer, keras.Layer)]
    return {id(variable): regularizer.weights[0] for variable, regularizer in found if regularizer.weights}


def learned_regularizers(layer: tf_keras.layers.Layer) -> list[tuple[tf.Variable, LearnedRegularizer]]:
    """Returns the regularizers with a learned scalar in a built layer of tf_keras, each with its weight."""
    parts = [part for part in layer.submodules if isinstance(part, LearnedRegularizer) and part.weights]
    # A regularizer knows its weight from the first time the losses are computed.
    known = layer.losses if parts else []
    return [(part.weight, part) for part in parts if known and part.weight is not None]


def _form(variable) -> tuple[str, tuple[int, ...]]:
    """Returns the name and shape of a weight; depthwise kernels are called `kernel` in Keras 3."""
    name = variable.name.rpartition("/")[2].partition(":")[0]
    return name.replace("depthwise_kernel", "kernel"), tuple(variable.shape)


def _numpy(variable) -> np.ndarray:
    """Returns the value of a variable of either Keras."""
    return keras.ops.convert_to_numpy(variable)
