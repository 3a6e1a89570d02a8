"""The steps of calibration take Lambda layers and the caller's own classes and functions, registered or not."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import r2keras
from r2keras.calibration import AdaRoundOptions, correct_bias, equalize, fold_batch_norm, weight_sensitivity
from tests.calibration.nets import spiced

pytestmark = pytest.mark.backends

X = np.random.default_rng(0).normal(size=(16, 6)).astype("float32")
ALL = r2keras.Recipe([(".*", r2keras.QuantSpec(num_bits=8))])
STEPS = ("fold_batch_norm", "equalize", "adaround", "correct_bias", "reestimate_batch_norm")


def halved(x):
    return 0.5 * x


class Halved(layers.Layer):
    """A layer of the caller's."""

    def call(self, inputs):
        return 0.5 * inputs

    def compute_output_shape(self, input_shape):
        return input_shape


class Halves(keras.initializers.Initializer):
    """An initializer of the caller's."""

    def __call__(self, shape, dtype=None):
        return keras.ops.full(shape, 0.5, dtype)

    def get_config(self):
        return {}


def inside_another_layer():
    repeat, flat = layers.Reshape((1, 6)), layers.Flatten()
    return [repeat, layers.TimeDistributed(Halved()), flat]


FIRST = {
    "lambda": lambda: [layers.Lambda(lambda x: 0.5 * x)],
    "function": lambda: [layers.Lambda(halved)],
    "activation": lambda: [layers.Activation(halved)],
    "own activation of a kernel": lambda: [layers.Dense(6, activation=halved)],
    "layer": lambda: [Halved()],
    "layer inside a layer": inside_another_layer,
    "initializer": lambda: [layers.Dense(6, kernel_initializer=Halves())],
}


def net(first):
    """Own objects, then layers that every step has something to do with."""
    parts = [
        layers.Dense(5, name="a"),
        layers.BatchNormalization(name="norm"),
        layers.ReLU(),
        layers.Dense(4, activation="relu", name="b"),
        layers.Dense(3, name="c"),
    ]
    return spiced(keras.Sequential([keras.Input((6,)), *FIRST[first](), *parts]))


def outputs(model):
    return np.asarray(keras.ops.convert_to_numpy(model(X)), np.float64)


@pytest.mark.parametrize("first", FIRST)
def test_folding_and_equalization_take_them(first):
    model = net(first)
    folded = fold_batch_norm(model)
    assert "norm" not in [layer.name for layer in folded.layers]
    np.testing.assert_allclose(outputs(folded), outputs(model), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(outputs(equalize(folded)), outputs(model), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("first", ["lambda", "layer inside a layer"])
def test_bias_correction_takes_them(first):
    model = net(first)
    small, _ = r2keras.finalize(r2keras.prepare(model, r2keras.Recipe([(".*", r2keras.QuantSpec(num_bits=3))])))
    better = correct_bias(model, small, X)
    np.testing.assert_allclose(outputs(better).mean(axis=0), outputs(model).mean(axis=0), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("first", ["lambda", "own activation of a kernel", "layer inside a layer", "initializer"])
def test_every_step_of_calibration_takes_them(first):
    model = net(first)
    recipe = r2keras.Recipe(ALL.rules, steps=STEPS)
    small, _ = r2keras.calibrate(model, recipe, X, options=AdaRoundOptions(iterations=20))
    assert np.corrcoef(outputs(small).ravel(), outputs(model).ravel())[0, 1] > 0.999


@pytest.mark.slow_elsewhere
@pytest.mark.parametrize("first", ["lambda", "layer inside a layer"])
def test_sensitivity_takes_them(first):
    assert set(weight_sensitivity(net(first), X)) >= {"a/kernel", "b/kernel", "c/kernel"}
