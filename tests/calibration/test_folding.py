"""Folding changes the weights and the graph, never the function."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import r2keras
from r2keras.calibration import fold_batch_norm
from tests.calibration.nets import branched, images, nested, outputs_of, spiced

pytestmark = pytest.mark.backends


def norms(model: keras.Model) -> list[str]:
    parts = [layer for layer in model.layers if isinstance(layer, keras.Model)]
    own = [layer.name for layer in model.layers if isinstance(layer, layers.BatchNormalization)]
    return own + [name for part in parts for name in norms(part)]


def test_outputs_stay_and_norms_go():
    model = branched()
    folded = fold_batch_norm(model)
    np.testing.assert_allclose(outputs_of(folded, images()), outputs_of(model, images()), rtol=1e-4, atol=1e-5)
    assert norms(folded) == ["late_norm"]
    gone = set(norms(model)) - {"late_norm"}
    assert [layer.name for layer in folded.layers] == [layer.name for layer in model.layers if layer.name not in gone]


def test_nested_models():
    model, data = nested(), images(4, (6, 4))
    folded = fold_batch_norm(model)
    np.testing.assert_allclose(outputs_of(folded, data), outputs_of(model, data), rtol=1e-4, atol=1e-5)
    assert norms(folded) == []
    assert isinstance(folded.get_layer("inner"), keras.Sequential)


def test_kernel_and_bias_are_the_formula():
    parts = [layers.Dense(2, name="head"), layers.BatchNormalization(name="n")]
    model = spiced(keras.Sequential([keras.Input((3,)), *parts]))
    kernel, bias = model.get_layer("head").get_weights()
    gamma, beta, mean, variance = model.get_layer("n").get_weights()
    factor = gamma / np.sqrt(variance + 1e-3)
    folded = fold_batch_norm(model)
    np.testing.assert_allclose(folded.get_layer("head").get_weights()[0], kernel * factor, rtol=1e-6)
    np.testing.assert_allclose(folded.get_layer("head").get_weights()[1], (bias - mean) * factor + beta, rtol=1e-5)
    assert model.get_layer("head").get_weights()[0] is not kernel
    np.testing.assert_array_equal(model.get_layer("head").get_weights()[0], kernel)


def stays(build) -> keras.Model:
    inputs = keras.Input((4, 4, 3))
    return spiced(keras.Model(inputs, build(inputs)))


def activated(x):
    return layers.BatchNormalization()(layers.Conv2D(2, 1, activation="relu")(x))


def used_twice(x):
    y = layers.Conv2D(2, 1)(x)
    return layers.add([y, layers.BatchNormalization()(y)])


def shared(x):
    conv = layers.Conv2D(3, 1)
    return conv(layers.BatchNormalization()(conv(x)))


def over_another_axis(x):
    return layers.BatchNormalization(axis=1)(layers.Conv2D(2, 1)(x))


def an_output(x):
    y = layers.Conv2D(2, 1)(x)
    return [y, layers.BatchNormalization()(y)]


@pytest.mark.parametrize("build", [activated, used_twice, shared, over_another_axis, an_output])
def test_what_cannot_fold_stays(build):
    model = stays(build)
    folded = fold_batch_norm(model)
    assert len(norms(folded)) == 1
    data = images(2, (4, 4, 3))
    pairs = zip(keras.tree.flatten(model(data)), keras.tree.flatten(folded(data)), strict=True)
    for wanted, found in pairs:
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(wanted), keras.ops.convert_to_numpy(found))


def test_a_weight_that_is_not_finite_is_named():
    model = branched()
    model.get_layer("stem_norm").moving_mean.assign(np.full(6, np.nan, "float32"))
    with pytest.raises(ValueError, match="stem/bias has 6 NaN"):
        fold_batch_norm(model)


@pytest.mark.usefixtures("eager")
def test_the_folded_form_trains_under_quantization():
    """What `prepare` quantizes then is the product of kernel and gamma / std: what a file has, too."""
    folded = fold_batch_norm(branched())
    recipe = r2keras.Recipe([(".*", r2keras.QuantSpec(num_bits=4, activation_bits=8))])
    student = r2keras.prepare(folded, recipe, input_bits=8)
    student.compile(keras.optimizers.SGD(0.01), "mse")
    start = np.array(keras.ops.convert_to_numpy(student.get_layer("stem").layer.kernel))
    student.fit(images(), np.zeros((16, 4), "float32"), epochs=2, verbose=0)
    small, record = r2keras.finalize(student)
    assert norms(small) == ["late_norm"]
    assert not np.array_equal(keras.ops.convert_to_numpy(student.get_layer("stem").layer.kernel), start)
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(small.get_layer("stem").kernel), record.tensors["stem/kernel"].values()
    )
