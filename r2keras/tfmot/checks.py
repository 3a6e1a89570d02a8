"""Checks of a tf_keras model, for properties with which TFMOT would fail late or compute something else."""

from __future__ import annotations

import keras
import tf_keras

from r2keras._models.tf_keras_layers import kernels
from r2keras._models.values import check_finite
from r2keras._models.walk import full_name
from r2keras._util.errors import invalid, invalid_part

# The class of Functional models, which tf_keras does not export.
_FUNCTIONAL = tf_keras.Sequential.__mro__[1]


def check_tf_keras(model: object, keras3_fix: str) -> None:
    """Raises unless `model` and every model nested in it is a built Functional or Sequential model of tf_keras.

    Args:
        model: the caller's argument.
        keras3_fix: the fix for a Keras 3 model, the last sentence of that error.

    Raises:
        TypeError: not a Functional or Sequential model of tf_keras.
        ValueError: a model that is not built.
    """
    if isinstance(model, keras.layers.Layer):
        raise TypeError(invalid_part("model", "a tf_keras model", f"the Keras 3 model {model.name!r}", keras3_fix))
    if not isinstance(model, tf_keras.Model):
        raise TypeError(invalid("model", "a Functional or Sequential model of tf_keras", model))
    if not isinstance(model, (tf_keras.Sequential, _FUNCTIONAL)):
        received = f"the subclassed {type(model).__name__} {model.name!r}"
        fix = "Call its layers on tf_keras.Input tensors, and make tf_keras.Model(inputs, outputs) of the results"
        raise TypeError(invalid_part("model", "a Functional or Sequential model", received, fix))
    if not model.built or not model.inputs:
        received = f"the model {model.name!r}, which is not built and has no weights"
        fix = "Give it a tf_keras.Input, or call it once on data"
        raise ValueError(invalid_part("model", "a built model", received, fix))
    for layer in model.layers:
        if isinstance(layer, tf_keras.Model):
            check_tf_keras(layer, keras3_fix)


def check_model(model: tf_keras.Model) -> None:
    """Raises unless TFMOT can quantize a model: built, of tf_keras, Functional or Sequential, and flat.

    Args:
        model: the caller's argument.

    Raises:
        TypeError: another kind of model.
        ValueError: the model is not built, contains another model, or passes masks on.
    """
    check_tf_keras(model, "Keras 3 models need no TFMOT: call r2keras.prepare(model, recipe)")
    for layer in model.layers:
        _check_layer(model, layer)


def check_weights(model: tf_keras.Model) -> None:
    """Raises ValueError for a kernel with NaN or infinite values."""
    for layer in model.layers:
        for name, variable in kernels(layer):
            check_finite(full_name(layer.name, name), variable.numpy())


def _check_layer(model: tf_keras.Model, layer: tf_keras.layers.Layer) -> None:
    """Raises for a layer that TFMOT's wrappers do not support."""
    if isinstance(layer, tf_keras.Model):
        received = f"the model {model.name!r}, which contains the model {layer.name!r}"
        fix = "Call the inner model's layers one by one on the outer model's tensors"
        expected = "a flat model, because TFMOT quantizes no nested models"
        raise ValueError(invalid_part("model", expected, received, fix))
    if isinstance(layer, tf_keras.layers.Masking) or getattr(layer, "mask_zero", False):
        expected = "a model without masks, which TFMOT's wrappers silently drop"
        fix = "Use mask_zero=False, or a Keras 3 model with r2keras.prepare, which keeps masks"
        raise ValueError(invalid_part("model", expected, f"the layer {layer.name!r}, which makes a mask", fix))
