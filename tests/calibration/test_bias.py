"""Bias correction: the means are restored; the closed form agrees with sampling."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import r2keras
from r2keras.calibration import correct_bias, expected_inputs, fold_batch_norm
from r2keras.calibration.expected_means import clipped_mean
from tests.calibration.nets import branched, chain, images, nested, outputs_of, spiced

pytestmark = pytest.mark.backends


def quantized(model: keras.Model, num_bits: int = 3) -> keras.Model:
    recipe = r2keras.Recipe([(".*", r2keras.QuantSpec(num_bits=num_bits))])
    return r2keras.finalize(r2keras.prepare(model, recipe))[0]


def mean_before(model: keras.Model, name: str, data: np.ndarray) -> np.ndarray:
    """The mean of the outputs of a layer, an output channel."""
    values = outputs_of(keras.Model(model.inputs[0], model.get_layer(name).output), data)
    return values.reshape(-1, values.shape[-1]).mean(0)


@pytest.mark.parametrize("bias", [True, False])
def test_means_come_back(bias):
    model, data = chain("linear", bias=bias), images(64)
    small = quantized(model)
    better = correct_bias(model, small, data)
    for name in ("first", "depthwise", "second", "hidden"):
        wanted = mean_before(model, name, data)
        assert np.abs(mean_before(small, name, data) - wanted).max() > 1e-3
        np.testing.assert_allclose(mean_before(better, name, data), wanted, atol=2e-5)
        np.testing.assert_array_equal(better.get_layer(name).get_weights()[0], small.get_layer(name).get_weights()[0])


def test_first_layer_is_the_formula():
    parts = [layers.Dense(3, name="head")]
    model = spiced(keras.Sequential([keras.Input((5,)), *parts]))
    small, data = quantized(model), images(32, (5,))
    kernel, bias = model.get_layer("head").get_weights()
    moved = (small.get_layer("head").get_weights()[0] - kernel).T @ data.mean(0)
    found = correct_bias(model, small, data).get_layer("head").get_weights()[1]
    np.testing.assert_allclose(found, bias - moved, atol=1e-5)


def test_every_kind_of_layer():
    model, data = fold_batch_norm(branched()), images(32)
    small = quantized(model, 4)
    better = correct_bias(model, small, data)
    for name in ("stem", "depthwise", "project", "separable", "up", "head"):
        np.testing.assert_allclose(mean_before(better, name, data), mean_before(model, name, data), atol=1e-4)


@pytest.mark.slow_elsewhere
def test_einsum_and_nested_models():
    inputs = keras.Input((3, 5))
    x = layers.EinsumDense("abc,cd->abd", output_shape=(None, 4), bias_axes="d", name="einsum")(inputs)
    model = spiced(keras.Model(inputs, layers.EinsumDense("abd,de->abe", output_shape=(None, 2), name="bare")(x)))
    small, data = quantized(model), images(16, (3, 5))
    better = correct_bias(model, small, data)
    np.testing.assert_allclose(mean_before(better, "einsum", data), mean_before(model, "einsum", data), atol=1e-5)
    assert better.get_layer("bare").bias is None
    model, data = nested(), images(16, (6, 4))
    small = quantized(model)
    wanted, before, after = (mean_before(m, "head", data) for m in (model, small, correct_bias(model, small, data)))
    assert np.abs(after - wanted).max() < 1e-4 < np.abs(before - wanted).max()


@pytest.mark.parametrize("limits", [(-np.inf, np.inf), (0.0, np.inf), (0.0, 6.0)])
def test_closed_form_agrees_with_sampling(limits):
    random = np.random.default_rng(0)
    mean, deviation = random.normal(0, 3, 8), random.normal(0, 2, 8)
    deviation[0] = 0.0
    samples = np.clip(mean + deviation * random.normal(size=(400_000, 8)), *limits)
    np.testing.assert_allclose(clipped_mean(mean, deviation, *limits), samples.mean(0), atol=0.02)


def normed(activation: layers.Layer) -> keras.Model:
    parts = [
        layers.Conv2D(4, 3, use_bias=False, name="first"),
        layers.BatchNormalization(name="norm"),
        activation,
        layers.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise"),
        layers.BatchNormalization(name="norm2"),
        layers.ReLU(name="relu2"),
        layers.Dropout(0.5),
        layers.GlobalAveragePooling2D(),
        layers.Dense(3, name="head"),
    ]
    return spiced(keras.Sequential([keras.Input((8, 8, 3)), *parts], name="normed"))


@pytest.mark.parametrize("activation", [layers.ReLU(), layers.ReLU(6.0), layers.Activation("relu"), layers.Identity()])
def test_expected_inputs_are_what_normal_inputs_give(activation):
    model = normed(activation)
    gamma, beta = model.get_layer("norm").get_weights()[:2]
    samples = beta + gamma * np.random.default_rng(0).normal(size=(200_000, 4))
    low = -np.inf if isinstance(activation, layers.Identity) else 0
    limits = (low, getattr(activation, "max_value", None) or np.inf)
    found = expected_inputs(model)
    np.testing.assert_allclose(found["depthwise"], np.clip(samples, *limits).mean(0), atol=0.02)
    assert set(found) == {"depthwise", "head"}


@pytest.mark.slow_elsewhere
def test_without_data_the_prediction_is_the_formula_for_constant_inputs():
    model = normed(layers.ReLU())
    small, means = quantized(model), expected_inputs(model)
    with pytest.warns(UserWarning, match="keep their bias.*first"):
        better = correct_bias(model, small)
    for name, size in (("depthwise", (1, 6, 6)), ("head", ())):
        moved = []
        for net in (model, small):
            inputs = np.broadcast_to(means[name].astype("float32"), (*(size or (1,)), len(means[name])))
            outputs = keras.ops.convert_to_numpy(net.get_layer(name)(inputs))
            moved.append(outputs.reshape(-1, outputs.shape[-1])[0])
        wanted = small.get_layer(name).get_weights()[1] - (moved[1] - moved[0])
        np.testing.assert_allclose(better.get_layer(name).get_weights()[1], wanted, atol=1e-5)


def test_means_from_before_folding_serve_the_folded_model():
    model = normed(layers.ReLU())
    folded = fold_batch_norm(model)
    small = quantized(folded)
    with pytest.warns(UserWarning, match="first"):
        better = correct_bias(folded, small, means=expected_inputs(model))
    assert not np.allclose(better.get_layer("head").get_weights()[1], small.get_layer("head").get_weights()[1])


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (None, "from a batch normalization.*Pass unlabeled data"),
        (np.zeros((0, 8, 8, 3), "float32"), "at least one sample"),
        (np.full((4, 8, 8, 3), np.inf, "float32"), "NaN or infinite"),
        (np.zeros((4, 7, 8, 3), "float32"), r"batches of shape \(samples, 8, 8, 3\)"),
        ([(np.zeros((4, 8, 8, 3), "float32"), np.zeros(4))], "labels"),
    ],
)
def test_bad_input_is_refused(data, match):
    model = chain()
    with pytest.raises(ValueError, match=match):
        correct_bias(model, quantized(model), data)


def test_models_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match="no layer 'first'"):
        correct_bias(nested(), quantized(chain()), images())


def test_a_layer_called_on_inputs_of_two_sizes_keeps_its_bias():
    """The mean of its outputs is not one array."""
    small, large = keras.Input((4, 4, 2), name="small"), keras.Input((6, 6, 2), name="large")
    shared = keras.layers.Conv2D(3, 3, bias_initializer="ones", name="shared")
    pooled = [keras.layers.GlobalAveragePooling2D()(shared(image)) for image in (small, large)]
    model = keras.Model([small, large], keras.layers.Dense(2, name="head")(keras.layers.Concatenate()(pooled)))
    other = keras.models.clone_model(model)
    other.set_weights([1.1 * weight for weight in model.get_weights()])
    data = [np.random.default_rng(0).normal(size=(5, *image.shape[1:])).astype("float32") for image in (small, large)]
    better = correct_bias(model, other, data)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(better.get_layer("shared").bias), 1.1, rtol=1e-6)
    means = [keras.ops.convert_to_numpy(m(data)).mean(axis=0) for m in (model, better)]
    np.testing.assert_allclose(means[0], means[1], rtol=1e-4, atol=1e-5)
