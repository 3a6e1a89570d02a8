"""Statistics of the float model's inputs against sums over all windows of the inputs."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers
from numpy.lib.stride_tricks import sliding_window_view

from r2keras._models.walk import view_of
from r2keras.calibration.rounding import moments
from r2keras.calibration.rounding.float_inputs import input_statistics

pytestmark = pytest.mark.backends
X = np.random.default_rng(0).normal(size=(10, 6, 6, 2)).astype("float32")


def net():
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(3, 3, activation="relu", name="conv")(inputs)
    return keras.Model(inputs, layers.Dense(4, name="head")(layers.Flatten()(x)))


def patches():
    windows = sliding_window_view(X, (3, 3), axis=(1, 2)).transpose(0, 1, 2, 4, 5, 3)
    return windows.reshape(-1, 18).astype(np.float64)


def test_moments_are_those_of_all_patches():
    model = net()
    found = input_statistics(view_of(model), [[X[:4]], [X[4:]]])
    rows = patches()
    conv = found["conv/kernel"]
    assert conv.moments.rows == len(rows) == 160
    np.testing.assert_allclose(conv.moments.inner[0], rows.T @ rows, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(conv.sums[0, 0], rows.sum(axis=0), rtol=1e-4, atol=1e-3)
    hidden = np.maximum(rows @ conv.weights[0], 0).reshape(10, -1)
    np.testing.assert_allclose(found["head/kernel"].sums[0, 0], hidden.sum(axis=0), rtol=1e-3, atol=1e-3)


def test_errors_and_shifts_are_those_of_the_outputs():
    model = net()
    known = input_statistics(view_of(model), [[X]])["conv/kernel"]
    kernel = keras.ops.convert_to_numpy(model.get_layer("conv").kernel)
    other = kernel + np.random.default_rng(1).normal(size=kernel.shape, scale=0.1)
    change = patches() @ (other - kernel).reshape(18, 3)
    np.testing.assert_allclose(known.bias_shift(other)[0], change.mean(axis=0), rtol=1e-3, atol=1e-5)
    assert known.output_error(other) == pytest.approx(change.var(axis=0).sum(), rel=1e-3)


def test_enough_samples_are_enough(monkeypatch):
    monkeypatch.setattr(moments, "ENOUGH_ROWS", 60)
    monkeypatch.setattr(moments, "FEWEST_SAMPLES", 4)
    found = input_statistics(view_of(net()), [[X[:4]], [X[4:8]], [X[8:]]])
    assert (found["conv/kernel"].samples, found["head/kernel"].samples) == (4, 10)
