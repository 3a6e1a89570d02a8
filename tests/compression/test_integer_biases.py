"""Biases on whole steps of integer accumulators."""

import keras
import numpy as np
import pytest
from keras import layers

from r2keras import QuantSpec, Recipe, calibrate, finalize, prepare
from r2keras.compression.integer_biases import round_biases

pytestmark = pytest.mark.backends

X = np.random.default_rng(0).normal(size=(32, 8, 8, 3)).astype("float32")


def net(center=True):
    """A convolution, a depthwise one with batch norm, a pool, a dense layer."""
    inputs = keras.Input(X.shape[1:], name="in")
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(inputs)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False, name="depth")(layers.ZeroPadding2D()(x))
    x = layers.ReLU(name="relu")(layers.BatchNormalization(center=center, name="norm")(x))
    x = layers.Flatten()(layers.MaxPooling2D()(x))
    model = keras.Model(inputs, layers.Dense(3, name="head")(x))
    rng = np.random.default_rng(1)
    for variable in model.weights:
        shift = 1.0 if "variance" in variable.path or "gamma" in variable.path else 0.0
        variable.assign(shift + 0.3 * np.abs(rng.normal(size=variable.shape)))
    return model


def recipe(bits=8, **options):
    """Every kernel on a grid, every activation on 8 bits."""
    return Recipe([(".*", QuantSpec(num_bits=bits, activation_bits=8, **options))])


def steps_of(model, record, layer, source, norm=None):
    """Returns the bias of an operator in steps of its accumulators, and one step: from the formula alone."""
    tensor = record.tensors[f"{layer}/kernel"]
    scale = np.float64(record.activations[source].scale) * tensor.scale.astype(np.float64).ravel()
    scale = scale / 2 if np.all(tensor.zero_point == -0.5) else scale
    layer = model.get_layer(layer)
    bias = np.asarray(keras.ops.convert_to_numpy(layer.bias), np.float64) if layer.use_bias else 0.0
    if norm is not None:
        norm = model.get_layer(norm)
        gamma, mean, variance = (
            np.asarray(keras.ops.convert_to_numpy(v), np.float64)
            for v in (norm.gamma, norm.moving_mean, norm.moving_variance)
        )
        factor = gamma / np.sqrt(variance + norm.epsilon)
        beta = np.asarray(keras.ops.convert_to_numpy(norm.beta), np.float64) if norm.center else 0.0
        bias, scale = factor * (bias - mean) + beta, scale * np.abs(factor)
    return bias / scale


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("center", [True, False])
def test_every_bias_is_a_whole_number_of_steps(bits, center):
    model, record = calibrate(net(center), recipe(bits), X, batch_norm="keep", input_bits=8)
    found = [
        steps_of(model, record, "conv", "in"),
        steps_of(model, record, "depth", "conv", "norm"),
        steps_of(model, record, "head", "relu"),
    ]
    for steps in found:
        np.testing.assert_allclose(steps, np.rint(steps), atol=0.02)
        assert np.abs(steps).max() > 2


def test_finalize_rounds_too_and_moves_by_half_a_step_at_most():
    keras.utils.set_random_seed(0)
    student = prepare(net(), recipe(4), input_bits=8)
    student(X, training=True)
    before = student.get_layer("head").layer.bias
    model, record = finalize(student)
    steps = steps_of(model, record, "head", "relu")
    np.testing.assert_allclose(steps, np.rint(steps), atol=0.02)
    one = record.activations["relu"].scale * record.tensors["head/kernel"].scale.max()
    moved = keras.ops.convert_to_numpy(model.get_layer("head").bias) - keras.ops.convert_to_numpy(before)
    assert 0 < np.abs(moved).max() <= 0.5001 * one


@pytest.mark.parametrize(
    ("options", "input_bits", "done"),
    [
        ({}, 8, ["conv", "depth", "head"]),
        ({}, None, ["depth", "head"]),
        ({"symmetric": False}, 8, []),
    ],
)
def test_what_has_no_integer_operator_is_left_alone(options, input_bits, done):
    model, record = calibrate(net(), recipe(8, **options), X, batch_norm="keep", input_bits=input_bits)
    before = [np.array(keras.ops.convert_to_numpy(v)) for v in model.weights]
    assert round_biases(model, record) == done
    # They lie on the steps already: nothing moves again but by float rounding.
    for old, new in zip(before, model.weights, strict=True):
        np.testing.assert_allclose(keras.ops.convert_to_numpy(new), old, rtol=2e-6, atol=1e-7)


def test_few_bit_activations_are_left_alone():
    rule = Recipe([(".*", QuantSpec(num_bits=4, activation_bits=4))])
    model, record = calibrate(net(), rule, X, batch_norm="keep", input_bits=4)
    assert round_biases(model, record) == []


def test_a_layer_called_twice_is_left_alone():
    inputs = keras.Input((4,), name="in")
    dense = layers.Dense(4, activation="relu", name="dense")
    model = keras.Model(inputs, layers.Dense(2, name="head")(dense(dense(inputs))))
    small, record = calibrate(model, recipe(), X[:, 0, 0].repeat(2, -1)[:, :4], input_bits=8)
    assert "dense" not in round_biases(small, record)
