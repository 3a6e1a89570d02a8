"""Products inside layers of Keras: the file rounds the rows that the twin, and the trained model, round."""

import keras
import numpy as np
import pytest
from keras import layers

from r2keras import QuantSpec, Recipe, calibrate, dynamic_twin, finalize, prepare
from r2keras._models.row_products import without_rounding
from r2keras._models.walk import view_of
from r2keras.export import LiteRTModel, to_litert

pytestmark = pytest.mark.usefixtures("near")
SEQUENCE = (6, 8)
BIAS = {"bias_initializer": "random_normal", "name": "part"}
PROJECTIONS = [f"part/{name}/kernel" for name in ("query", "key", "value", "attention_output")]
# The layer, the shape of its inputs, and the kernels in front of which rows are rounded.
KINDS = {
    "attention": (lambda x: layers.MultiHeadAttention(2, 4, **BIAS)(x, x[:, :4]), SEQUENCE, PROJECTIONS),
    "grouped": (lambda x: layers.GroupQueryAttention(4, 4, 2, **BIAS)(x, x), SEQUENCE, PROJECTIONS),
    "distributed": (
        lambda x: layers.TimeDistributed(layers.Dense(5, bias_initializer="normal", name="inner"), name="part")(x),
        SEQUENCE,
        ["part/inner/kernel"],
    ),
    "separable1d": (lambda x: layers.SeparableConv1D(5, 3, **BIAS)(x), SEQUENCE, ["part/pointwise_kernel"]),
    "separable2d": (
        lambda x: layers.SeparableConv2D(5, 3, 2, "same", depth_multiplier=2, activation="relu", **BIAS)(x),
        (5, 5, 8),
        ["part/pointwise_kernel"],
    ),
    "two axes": (
        lambda x: layers.EinsumDense("abcd,cdf->abf", (5, 7), bias_axes="f", **BIAS)(x),
        (5, 5, 8),
        ["part/kernel"],
    ),
}


def net(kind):
    """Returns a model of a layer between two others, and inputs."""
    keras.utils.set_random_seed(0)
    call, shape, _ = KINDS[kind]
    inputs = keras.Input(shape, batch_size=1)
    x = call(layers.Dense(8, bias_initializer="random_normal", name="first")(inputs))
    outputs = layers.Dense(3, name="last")(layers.Flatten(name="flat")(x))
    return keras.Model(inputs, outputs), np.random.default_rng(1).normal(size=(12, *shape)).astype("float32")


def off(model, path, data):
    """Returns the median difference of the file and a model in shares of the range, and the share that differs."""
    expected = np.concatenate([keras.ops.convert_to_numpy(model(x[None])) for x in data])
    difference = np.abs(LiteRTModel(path).predict(data) - expected) / np.ptp(expected)
    return np.median(difference), np.mean(difference > 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_twin_computes_what_the_file_computes(kind, tmp_path):
    model, data = net(kind)
    small, record = calibrate(model, Recipe([(".*", QuantSpec(4))]), data, progress=False)
    found = to_litert(small, tmp_path / "m.tflite", record, activations="dynamic")
    assert {row.name for row in found.tensors if "packed" in row.note} == {
        *("first/kernel", "last/kernel"),
        *KINDS[kind][2],
    }
    # Values on a tie take the other code.
    median, share = off(dynamic_twin(small, record), tmp_path / "m.tflite", data)
    assert median < 1e-6 and share < 0.15
    # Without the rounding in the layer alone, the outputs are others.
    assert off(part_only(small, record), tmp_path / "m.tflite", data)[1] > 0.8


def part_only(small, record):
    """Returns the twin without the rounding inside the layer `part`."""
    twin = dynamic_twin(small, record)
    twin.get_layer("part").kernels = ()
    return twin


@pytest.mark.parametrize("kind", KINDS)
def test_a_trained_model_and_its_file_compute_the_same(kind, tmp_path):
    model, data = net(kind)
    spec = QuantSpec(4, activation_bits=8, activation_method="dynamic")
    student = prepare(model, Recipe([("part", spec), (".*", QuantSpec(4))]))
    before = [np.array(weight) for weight in student.get_layer("part").layer.trainable_weights]
    # Tracing takes longer than these few steps; `tests/compression/test_dynamic_method.py` trains with graphs.
    student.compile(keras.optimizers.SGD(0.02), "mse", run_eagerly=True)
    student.fit(data[:3], np.ones((3, 3)), batch_size=1, verbose=0)
    # The bias of the keys has no gradient: a softmax ignores it.
    moved = [np.any(a != b) for a, b in zip(before, student.get_layer("part").layer.trainable_weights, strict=True)]
    assert np.mean(moved) > 0.8
    small, record = finalize(student)
    assert sorted(record.dynamic_kernels) == sorted(KINDS[kind][2])
    np.testing.assert_allclose(student(data[:1]), small(data[:1]), atol=1e-4)
    to_litert(small, tmp_path / "m.tflite", record, activations="dynamic")
    median, share = off(small, tmp_path / "m.tflite", data)
    assert median < 1e-6 and share < 0.15
    assert off(without_rounding(view_of(small)).model, tmp_path / "m.tflite", data)[1] > 0.8


@keras.saving.register_keras_serializable(package="tests")
class Projection(layers.Layer):
    """A layer that is not Keras' own."""

    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(input_shape[-1], 4), name="kernel")

    def call(self, inputs):
        return keras.ops.matmul(inputs, self.kernel)


def test_what_the_twin_does_not_round_is_named(tmp_path):
    own, shared = Projection(name="own"), layers.Dense(8, name="shared")
    inputs = keras.Input(SEQUENCE, batch_size=1)
    x = layers.TimeDistributed(shared, name="each")(layers.ReLU()(shared(inputs)))
    model = keras.Model(inputs, layers.Dense(3, name="last")(own(x)))
    data = np.random.default_rng(1).normal(size=(12, *SEQUENCE)).astype("float32")
    small, record = calibrate(model, Recipe([(".*", QuantSpec(4))]), data, progress=False)
    with pytest.warns(UserWarning, match="other rows in front of shared/kernel, own/kernel: r2keras"):
        dynamic_twin(small, record)
    spec = QuantSpec(4, activation_bits=8, activation_method="dynamic")
    small, record = calibrate(model, Recipe([(".*", spec)]), data, progress=False)
    assert record.dynamic_kernels == ("last/kernel",)
    found = to_litert(small, tmp_path / "m.tflite", record, activations="dynamic")
    assert [row.name for row in found.tensors if "packed" in row.note] == ["last/kernel"]
    median, share = off(small, tmp_path / "m.tflite", data)
    assert median < 1e-6 and share < 0.15
