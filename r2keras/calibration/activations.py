"""Ranges of quantized activations from unlabeled data."""

from __future__ import annotations

import keras

from r2keras._models.values import packed
from r2keras._models.walk import ModelView, view_of
from r2keras._util.errors import DataNeededError, invalid
from r2keras.calibration.data import Data, batches
from r2keras.compression import students


def set_activation_ranges(student: keras.Model, data: Data, *, batch_size: int = 128) -> int:
    """Sets the range of every quantized activation of a prepared model from data, in place.

    Runs the data through the model once, with quantized weights and float activations. Each activation then gets the
    range of its method. With `"ste"` that is the spec's `range`: the minimum and maximum of all data, their averages
    over the batches, percentiles, or the range of least squared error. Other methods get their start value.

    Args:
        student: a model that `r2keras.prepare` made.
        data: unlabeled inputs: an array, a list of arrays (one per input), a dict by name, or an iterable of batches.
        batch_size: samples per batch if `data` is an array.

    Returns:
        The number of ranges that were set.

    Raises:
        ValueError: there are no data, or they are empty, not finite or of another shape.

    Example:

    >>> import numpy as np
    >>> import r2keras
    >>> layers = [keras.Input((4,)), keras.layers.Dense(3, "relu", name="a"), keras.layers.Dense(2, name="b")]
    >>> recipe = r2keras.Recipe([(".*", r2keras.QuantSpec(num_bits=4, activation_bits=4))])
    >>> student = r2keras.prepare(keras.Sequential(layers), recipe)
    >>> set_activation_ranges(student, np.ones((8, 4), "float32"))
    1

    Source: Nagel et al., arXiv 2106.08295, section 3.1.
    """
    return set_ranges(view_of(student, "student"), data, batch_size=batch_size)


def set_ranges(view: ModelView, data: Data | None, *, batch_size: int = 128) -> int:
    """Sets the ranges as `set_activation_ranges` does, in the model of a view."""
    layers = [layer for _, layer in students.quantizers_of(view)]
    if not layers:
        return 0
    if data is None:
        expected = f"inputs, from which the ranges of {len(layers)} activations are measured"
        raise DataNeededError(invalid("data", expected, None, "Pass a few hundred inputs"))
    try:
        for layer in layers:
            layer.observe()
        for batch in batches(view, data, batch_size):
            view.model(packed(view.model, batch), training=False)
    finally:
        for layer in layers:
            layer.fit()
    return len(layers)
