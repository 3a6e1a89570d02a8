"""Sensitivity against its closed form, and its effect on palettes after training."""

import keras
import numpy as np
import pytest
from keras import layers

from r2keras import PaletteSpec, QuantSpec, Recipe, calibrate
from r2keras._models.values import to_numpy
from r2keras.calibration import weight_sensitivity
from tests import nets
from tests.oracles_dkm import brute_force

pytestmark = pytest.mark.backends


def inputs(n=600, size=12):
    random = np.random.default_rng(3)
    return (random.normal(size=(n, size)) * np.exp(random.normal(size=size))).astype("float32")


def model():
    regular = {"kernel_regularizer": keras.regularizers.L2(100.0)}
    x = keras.Input((12,))
    hidden = layers.Dropout(0.5)(layers.BatchNormalization()(layers.Dense(6, "tanh", name="a", **regular)(x)))
    return keras.Model(x, [layers.Dense(3, name="b")(hidden), layers.Dense(2, name="c")(hidden)])


def test_against_the_closed_form_of_a_last_layer():
    net, x = model(), inputs()
    before = [to_numpy(w).copy() for w in net.weights]
    found = weight_sensitivity(net, x, batch_size=8)
    assert list(found) == ["a/kernel", "b/kernel", "c/kernel"]
    hidden = np.tanh(x @ to_numpy(net.get_layer("a").kernel)) / np.sqrt(1.001)
    # dy_o / dw_jo = h_j whatever o; random signs leave noise.
    wanted = (hidden**2).mean(axis=0)
    np.testing.assert_allclose(found["b/kernel"].mean(axis=1), wanted / wanted.mean(), rtol=0.35)
    assert all(part.mean() == pytest.approx(1.0, rel=1e-4) and (part >= 0).all() for part in found.values())
    assert all(np.array_equal(a, to_numpy(w)) for a, w in zip(before, net.weights, strict=True))


@pytest.mark.slow_elsewhere
def test_palettes_follow_what_matters():
    x = inputs()
    net = keras.Sequential([keras.Input((12,)), layers.Dense(20, name="head", use_bias=False)])
    recipes = [Recipe([("head", PaletteSpec(num_bits=2, min_size=0))], steps) for steps in ([], ["sensitivity"])]
    results = [calibrate(net, recipe, x) for recipe in recipes]
    wanted = nets.outputs(net, x)
    errors = [np.square(nets.outputs(small, x) - wanted).mean() for small, _ in results]
    kernel = to_numpy(net.get_layer("head").kernel)
    distances = [np.square(record.tensors["head/kernel"].values() - kernel).mean() for _, record in results]
    assert errors[1] < 0.9 * errors[0] and distances[1] > distances[0]


def test_palettes_need_no_data():
    net = keras.Sequential([keras.Input((12,)), layers.Dense(20, name="head", use_bias=False)])
    small, record = calibrate(net, Recipe([("head", PaletteSpec(num_bits=2, min_size=0))]))
    kernel, tensor = to_numpy(net.get_layer("head").kernel), record.tensors["head/kernel"]
    np.testing.assert_array_equal(to_numpy(small.get_layer("head").kernel), tensor.values())
    best = brute_force(kernel.ravel(), np.ones(kernel.size), 4)
    assert np.square(tensor.values() - kernel).sum() == pytest.approx(best, rel=1e-4)
    recipe = Recipe([("head", PaletteSpec(num_bits=2, min_size=0))], ["sensitivity"])
    with pytest.raises(ValueError, match="inputs for the step sensitivity"):
        calibrate(net, recipe)


def test_uniform_grids_do_not_change_and_data_are_needed():
    net, x = keras.Sequential([keras.Input((12,)), layers.Dense(4, name="head")]), inputs(32)
    recipes = [Recipe([("head", QuantSpec(num_bits=3))], steps) for steps in ([], ["sensitivity"])]
    codes = [calibrate(net, recipe, x)[1].tensors["head/kernel"].codes for recipe in recipes]
    np.testing.assert_array_equal(*codes)
    with pytest.raises(ValueError, match="inputs for the step sensitivity"):
        calibrate(net, recipes[1])


def test_adaround_leaves_palettes_alone():
    net, x = keras.Sequential([keras.Input((12,)), layers.Dense(4, name="a"), layers.Dense(3, name="b")]), inputs(64)
    recipe = Recipe([("a", PaletteSpec(num_bits=2, min_size=0)), ("b", QuantSpec(num_bits=3))], ["adaround"])
    small, record = calibrate(net, recipe, x, progress=False)
    assert record.notes["b/kernel"].startswith("AdaRound") and "palette" in record.notes["a/kernel"]
    for name in ("a", "b"):
        np.testing.assert_array_equal(to_numpy(small.get_layer(name).kernel), record.tensors[f"{name}/kernel"].values())
