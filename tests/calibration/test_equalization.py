"""Equalization: the function stays, the ranges become equal, and errors name the obstacles."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from r2keras._models.walk import view_of
from r2keras.calibration import equalize, fold_batch_norm
from r2keras.calibration.equalization import equalized
from tests.calibration.nets import branched, chain, images, outputs_of, spiced

pytestmark = pytest.mark.backends


def weights(model: keras.Model, name: str) -> list[np.ndarray]:
    return model.get_layer(name).get_weights()


@pytest.mark.parametrize("activation", ["relu", "linear", "leaky_relu"])
@pytest.mark.parametrize("bias", [True, False])
def test_the_function_stays(activation, bias):
    model = chain(activation, bias=bias)
    even = equalize(model)
    np.testing.assert_allclose(outputs_of(even, images()), outputs_of(model, images()), atol=1e-5)
    assert not np.allclose(weights(even, "first")[0], weights(model, "first")[0])


def test_ranges_become_equal():
    model = equalize(chain())
    first, depthwise, second = (np.abs(weights(model, name)[0]) for name in ("first", "depthwise", "second"))
    np.testing.assert_allclose(first.max((0, 1, 2)), depthwise.max((0, 1, 3)), rtol=1e-2)
    np.testing.assert_allclose(depthwise.max((0, 1)).reshape(-1), second.max((0, 1, 3)), rtol=1e-2)
    hidden, head = (np.abs(weights(model, name)[0]) for name in ("hidden", "head"))
    np.testing.assert_allclose(second.max((0, 1, 2)), hidden.max(1), rtol=1e-2)
    np.testing.assert_allclose(hidden.max(0), head.max(1), rtol=1e-2)


def test_one_pair_is_the_formula():
    parts = [layers.Dense(4, name="a"), layers.ReLU(), layers.Dense(2, name="b")]
    model = spiced(keras.Sequential([keras.Input((3,)), *parts]))
    (w1, b1), (w2, b2) = weights(model, "a"), weights(model, "b")
    scale = np.sqrt(np.abs(w1).max(0) * np.abs(w2).max(1)) / np.abs(w2).max(1)
    even, factors = equalized(view_of(model))
    formula = [w1 / scale, b1 / scale, w2 * scale[:, None], b2]
    for found, wanted in zip(weights(even.model, "a") + weights(even.model, "b"), formula, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5)
    np.testing.assert_allclose(factors["b"], scale, rtol=1e-6)


def test_folded_net_with_every_kind_of_layer():
    model = fold_batch_norm(branched())
    even = equalize(model)
    np.testing.assert_allclose(outputs_of(even, images()), outputs_of(model, images()), rtol=1e-4, atol=1e-5)
    names = [layer.name for layer in model.layers if layer.weights]
    moved = {name for name in names if not np.allclose(weights(model, name)[0], weights(even, name)[0])}
    assert moved == {"depthwise", "project", "up", "head"}  # stem feeds two layers, late_norm is in front of separable


def test_grouped_transposed_and_separable_layers_take_part():
    parts = [
        layers.Conv2D(4, 3, groups=2, name="grouped"),
        layers.Conv2D(6, 3, groups=2, name="again"),
        layers.SeparableConv2D(3, 3, depth_multiplier=2, name="separable"),
        layers.Conv2DTranspose(4, 3, name="up"),
        layers.MaxPooling2D(),
        layers.Conv2DTranspose(2, 3, name="end"),
    ]
    model = spiced(keras.Sequential([keras.Input((8, 8, 4)), *parts]))
    even, data = equalize(model), images(4, (8, 8, 4))
    np.testing.assert_allclose(outputs_of(even, data), outputs_of(model, data), rtol=1e-4, atol=1e-4)
    for name in ("grouped", "again", "separable", "up", "end"):
        assert not np.allclose(weights(even, name)[0], weights(model, name)[0])
    grouped, again = np.abs(weights(even, "grouped")[0]).max((0, 1, 2)), np.abs(weights(even, "again")[0])
    taken = np.concatenate([again[..., :3].max((0, 1, 3)), again[..., 3:].max((0, 1, 3))])
    np.testing.assert_allclose(grouped, taken, rtol=1e-2)


@pytest.mark.parametrize("side", ["first", "depthwise"])
def test_dead_channels_stay_as_they_are(side):
    model = chain()
    kernel, bias = weights(model, side)
    kernel[..., 1, :] = 0 if side == "depthwise" else kernel[..., 1, :]
    kernel[..., 1] = 0 if side == "first" else kernel[..., 1]
    model.get_layer(side).set_weights([kernel, bias])
    even = equalize(model)
    assert all(np.isfinite(w).all() for w in even.get_weights())
    np.testing.assert_allclose(outputs_of(even, images()), outputs_of(model, images()), atol=1e-5)


def net(*between) -> keras.Model:
    parts = [layers.Dense(3, name="a"), *between, layers.Dense(2, name="b")]
    return spiced(keras.Sequential([keras.Input((4,)), *parts], name="net"))


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (lambda: net(layers.BatchNormalization(name="norm")), "by 'norm', a BatchNormalization.*fold batch norm"),
        (lambda: net(layers.ReLU(6.0, name="six")), "followed by 'six', a ReLU clipped at 6.0"),
        (lambda: net(layers.Activation("tanh", name="act")), "followed by 'act', a Activation"),
        (lambda: keras.Sequential([keras.Input((4,)), layers.Dense(2)]), "fewer than two such layers"),
        (lambda: keras.Sequential([keras.Input((4,)), layers.ReLU()]), "fewer than two such layers"),
    ],
)
def test_a_model_without_a_pair_says_what_is_in_the_way(model, match):
    with pytest.raises(ValueError, match=match):
        equalize(model())


def test_unclip_makes_relu6_plain():
    model = net(layers.ReLU(6.0, name="six"))
    even, data = equalize(model, unclip=True), 0.1 * images(4, (4,))
    assert even.get_layer("six").max_value is None
    np.testing.assert_allclose(outputs_of(even, data), outputs_of(model, data), atol=1e-5)
    assert equalize(net(layers.Activation("relu6", name="six")), unclip=True).get_layer("six").activation is (
        keras.activations.relu
    )


def test_what_is_not_finite_is_named():
    model = net()
    model.get_layer("a").bias.assign(np.full(3, np.inf, "float32"))
    with pytest.raises(ValueError, match="a/bias has 3 NaN or infinite"):
        equalize(model)
