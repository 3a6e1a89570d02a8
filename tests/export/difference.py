"""Distance of a file's outputs from those of Keras."""

import keras
import numpy as np

from r2keras.export import LiteRTModel


def difference(model, path, inputs, xnnpack):
    """Returns the largest difference to Keras over all outputs, relative to each output's range."""
    given = inputs if len(inputs) > 1 else inputs[0]
    expected = [np.asarray(y) for y in keras.tree.flatten(model(given, training=False))]
    actual = LiteRTModel(path, xnnpack=xnnpack).predict(inputs)
    actual = actual if isinstance(actual, list) else [actual]
    assert len(actual) == len(expected)
    return max(np.abs(a - b).max() / np.ptp(a) for a, b in zip(expected, actual, strict=True))
