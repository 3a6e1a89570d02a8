"""Ranges of quantized activations from unlabeled data."""

from __future__ import annotations

from collections.abc import Iterable

import keras

from r2keras._models.values import packed
from r2keras._models.walk import ModelView, view_of
from r2keras._util.errors import DataNeededError, invalid
from r2keras.calibration.data import Data, batches
from r2keras.calibration.data_checks import Batch
from r2keras.calibration.input_features import InputFeatures
from r2keras.compression import students


def set_activation_ranges(
    student: keras.Model, data: Data, *, batch_size: int = 128, max_samples: int | None = None
) -> int:
    """Sets the range of every quantized activation of a prepared model from data, in place.

    Runs the data through the model once, with quantized weights and float activations. Each activation then gets the
    range of its method. With `"ste"` that is the spec's `range`: the minimum and maximum of all data (also with
    `"moving_average"`, which averages in training only), percentiles, or the range of least squared error. Other
    methods get their start value. The order of the data, their batches, and the number of a layer's calls have no
    effect. Memory does not grow with the data.

    Args:
        student: a model that `r2keras.prepare` made.
        data: unlabeled inputs: an array, a list of arrays (one per input), a dict by name, or an iterable of batches.
        batch_size: samples per batch; the data's own batches have no effect.
        max_samples: the number of samples to use: of arrays a random choice, of an iterable the first ones. None uses
            all, but 16,384 of an iterable that does not say how many batches it has.

    Returns:
        The number of ranges that were set.

    Raises:
        ValueError: there are no data, or they are empty, not finite, without end or of another shape.

    Warns:
        UserWarning: features of the model's input whose ranges are too small for the input's grid.

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
    view = view_of(student, "student")
    return set_ranges(view, None if data is None else batches(view, data, batch_size, max_samples))


def set_ranges(view: ModelView, data: Iterable[Batch] | None) -> int:
    """Sets the ranges as `set_activation_ranges` does, in the model of a view, from checked batches."""
    layers = [layer for _, layer in students.quantizers_of(view)]
    if not layers:
        return 0
    if data is None:
        expected = f"inputs, from which the ranges of {len(layers)} activations are measured"
        raise DataNeededError(invalid("data", expected, None, "Pass a few hundred inputs"))
    inputs = InputFeatures(view)
    try:
        for layer in layers:
            layer.observe()
        for batch in data:
            inputs.add(batch)
            view.model(packed(view.model, batch), training=False)
    finally:
        for layer in layers:
            layer.fit()
    inputs.warn()
    return len(layers)
