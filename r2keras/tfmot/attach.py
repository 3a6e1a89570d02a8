"""Attaching a regularizer to the weights of an existing tf_keras model."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

import keras
import tf_keras

from r2keras._errors import invalid
from r2keras._model import check_finite
from r2keras.regularizers.base import OneWeight
from r2keras.tfmot._walk import check_tf_keras, leaf_layers
from r2keras.tfmot._weights import carry_over, learned_regularizers, plain_weights

# The regularizer arguments for kernels, and the weights they are for.
_KERNELS = {
    "kernel_regularizer": "kernel",
    "recurrent_regularizer": "recurrent_kernel",
    "depthwise_regularizer": "depthwise_kernel",
    "pointwise_regularizer": "pointwise_kernel",
    "embeddings_regularizer": "embeddings",
}


def regularize(model: tf_keras.Model, regularizer, *, match: str = ".*") -> tf_keras.Model:
    """Returns a copy of a tf_keras model whose matching kernels carry a regularizer each.

    What `r2keras.regularize` does for Keras 3: every kernel that `match` finds gets a fresh copy of `regularizer`, made
    from its config, in place of one it had before. Start values of learned scalars are set from the weights, which are
    carried over bit for bit. A regularizer with `granularity="per_channel"` and no `channel_axis` gets the axes of the
    layer's outputs. The copy is not compiled.

    Args:
        model: a built Functional or Sequential model, such as `tf_keras.models.load_model` returns; left untouched.
        regularizer: `R2Margin(0.01)` of `r2keras.tfmot`, or what `tf_keras.regularizers.get` takes.
        match: regular expression, searched in the path of the weight, `"block/conv1/kernel"`; in a recurrent layer
            `"lstm/recurrent_kernel"`.

    Returns:
        A new model of the same class.

    Raises:
        TypeError: not a Functional or Sequential model of tf_keras.
        ValueError: a model that is not built; a regularizer that is none, or one with a learned scalar for Keras 3; a
            pattern that is no regular expression or matches no kernel; NaN or infinite weights; one argument that
            serves several kernels (`MultiHeadAttention`) with a regularizer that learns a scalar; `dim` above the last
            axis of a kernel.

    Example:

    >>> from r2keras.tfmot import R2Margin
    >>> layers = [tf_keras.Input((4,)), tf_keras.layers.Dense(8), tf_keras.layers.Dense(2, name="head")]
    >>> regularized = regularize(tf_keras.Sequential(layers), R2Margin(0.01), match="head")
    >>> [len(layer.weights) for layer in regularized.layers]
    [2, 3]
    """
    check_tf_keras(model, "It takes r2keras.regularize")
    serialized = _serialized(regularizer)
    plans = _plan(model, serialized, match)
    new: dict[int, tf_keras.layers.Layer] = {}

    def clone(layer):
        if isinstance(layer, tf_keras.Model):
            return tf_keras.models.clone_model(layer, clone_function=clone)
        plan = plans.get(id(layer))
        new[id(layer)] = type(layer).from_config(plan.config if plan else layer.get_config())
        return new[id(layer)]

    copy = tf_keras.models.clone_model(model, clone_function=clone)
    for path, layer in leaf_layers(model):
        if id(layer) in plans:
            _check_fit(path, new[id(layer)])
        carry_over(path, layer, new[id(layer)])
        if id(layer) in plans:
            _start(new[id(layer)], plans[id(layer)].names)
    return copy


@dataclasses.dataclass
class _Plan:
    """The changed config of one layer, and the names of its kernels that get a regularizer."""

    config: dict
    names: list[str]


def _serialized(regularizer) -> dict:
    """Returns the config of the regularizer that an identifier stands for."""
    found = tf_keras.regularizers.get(regularizer)
    if isinstance(found, OneWeight) and isinstance(found, keras.Layer):
        fix = f"Models of tf_keras take r2keras.tfmot.{type(found).__name__}"
        raise ValueError(invalid("regularizer", "a regularizer for tf_keras", found, fix))
    if not isinstance(found, (tf_keras.regularizers.Regularizer, keras.regularizers.Regularizer)):
        raise ValueError(invalid("regularizer", "a regularizer with a config", regularizer))
    return tf_keras.regularizers.serialize(found)


def _plan(model: tf_keras.Model, serialized: dict, match: str) -> dict[int, _Plan]:
    """Returns the changed configs by the identity of the layer."""
    try:
        pattern = re.compile(match)
    except (re.error, TypeError) as error:
        raise ValueError(invalid("match", "a regular expression", match, str(error))) from error
    plans: dict[int, _Plan] = {}
    every = []
    for path, layer in leaf_layers(model):
        plan = _Plan(layer.get_config(), [])
        for config, argument in _slots(plan.config):
            every.append(f"{path}/{_KERNELS[argument]}")
            if pattern.search(every[-1]):
                config[argument] = _with_axis(serialized, argument, layer)
                plan.names.append(_KERNELS[argument])
        if plan.names:
            plans[id(layer)] = plan
    if not plans:
        fix = f"The kernels of this model are: {', '.join(every) or 'none'}"
        raise ValueError(invalid("match", "a pattern that matches a kernel", match, fix))
    return plans


def _slots(config: dict) -> Iterator[tuple[dict, str]]:
    """Yields the regularizer arguments for kernels in a layer's config, with the config they stand in."""
    arguments = [argument for argument in _KERNELS if argument in config]
    if "pointwise_regularizer" in arguments:
        # A separable convolution writes down a kernel_regularizer that it does not use.
        arguments.remove("kernel_regularizer")
    yield from ((config, argument) for argument in arguments)
    held = [config.get(key) for key in ("layer", "backward_layer", "cell")] + list(config.get("cells", []))
    for part in held:
        if isinstance(part, dict):
            yield from _slots(part["config"])


def _with_axis(serialized: dict, argument: str, layer: tf_keras.layers.Layer) -> dict:
    """Returns the regularizer's config with the channel axes of the kernel it is for."""
    settings = serialized["config"]
    if settings.get("granularity") != "per_channel" or settings["channel_axis"] is not None:
        return serialized
    axes = {"embeddings_regularizer": 0, "depthwise_regularizer": [-2, -1]}
    transposed = "Transpose" in type(layer).__name__
    axis = axes.get(argument, -2 if transposed else -1)
    return {**serialized, "config": {**settings, "channel_axis": axis}}


def _check_fit(path: str, layer: tf_keras.layers.Layer) -> None:
    """Raises if a regularizer cannot serve the weights that it is on."""
    try:
        # Computing the losses calls every regularizer, which tf_keras puts off until training.
        _ = layer.losses
    except ValueError as error:
        raise ValueError(f"The regularizer does not fit the layer {path}. {error}") from error


def _start(layer: tf_keras.layers.Layer, names: list[str]) -> None:
    """Sets the learned scalars of the new regularizers of a layer from the weights they are on."""
    for variable in plain_weights(layer):
        check_finite(variable.name, keras.ops.convert_to_numpy(variable))
    for owner, regularizer in learned_regularizers(layer):
        if owner.name.rpartition("/")[2].partition(":")[0] in names:
            regularizer.initialize(owner)
