"""Training and evaluation steps that examples and benchmarks share."""

from __future__ import annotations

import gc
import re

import keras
import numpy as np

from r2keras._models.rebuild import copy_layer
from r2keras.regularizers import Kurtosis, regularize

BATCH = 250


def regularized(model: keras.Model, regularizer: keras.regularizers.Regularizer | None) -> keras.Model:
    """Returns a copy of a model with a regularizer on every kernel; with None, the model itself.

    Kurtosis is applied as in its paper: as the mean over the kernels without the first one.

    Args:
        model: a net of `workloads.nets`.
        regularizer: each kernel gets a new copy.

    Returns:
        The copy, with the same weights.
    """
    if regularizer is None:
        return model
    if not isinstance(regularizer, Kurtosis):
        return regularize(model, regularizer)
    first, *rest = kernel_layers(model)
    per_kernel = Kurtosis(regularizer.factor / max(len(rest), 1), target=regularizer.target)
    return regularize(model, per_kernel, match=f"^(?!{re.escape(first)}(/|$))")


def without_regularizers(model: keras.Model) -> keras.Model:
    """Returns a copy with the same weights, but without regularizers and their learned scalars."""
    plain = keras.models.clone_model(model, clone_function=_without_regularizer)
    variables = {variable.path: variable for variable in model.variables}
    for variable in plain.variables:
        variable.assign(variables[variable.path])
    return plain


def kernel_layers(model: keras.Model) -> list[str]:
    """Returns the names of the layers with a kernel, from first to last."""
    return [layer.name for layer in model.layers if any(len(v.shape) > 1 for v in layer.trainable_variables)]


def gives_logits(model: keras.Model) -> bool:
    """Whether the model ends without a softmax."""
    last = model.layers[-1]
    # Looks inside a wrapper.
    last = getattr(last, "layer", last)
    activation = getattr(last, "activation", None)
    return not (isinstance(last, keras.layers.Softmax) or activation is keras.activations.softmax)


def scores(model: keras.Model, x: np.ndarray) -> np.ndarray:
    """Returns the model's outputs, computed in batches; `predict` is slower because it traces every model again."""
    parts = [model(x[start : start + BATCH], training=False) for start in range(0, len(x), BATCH)]
    return np.concatenate([keras.ops.convert_to_numpy(part) for part in parts])


def accuracy(outputs: np.ndarray, classes: np.ndarray) -> float:
    """Returns the fraction of rows whose largest output is that of the class.

    >>> accuracy(np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([1, 1]))
    0.5
    """
    return float(np.mean(np.argmax(outputs, axis=-1) == classes))


def release() -> None:
    """Frees the graphs of deleted models."""
    keras.backend.clear_session()
    gc.collect()


def _without_regularizer(layer: keras.Layer) -> keras.Layer:
    return copy_layer(layer, **{key: None for key in layer.get_config() if key.endswith("_regularizer")})
