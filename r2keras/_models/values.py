"""Weights of Keras layers as NumPy arrays."""

from __future__ import annotations

import keras
import numpy as np


def packed(model: keras.Model, batch: list):
    """Returns a list of arrays, one per input, in the structure that the model takes."""
    # A Sequential model that was never called has no `input` to read the structure from.
    return batch[0] if isinstance(model, keras.Sequential) else keras.tree.pack_sequence_as(model.input, batch)


def check_finite(path: str, values: np.ndarray) -> None:
    """Raises ValueError that names the weight if it has NaN or infinite entries."""
    if not np.isfinite(values).all():
        bad = int(values.size - np.isfinite(values).sum())
        raise ValueError(
            f"The weight {path} has {bad} NaN or infinite values of {values.size}. Expected finite weights. "
            "Train again with a smaller learning rate or gradient clipping, or restore an earlier checkpoint."
        )


def finite(path: str, variable: keras.Variable) -> np.ndarray:
    """Returns a weight as float32; raises ValueError that names it if it has NaN or infinite entries."""
    values = to_numpy(variable)
    check_finite(path, values)
    return values


def to_numpy(variable: keras.Variable) -> np.ndarray:
    """Returns a weight as float32, from any float type and backend."""
    return np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(variable, "float32")))


def affine_of(norm: keras.layers.BatchNormalization) -> tuple[np.ndarray, np.ndarray]:
    """Returns factor and offset of a batch normalization in inference: `y = factor x + offset`, float64."""
    mean, variance = (to_numpy(v).astype(np.float64) for v in (norm.moving_mean, norm.moving_variance))
    factor = 1 / np.sqrt(variance + norm.epsilon)
    if norm.scale:
        factor = factor * to_numpy(norm.gamma)
    offset = -mean * factor
    return factor, offset + to_numpy(norm.beta) if norm.center else offset
