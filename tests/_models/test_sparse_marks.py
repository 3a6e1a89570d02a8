"""Tensors that Keras marks as sparse although their values are dense, such as `tensor * number`, and sparse inputs."""

import keras
import numpy as np
import pytest
from keras import layers

import r2keras
from r2keras import PaletteSpec, QuantSpec, Recipe
from r2keras.calibration.taps import Tap
from r2keras.layers import FakeQuantize, GridActivation, Palettize, QuantizeActivation
from r2keras.quantizers import make_activation
from r2keras.specs import ActivationSpec

pytestmark = pytest.mark.backends

RNG = np.random.default_rng(3)
SPEC = QuantSpec(num_bits=8, activation_bits=8)
X = RNG.normal(size=(16, 6, 6, 2)).astype("float32")

LAYERS = {
    "fake-quantized convolution": lambda: FakeQuantize(layers.Conv2D(3, 3), QuantSpec(num_bits=4)),
    "palettized convolution": lambda: Palettize(layers.Conv2D(3, 3), PaletteSpec(num_bits=2, min_size=0)),
    "quantized activation": lambda: QuantizeActivation(ActivationSpec()),
    "activation on a grid": lambda: GridActivation(scale=0.1, zero_point=0, num_bits=8),
    "activation quantizer": lambda: make_activation(ActivationSpec(), name="quantizer"),
    "tap": lambda: Tap(layers.Conv2D(3, 3)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_takes_marked_tensors(name):
    x = keras.KerasTensor((None, 6, 6, 2), sparse=True)
    layer = LAYERS[name]()
    outputs = layer(x)
    assert outputs.shape == layer(keras.KerasTensor((None, 6, 6, 2))).shape
    assert not outputs.sparse


def net():
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(3, 3, name="conv")(inputs * (1 / 255))
    x = layers.ReLU(6.0)(x + 3.0) * (1 / 6)
    return keras.Model(inputs, layers.Dense(3, name="head")(layers.GlobalAveragePooling2D()(-x) * 0.5))


def array(x):
    return keras.ops.convert_to_numpy(x)


def test_models_with_products_by_numbers_are_calibrated():
    model, x = net(), 255 * X
    small, record = r2keras.calibrate(model, Recipe([(".*", SPEC)], steps=["correct_bias"]), x, input_bits=8)
    assert np.abs(array(small(x)) - array(model(x))).max() < 0.1 * np.abs(array(model(x))).max()
    assert list(record.tensors) == ["conv/kernel", "head/kernel"]


def test_models_with_products_by_numbers_are_trained_and_saved(tmp_path):
    x = 255 * X
    student = r2keras.prepare(net(), Recipe([(".*", SPEC)]), input_bits=8)
    student(x, training=True)
    for model in (student, r2keras.finalize(student)[0]):
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        assert np.array_equal(array(loaded(x)), array(model(x)))


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="makes a sparse tensor of TensorFlow")
def test_sparse_inputs_stay_sparse_and_quantized_ones_become_dense():
    tf = pytest.importorskip("tensorflow")
    inputs = keras.Input((8,), sparse=True)
    model = keras.Model(inputs, layers.Dense(2)(layers.Dense(3, activation="relu")(inputs) * 0.5))
    dense = RNG.normal(size=(4, 8)).astype("float32") * (RNG.random((4, 8)) < 0.3)
    sparse = tf.sparse.from_dense(dense.astype("float32"))
    for input_bits in (None, 8):
        student = r2keras.prepare(model, Recipe([(".*", SPEC)]), input_bits=input_bits)
        student(sparse, training=True)
        plain, _ = r2keras.finalize(student)
        assert plain.inputs[0].sparse
        for either in (student, plain):
            assert np.allclose(either(sparse), either(dense), atol=1e-6)
