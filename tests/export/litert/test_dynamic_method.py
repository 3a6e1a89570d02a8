"""Files of models that round rows themselves: they compute what the model computes, for every method of the weights."""

import functools
import warnings

import keras
import numpy as np
import pytest
from keras import layers

from r2keras import CompressionRecord, QuantSpec, Recipe, calibrate, dynamic_twin, finalize, prepare
from r2keras._models.row_products import without_rounding
from r2keras._models.walk import view_of
from r2keras.export import LiteRTModel, sizes, streaming, to_litert, to_tflm, verify
from r2keras.export.tflite.interpreter import read
from r2keras.export.tflite.subgraph import subgraphs

pytestmark = pytest.mark.usefixtures("near")
ROWS = {"activation_bits": 8, "activation_method": "dynamic"}
SEQUENCE = (7, 18)
NETS = {
    "dense": ((50,), lambda: [layers.Dense(33, activation="relu"), layers.Dense(10)]),
    "pointwise": (
        (6, 6, 16),
        lambda: [
            *(layers.Conv2D(10, 1, use_bias=False), layers.BatchNormalization(), layers.ReLU()),
            *(layers.Conv2D(6, 3), layers.SeparableConv2D(8, 3), layers.Conv2D(5, 1), layers.Flatten()),
        ],
    ),
    "conv1d": (SEQUENCE, lambda: [layers.Conv1D(9, 1), layers.Conv1D(4, 3), layers.Flatten(), layers.Dense(3)]),
    "einsum": (SEQUENCE, lambda: [layers.EinsumDense("abc,cde->abde", (None, 4, 5), bias_axes="de"), layers.Flatten()]),
    "lstm": (SEQUENCE, lambda: [layers.LSTM(30, return_sequences=True), layers.Dense(5)]),
    "gru": (SEQUENCE, lambda: [layers.GRU(30), layers.Dense(5)]),
    "bidirectional": (SEQUENCE, lambda: [layers.Bidirectional(layers.SimpleRNN(10)), layers.Dense(5)]),
}
# Each net, and each method of the weights.
CASES = [
    ("dense", {"num_bits": 8, "method": "lsq"}),
    ("dense", {"num_bits": 2, "method": "balanced"}),
    ("dense", {"num_bits": 2, "method": "ternary"}),
    ("dense", {"num_bits": 4, "method": "ewgs"}),
    ("pointwise", {"num_bits": 4}),
    ("pointwise", {"num_bits": 2, "levels": "mid_tread"}),
    ("conv1d", {"num_bits": 2, "method": "dorefa"}),
    ("einsum", {"num_bits": 3, "granularity": "per_tensor"}),
    ("lstm", {"num_bits": 2}),
    ("gru", {"num_bits": 4, "method": "wrpn"}),
    ("bidirectional", {"num_bits": 1, "method": "binary"}),
]


def net(name):
    """Returns a model and inputs."""
    keras.utils.set_random_seed(0)
    shape, parts = NETS[name]
    model = keras.Sequential([keras.Input(shape, batch_size=1 if shape == SEQUENCE else None), *parts()])
    return model, np.random.default_rng(1).normal(size=(12, *shape)).astype("float32")


@functools.cache
def trained(name, **spec):
    """Returns what `finalize` makes of a student after a few steps, and inputs."""
    model, data = net(name)
    student = prepare(
        model, Recipe([("separable", None)] * (name == "pointwise") + [(".*", QuantSpec(**spec, **ROWS))])
    )
    # Tracing takes longer than these few steps; `tests/compression/test_dynamic_method.py` trains with graphs.
    student.compile(keras.optimizers.SGD(0.03), "mse", run_eagerly=True)
    student.fit(data[:3], np.zeros_like([model(x[None])[0] for x in data[:3]]), batch_size=1, verbose=0)
    return *finalize(student), data


def off(model, path, data, **options):
    """Returns the median difference of the file and the model in shares of the range, and the share that differs."""
    expected = np.concatenate([keras.ops.convert_to_numpy(model(x[None])) for x in data])
    difference = np.abs(LiteRTModel(path, **options).predict(data) - expected) / np.ptp(expected)
    return np.median(difference), np.mean(difference > 1e-5)


@pytest.mark.parametrize(("name", "spec"), CASES)
def test_a_trained_model_and_its_file_compute_the_same(name, spec, tmp_path):
    model, record, data = trained(name, **spec)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="The file does not round")
        found = to_litert(model, tmp_path / "m.tflite", record, activations="dynamic")
    # Values on a tie take the other code.
    median, share = off(model, tmp_path / "m.tflite", data)
    assert median < 1e-6 and share < 0.15
    assert {row.name for row in found.tensors if "packed" in row.note} == set(record.dynamic_kernels)
    assert sizes(record, tmp_path / "m.tflite") == found
    # The model without the rounding computes something else.
    _, share = off(without_rounding(view_of(model)).model, tmp_path / "m.tflite", data)
    assert share > 0.8


def test_one_scale_per_gate(tmp_path):
    model, data = net("lstm")
    rules = [("lstm", QuantSpec(4, granularity="per_gate", **ROWS)), (".*", QuantSpec(4, **ROWS))]
    small, record = calibrate(model, Recipe(rules), data, progress=False)
    found = to_litert(small, tmp_path / "m.tflite", record, activations="dynamic")
    assert all("packed" in row.note for row in found.tensors)
    median, share = off(small, tmp_path / "m.tflite", data)
    assert median < 1e-6 and share < 0.15


def test_only_dynamic_kernels_are_packed(tmp_path):
    model, data = net("dense")
    rules = [(model.layers[0].name, QuantSpec(4)), (".*", QuantSpec(4, **ROWS))]
    small, record = calibrate(model, Recipe(rules), data, progress=False)
    found = to_litert(small, tmp_path / "m.tflite", record, activations="dynamic")
    assert ["packed" in row.note for row in found.tensors] == [False, True]
    median, share = off(small, tmp_path / "m.tflite", data)
    assert median < 1e-6 and share < 0.05


SCALED = {"dense": [layers.Dense(9)], "flat": [layers.Flatten(), layers.Dense(9)], "lstm": [layers.LSTM(9)]}


@pytest.mark.parametrize("kind", SCALED)
@pytest.mark.parametrize("method", [{}, ROWS])
def test_the_converter_moves_no_addition_behind_a_product(kind, method, tmp_path):
    model = keras.Sequential([keras.Input(SEQUENCE, batch_size=1), layers.Rescaling(0.5, -0.75), *SCALED[kind]])
    data = np.random.default_rng(1).normal(size=(12, *SEQUENCE)).astype("float32")
    small, record = calibrate(model, Recipe([(".*", QuantSpec(4, **method))]), data, progress=False)
    to_litert(small, tmp_path / "m.tflite", record, activations="dynamic")
    median, share = off(dynamic_twin(small, record), tmp_path / "m.tflite", data)
    assert median < 1e-6 and share < 0.15
    kinds = [graph.kind(op) for graph in subgraphs(read(tmp_path / "m.tflite")) for op in graph.operators]
    assert "MAXIMUM" not in kinds


def test_an_addition_that_is_an_output_too(tmp_path):
    inputs = keras.Input((20,))
    x = inputs + 0.25
    model = keras.Model(inputs, [layers.Dense(3)(x), layers.ReLU()(x), x])
    data = np.random.default_rng(1).normal(size=(12, 20)).astype("float32")
    small, record = calibrate(model, Recipe([(".*", QuantSpec(4, **ROWS))]), data, progress=False)
    to_litert(small, tmp_path / "m.tflite", record, activations="dynamic")
    pairs = zip(LiteRTModel(tmp_path / "m.tflite").predict(data), small.predict(data, verbose=0), strict=True)
    assert all(np.median(np.abs(found - expected)) < 1e-6 for found, expected in pairs)


def test_saved_and_loaded_and_verified(tmp_path):
    small, record, data = trained("dense", num_bits=4)
    small.save(tmp_path / "m.keras")
    record.save(tmp_path / "r.npz")
    small, record = keras.models.load_model(tmp_path / "m.keras"), CompressionRecord.load(tmp_path / "r.npz")
    to_litert(small, tmp_path / "m.tflite", record, activations="dynamic")
    result = verify(small, tmp_path / "m.tflite", data)
    assert result.agreement == 1 and result.relative_difference < 1e-3
    to_litert(dynamic_twin(small, record), tmp_path / "twin.tflite", record, activations="dynamic")
    assert (tmp_path / "twin.tflite").read_bytes() == (tmp_path / "m.tflite").read_bytes()


def test_a_stream_rounds_rows(tmp_path):
    small, record, data = trained("lstm", num_bits=4)
    step = streaming(small)
    to_litert(step, tmp_path / "step.tflite", record, activations="dynamic")
    rng = np.random.default_rng(0)
    inputs = [data[:1, :1], *(rng.normal(size=(1, 30)).astype("float32") for _ in range(2))]
    for found, expected in zip(LiteRTModel(tmp_path / "step.tflite").predict(inputs), step(inputs), strict=True):
        np.testing.assert_allclose(found, keras.ops.convert_to_numpy(expected), atol=1e-5)


@keras.saving.register_keras_serializable(package="tests")
class Reader(layers.Layer):
    """Multiplies its input by another layer's kernel, value by value."""

    def __init__(self, source, **kwargs):
        super().__init__(**kwargs)
        self.source = source

    def call(self, inputs):
        return inputs[:, None] * keras.ops.transpose(self.source.kernel)

    def get_config(self):
        return {**super().get_config(), "source": keras.saving.serialize_keras_object(self.source)}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config.pop("source")), **config)


def test_a_kernel_that_something_else_reads_is_named(tmp_path):
    inputs = keras.Input((12,))
    dense = layers.Dense(12, name="first")
    x = Reader(dense)(dense(inputs))
    model = keras.Model(inputs, layers.Dense(5, name="last")(layers.Flatten()(x)))
    data = np.random.default_rng(0).normal(size=(16, 12)).astype("float32")
    small, record = calibrate(model, Recipe([("first|last", QuantSpec(4, **ROWS))]), data, progress=False)
    assert record.dynamic_kernels == ("first/kernel", "last/kernel")
    with pytest.warns(UserWarning, match="does not round the rows in front of first/kernel, as"):
        to_litert(small, tmp_path / "m.tflite", record, activations="dynamic")
    median, _ = off(small, tmp_path / "m.tflite", data)
    assert median < 0.05


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "'dynamic' or 'int8' for a record with activation_method='dynamic'.*Pass activations='dynamic', or"),
        ({"activations": "int8"}, "a record with activations, whose grids integer operators need"),
        ({"activations": "dynamic", "recurrent": "fused"}, "'loop' for the layer '.*', which rounds rows"),
    ],
)
def test_other_forms_are_refused_in_a_sentence(options, text, tmp_path):
    small, record, _ = trained("lstm", num_bits=4)
    with pytest.raises(ValueError, match=text):
        to_litert(small, tmp_path / "m.tflite", record, **options)
    assert not list(tmp_path.iterdir())


def test_models_without_their_record_and_records_without_their_model(tmp_path):
    small, record, data = trained("dense", num_bits=4)
    path = tmp_path / "m.tflite"
    with pytest.raises(ValueError, match="rounds the rows of its input, without its record"):
        to_litert(small, path)
    with pytest.raises(ValueError, match=r"rounds the rows of its input at run time.*to_litert"):
        to_tflm(small, path, record, check=False)
    model, _ = net("dense")
    plain, of_plain = calibrate(model, Recipe([(".*", QuantSpec(4))]), data, progress=False)
    with pytest.raises(ValueError, match=r"which has no weight|computes with float rows"):
        to_litert(plain, path, record, activations="dynamic")
    with pytest.raises(ValueError, match=r"an ordinary Keras model.*prepare with activation_method='dynamic'"):
        to_litert(dynamic_twin(plain, of_plain), path, of_plain, activations="dynamic")
    assert not path.exists()
