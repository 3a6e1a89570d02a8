"""Files whose products take few-bit weights: against the Keras model that rounds the same rows, and what is stored."""

import keras
import numpy as np
import pytest
from keras import layers

from r2keras import CompressionRecord, PaletteSpec, QuantSpec, Recipe, calibrate, dynamic_twin
from r2keras.export import LiteRTModel, sizes, streaming, to_litert, verify
from r2keras.export.tflite.interpreter import read
from r2keras.export.tflite.schema import INT2, INT4, INT8
from r2keras.export.tflite.subgraph import subgraphs

pytestmark = pytest.mark.usefixtures("near")
SEQUENCE = (7, 18)
NETS = {
    "dense": ((50,), lambda: [layers.Dense(33, activation="relu"), layers.Dense(10)]),
    "rows": (SEQUENCE, lambda: [layers.Dense(9), layers.Flatten(), layers.Dense(4, use_bias=False)]),
    "pointwise": (
        (6, 6, 16),
        lambda: [layers.Conv2D(10, 1, activation="relu"), layers.Conv2D(6, 3), layers.Conv2D(5, 1), layers.Flatten()],
    ),
    "einsum": (SEQUENCE, lambda: [layers.EinsumDense("abc,cde->abde", (None, 4, 5), bias_axes="de"), layers.Flatten()]),
    "lstm": (SEQUENCE, lambda: [layers.LSTM(30, return_sequences=True), layers.Dense(5)]),
    "gru": (SEQUENCE, lambda: [layers.GRU(30), layers.Dense(5)]),
    "simple_rnn": (SEQUENCE, lambda: [layers.SimpleRNN(12), layers.Dense(5)]),
    "bidirectional": (SEQUENCE, lambda: [layers.Bidirectional(layers.LSTM(10)), layers.Dense(5)]),
}
SPECS = {
    "8": {"num_bits": 8},
    "4": {"num_bits": 4},
    "3 mid-rise": {"num_bits": 3, "levels": "mid_rise"},
    "4 mid-rise": {"num_bits": 4, "levels": "mid_rise"},
    "2": {"num_bits": 2},
    "2 mid-tread": {"num_bits": 2, "levels": "mid_tread"},
    "1": {"num_bits": 1},
}
# Every net once, every spec twice at least.
CASES = [
    ("dense", "8"), ("dense", "4"), ("dense", "2"), ("dense", "2 mid-tread"), ("dense", "1"), ("dense", "3 mid-rise"),
    ("rows", "2"), ("pointwise", "2"), ("pointwise", "4"), ("einsum", "2 mid-tread"),
    ("lstm", "2"), ("gru", "3 mid-rise"), ("simple_rnn", "1"), ("bidirectional", "4"),
]  # fmt: skip


def compressed(net, **spec):
    """Returns a calibrated model, its record and inputs."""
    keras.utils.set_random_seed(0)
    shape, parts = NETS[net]
    model = keras.Sequential([keras.Input(shape, batch_size=1 if shape == SEQUENCE else None), *parts()])
    data = np.random.default_rng(1).normal(size=(10, *shape)).astype("float32")
    recipe = Recipe([(".*", QuantSpec(granularity="per_channel", **spec))])
    return *calibrate(model, recipe, data, progress=False), data


def off(one, other):
    """Returns the median difference as a share of the range, and the share of outputs that differ."""
    difference = np.abs(one - other) / np.ptp(other)
    return np.median(difference), np.mean(difference > 1e-5)


@pytest.mark.parametrize(("net", "spec"), CASES)
def test_the_file_computes_what_the_twin_computes(net, spec, tmp_path):
    model, record, data = compressed(net, **SPECS[spec])
    to_litert(model, tmp_path / "m.tflite", record, activations="dynamic")
    twin = dynamic_twin(model, record)
    expected, plain = (np.concatenate([keras.ops.convert_to_numpy(m(x[None])) for x in data]) for m in (twin, model))
    assert off(plain, expected)[1] > 0.9
    # Values on a tie take the other code.
    median, share = off(LiteRTModel(tmp_path / "m.tflite").predict(data), expected)
    assert median < 1e-6 and share < 0.15
    # The built-in kernels differ in single codes.
    built_in = LiteRTModel(tmp_path / "m.tflite", xnnpack=False).predict(data)
    assert np.abs(built_in - expected).max() < 0.03 * np.ptp(expected)


@pytest.mark.parametrize(
    ("spec", "kind", "columns"),
    [("8", INT8, 18), ("4", INT4, 18), ("2", INT2, 20), ("2 mid-tread", INT2, 20), ("1", INT2, 20)],
)
def test_what_is_stored(spec, kind, columns, tmp_path):
    model, record, _ = compressed("lstm", **SPECS[spec])
    to_litert(model, tmp_path / "m.tflite", record, activations="dynamic")
    stored = {}
    for graph in subgraphs(read(tmp_path / "m.tflite")):
        assert "DEQUANTIZE" not in [graph.kind(op) for op in graph.operators]
        for tensor in graph.schema.tensors:
            if tensor.name:
                stored[tensor.name.decode()] = (tensor.type, tuple(tensor.shape))
    (name,) = [name for name in record.tensors if name.endswith("/kernel") and "lstm" in name]
    assert stored[name] == (kind, (120, columns))


@pytest.mark.parametrize("part", [lambda: layers.Dense(16), lambda: layers.Conv1D(16, 1)])
def test_the_bias_of_a_linear_layer_stays_in_front_of_the_next_product(part, tmp_path):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input(SEQUENCE, batch_size=1), part(), layers.Dense(5)])
    for layer in model.layers:
        layer.bias.assign(np.linspace(-1, 1, layer.bias.shape[0]))
    data = np.random.default_rng(1).normal(size=(10, *SEQUENCE)).astype("float32")
    small, record = calibrate(model, Recipe([(".*", QuantSpec(4))]), data, progress=False)
    to_litert(small, tmp_path / "m.tflite", record, activations="dynamic")
    expected = dynamic_twin(small, record).predict(data, batch_size=1, verbose=0)
    median, share = off(LiteRTModel(tmp_path / "m.tflite").predict(data), expected)
    assert median < 1e-6 and share < 0.15


def test_streams_and_low_bit_states(tmp_path):
    keras.utils.set_random_seed(0)
    parts = [layers.LSTM(12, return_sequences=True, name="lstm"), layers.Dense(5, name="head")]
    model = keras.Sequential([keras.Input(SEQUENCE, batch_size=1), *parts])
    data = np.random.default_rng(1).normal(size=(8, *SEQUENCE)).astype("float32")
    spec = QuantSpec(num_bits=2, granularity="per_channel", activation_bits=4)
    model, record = calibrate(model, Recipe([(".*", spec)]), data, progress=False)
    to_litert(model, tmp_path / "loop.tflite", record, activations="dynamic")
    twin = dynamic_twin(model, record)
    expected = np.concatenate([keras.ops.convert_to_numpy(twin(x[None])) for x in data])
    median, share = off(LiteRTModel(tmp_path / "loop.tflite").predict(data), expected)
    assert median < 1e-6 and share < 0.1
    to_litert(streaming(model), tmp_path / "step.tflite", record, activations="dynamic")
    graph = subgraphs(read(tmp_path / "step.tflite"))[0]
    assert sum(tensor.type == INT2 and bool(tensor.name) for tensor in graph.schema.tensors) == 3


def test_weights_without_a_packed_form_stay_exact(tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((40,))
    x = layers.Dense(40, name="wide")(layers.Dense(64, name="palette")(inputs))
    x = layers.Dense(40, name="asymmetric")(layers.Dense(40, name="packed")(x))
    rules = [
        ("palette", PaletteSpec(num_bits=2, dim=2)),
        ("asymmetric", QuantSpec(num_bits=4, symmetric=False)),
        ("packed", QuantSpec(num_bits=4)),
        ("wide", QuantSpec(num_bits=8, levels="mid_rise")),
    ]
    data = np.random.default_rng(0).normal(size=(32, 40)).astype("float32")
    model, record = calibrate(keras.Model(inputs, x), Recipe(rules), data, progress=False)
    found = to_litert(model, tmp_path / "m.tflite", record, activations="dynamic")
    notes = {row.name: row.note.rpartition(", ")[2] for row in found.tensors}
    decoded = dict.fromkeys(("palette/kernel", "asymmetric/kernel", "wide/kernel"), "decoded")
    assert notes == {**decoded, "packed/kernel": "packed"}
    assert sizes(record, tmp_path / "m.tflite") == found
    twin = dynamic_twin(model, record)
    assert [layer.name for layer in twin.layers if type(layer).__name__ == "DynamicInput"] == ["packed"]
    median, share = off(LiteRTModel(tmp_path / "m.tflite").predict(data), twin.predict(data, verbose=0))
    assert median < 1e-6 and share < 0.1


@pytest.mark.parametrize("spec", ["2", "4"])
def test_channels_that_a_batch_normalization_has_silenced(spec, tmp_path):
    keras.utils.set_random_seed(0)
    norm = layers.BatchNormalization()
    model = keras.Sequential([keras.Input((4, 4, 8)), layers.Conv2D(6, 1, use_bias=False), norm, layers.Flatten()])
    norm.gamma.assign([1, 1e-12, -1, -1e-9, 0, 2])
    data = np.random.default_rng(0).normal(size=(8, 4, 4, 8)).astype("float32")
    recipe = Recipe([(".*", QuantSpec(granularity="per_channel", **SPECS[spec]))])
    model, record = calibrate(model, recipe, data, progress=False)
    to_litert(model, tmp_path / "m.tflite", record, activations="dynamic")
    median, share = off(LiteRTModel(tmp_path / "m.tflite").predict(data), dynamic_twin(model, record).predict(data))
    assert median < 1e-6 and share < 0.15


def test_verify_against_the_twin(tmp_path):
    model, record, data = compressed("dense", num_bits=4)
    to_litert(model, tmp_path / "m.tflite", record, activations="dynamic")
    assert verify(dynamic_twin(model, record), tmp_path / "m.tflite", data).agreement == 1


def test_the_twin_is_saved_and_trained(tmp_path):
    model, record, data = compressed("bidirectional", num_bits=4)
    twin = dynamic_twin(model, record)
    twin.save(tmp_path / "twin.keras")
    again = keras.models.load_model(tmp_path / "twin.keras")
    np.testing.assert_array_equal(again.predict(data[:1], verbose=0), twin.predict(data[:1], verbose=0))
    before = [weight.numpy() for weight in twin.trainable_weights]
    twin.compile("sgd", "mse")
    twin.fit(data[:1], np.ones((1, 5), "float32"), verbose=0)
    assert all(np.any(old != new.numpy()) for old, new in zip(before, twin.trainable_weights, strict=True))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"io": "int8"}, "'int8' where `io` or `data` is given"),
        ({"data": np.ones((2, 50), np.float32)}, "'int8' where `io` or `data` is given"),
    ],
)
def test_options_of_integer_files_are_refused(options, text, tmp_path):
    model, record, _ = compressed("dense", num_bits=4)
    with pytest.raises(ValueError, match=text):
        to_litert(model, tmp_path / "m.tflite", record, activations="dynamic", **options)
    assert not (tmp_path / "m.tflite").exists()


def test_a_model_without_a_product_is_refused(tmp_path):
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3)])
    data = np.ones((2, 8, 8, 3), np.float32)
    model, record = calibrate(model, Recipe([(".*", QuantSpec(num_bits=4))]), data, progress=False)
    with pytest.raises(ValueError, match="without a matrix product"):
        to_litert(model, tmp_path / "m.tflite", record, activations="dynamic")
    with pytest.raises(ValueError, match="a symmetric kernel or a small palette of a Dense"):
        dynamic_twin(model, record)
    with pytest.raises(ValueError, match="a record where activations='dynamic'"):
        to_litert(model, tmp_path / "m.tflite", activations="dynamic")
    with pytest.raises(TypeError, match="the CompressionRecord that came with the model"):
        dynamic_twin(model, model)
    model, record, _ = compressed("dense", num_bits=4)
    with pytest.raises(ValueError, match=r"Export the model that was passed to dynamic_twin"):
        to_litert(dynamic_twin(model, record), tmp_path / "m.tflite", record, activations="dynamic")
    assert not list(tmp_path.iterdir()) and isinstance(record, CompressionRecord)


@pytest.mark.parametrize("spec", [QuantSpec(num_bits=2, granularity="per_channel"), QuantSpec(num_bits=5)], ids=str)
def test_latency_packs_what_the_twin_rounds(spec, tmp_path):
    """`optimize="latency"` stores 8-bit codes of what is not packed: the convolution, and the larger palette."""
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Flatten()(keras.layers.Conv2D(4, 3, name="conv", activation="relu")(inputs))
    x = keras.layers.Dense(8, name="palette", activation="relu", bias_initializer="normal")(x)
    model = keras.Model(inputs, keras.layers.Dense(5, name="head", bias_initializer="normal")(x))
    data = np.random.default_rng(0).normal(size=(16, 8, 8, 1)).astype("float32")
    palette = PaletteSpec(num_bits=3, table_dtype="int8", min_size=0)
    recipe = Recipe([("palette", palette), (".*", spec)])
    model, record = calibrate(model, recipe, data, progress=False)
    sizes = to_litert(model, tmp_path / "m.tflite", record, activations="dynamic", optimize="latency")
    notes = {row.name: row.note for row in sizes.tensors}
    assert "packed" in notes["head/kernel"] and "packed" not in notes["palette/kernel"]
    expected = dynamic_twin(model, record).predict(data, verbose=0)
    off = np.abs(LiteRTModel(tmp_path / "m.tflite").predict(data) - expected)
    assert np.median(off) < 1e-6 * np.ptp(expected)
