"""What is checked of a model before TFMOT sees it, which would fail later or go wrong in silence."""

from __future__ import annotations

from typing import Any

import tf_keras

from r2keras._model import check_finite
from r2keras._tf_keras import kernels
from r2keras.tfmot._walk import check_tf_keras


def check_model(model: Any) -> None:
    """Raises unless a model is a built Functional or Sequential model of tf_keras without a model inside.

    Args:
        model: what the user passed.

    Raises:
        TypeError: another kind of model.
        ValueError: it is not built, holds another model, or passes masks on.
    """
    check_tf_keras(model, "Keras 3 models need no TFMOT: call r2keras.prepare(model, recipe)")
    for layer in model.layers:
        _check_layer(model, layer)


def check_weights(model: Any) -> None:
    """Raises ValueError for a kernel with NaN or infinite values."""
    for layer in model.layers:
        for name, variable in kernels(layer):
            check_finite(f"{layer.name}/{name}", variable.numpy())


def _check_layer(model: Any, layer: Any) -> None:
    """Raises for a layer that TFMOT's wrappers do not serve."""
    if isinstance(layer, tf_keras.Model):
        raise ValueError(
            f"The model {model.name!r} holds the model {layer.name!r}, and TFMOT quantizes no nested models. Expected "
            "a flat model. Call the inner model's layers one by one on the outer model's tensors."
        )
    if isinstance(layer, tf_keras.layers.Masking) or getattr(layer, "mask_zero", False):
        raise ValueError(
            f"The layer {layer.name!r} makes a mask, which TFMOT's wrappers drop without a word. Expected a model "
            "without masks. Use mask_zero=False, or a Keras 3 model with r2keras.prepare, which honours masks."
        )
