"""`regularize`: regularizers for the kernels of an existing tf_keras model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import keras
import tf_keras

from r2keras._models.tf_keras_layers import last_name, leaf_layers
from r2keras._models.values import check_finite
from r2keras._models.walk import full_name
from r2keras._util.errors import check_pattern, invalid
from r2keras.regularizers.attach import regularizer_of
from r2keras.regularizers.base import OneWeight
from r2keras.tfmot.checks import check_tf_keras
from r2keras.tfmot.conversion.weights import carry_over, learned_regularizers, plain_weights

# The arguments of layers that take a kernel's regularizer, with the name of the kernel.
_KERNELS = {
    "kernel_regularizer": "kernel",
    "recurrent_regularizer": "recurrent_kernel",
    "depthwise_regularizer": "depthwise_kernel",
    "pointwise_regularizer": "pointwise_kernel",
    "embeddings_regularizer": "embeddings",
}


def regularize(model: tf_keras.Model, regularizer: Any, *, match: str = ".*") -> tf_keras.Model:
    """Returns a copy of a tf_keras model with a regularizer on each matching kernel.

    Does what `r2keras.regularize` does for Keras 3: every kernel that matches gets a new copy of `regularizer`,
    made from its config, which replaces the regularizer it had. Learned scalars get start values from the weights,
    which are copied bit for bit. A regularizer with `granularity="per_channel"` and no `channel_axis` gets the axes of
    the layer's outputs. The copy is not compiled.

    Args:
        model: a built Functional or Sequential model, such as `tf_keras.models.load_model` returns; left untouched.
        regularizer: a regularizer of `r2keras.tfmot` such as `R2Margin(0.01)`, or anything that
            `tf_keras.regularizers.get` takes.
        match: a regular expression, searched in the paths of kernels: `"block/conv1/kernel"`, or
            `"lstm/recurrent_kernel"` for a recurrent layer.

    Returns:
        A new model of the same class.

    Raises:
        TypeError: `model` is not a Functional or Sequential model of tf_keras; `regularizer` is not a regularizer.
        ValueError: the model is not built; `regularizer` is an unknown name, has no config, or is one for Keras 3 with
            a learned scalar; `match` is not a regular expression or matches no kernel; NaN or infinite weights; a
            regularizer that learns a scalar, on a layer with one argument for several kernels (`MultiHeadAttention`);
            `dim` larger than a kernel's last axis.

    Example:

    >>> from r2keras.tfmot import R2Margin
    >>> layers = [tf_keras.Input((4,)), tf_keras.layers.Dense(8), tf_keras.layers.Dense(2, name="head")]
    >>> regularized = regularize(tf_keras.Sequential(layers), R2Margin(0.01), match="head")
    >>> [len(layer.weights) for layer in regularized.layers]
    [2, 3]
    """
    check_tf_keras(model, "Use r2keras.regularize for it")
    plans = _plans(model, _serialized(regularizer), match)
    copies: dict[int, tf_keras.layers.Layer] = {}

    def clone(layer: tf_keras.layers.Layer) -> tf_keras.layers.Layer:
        if isinstance(layer, tf_keras.Model):
            return tf_keras.models.clone_model(layer, clone_function=clone)
        plan = plans.get(id(layer))
        copies[id(layer)] = type(layer).from_config(plan.config if plan else layer.get_config())
        return copies[id(layer)]

    regularized = tf_keras.models.clone_model(model, clone_function=clone)
    for path, layer in leaf_layers(model):
        copy = copies[id(layer)]
        if id(layer) not in plans:
            carry_over(path, layer, copy)
            continue
        _check_fit(path, copy)
        carry_over(path, layer, copy)
        _initialize_scalars(copy, plans[id(layer)].kernel_names)
    return regularized


@dataclasses.dataclass
class _Plan:
    """The changes of one layer.

    Args:
        config: its new config.
        kernel_names: the names of its kernels that get a regularizer.
    """

    config: dict[str, Any]
    kernel_names: list[str]


def _serialized(identifier: Any) -> dict[str, Any]:
    """Returns the config of the regularizer that an identifier names."""
    regularizer = regularizer_of(identifier, tf_keras.regularizers.get)
    if isinstance(regularizer, OneWeight) and isinstance(regularizer, keras.Layer):
        fix = f"Use r2keras.tfmot.{type(regularizer).__name__} for models of tf_keras"
        raise ValueError(invalid("regularizer", "a regularizer for tf_keras", regularizer, fix))
    if not isinstance(regularizer, (tf_keras.regularizers.Regularizer, keras.regularizers.Regularizer)):
        raise ValueError(invalid("regularizer", "a regularizer with a config", identifier))
    return tf_keras.regularizers.serialize(regularizer)


def _plans(model: tf_keras.Model, serialized: dict[str, Any], match: str) -> dict[int, _Plan]:
    """Returns the plans of the layers that change, by the identity of the layer."""
    pattern = check_pattern("match", match)
    plans: dict[int, _Plan] = {}
    kernel_paths: list[str] = []
    for path, layer in leaf_layers(model):
        plan = _Plan(layer.get_config(), [])
        for config, argument in _regularizer_arguments(plan.config):
            kernel_paths.append(full_name(path, _KERNELS[argument]))
            if pattern.search(kernel_paths[-1]):
                config[argument] = _with_axis(serialized, argument, layer)
                plan.kernel_names.append(_KERNELS[argument])
        if plan.kernel_names:
            plans[id(layer)] = plan
    if not plans:
        fix = f"The kernels of this model are: {', '.join(kernel_paths) or 'none'}"
        raise ValueError(invalid("match", "a pattern that matches a kernel", match, fix))
    return plans


def _regularizer_arguments(config: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Yields the regularizer arguments for kernels in a layer's config, each after the (inner) config that has it."""
    arguments = [argument for argument in _KERNELS if argument in config]
    if "pointwise_regularizer" in arguments:
        # The config of a separable convolution has a kernel_regularizer that the layer does not use.
        arguments.remove("kernel_regularizer")
    yield from ((config, argument) for argument in arguments)
    inner = [config.get(key) for key in ("layer", "backward_layer", "cell")] + list(config.get("cells", []))
    for part in inner:
        if isinstance(part, dict):
            yield from _regularizer_arguments(part["config"])


def _with_axis(serialized: dict[str, Any], argument: str, layer: tf_keras.layers.Layer) -> dict[str, Any]:
    """Returns the regularizer's config with the channel axes of its kernel."""
    settings = serialized["config"]
    if settings.get("granularity") != "per_channel" or settings["channel_axis"] is not None:
        return serialized
    special_axes: dict[str, Any] = {"embeddings_regularizer": 0, "depthwise_regularizer": [-2, -1]}
    # The kernel of a transposed convolution has its outputs before its inputs.
    default_axis = -2 if "Transpose" in type(layer).__name__ else -1
    axis = special_axes.get(argument, default_axis)
    return {**serialized, "config": {**settings, "channel_axis": axis}}


def _check_fit(path: str, layer: tf_keras.layers.Layer) -> None:
    """Raises if a regularizer does not fit its weights."""
    try:
        # Computing the losses calls every regularizer; tf_keras would not do so before training.
        _ = layer.losses
    except ValueError as error:
        raise ValueError(f"The regularizer does not fit the layer {path}. {error}") from error


def _initialize_scalars(layer: tf_keras.layers.Layer, kernel_names: list[str]) -> None:
    """Sets the learned scalars of a layer's new regularizers from its kernels."""
    for variable in plain_weights(layer):
        check_finite(variable.name, keras.ops.convert_to_numpy(variable))
    for weight, regularizer in learned_regularizers(layer):
        if last_name(weight) in kernel_names:
            regularizer.initialize(weight)
