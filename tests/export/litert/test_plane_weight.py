"""Packed files of alternating codes and palettes: what they compute, against the twin in Keras, and what they hold."""

import dataclasses
import functools

import keras
import numpy as np
import pytest
from keras import layers

from r2keras import PaletteSpec, QuantSpec, Recipe, dynamic_twin, finalize, prepare
from r2keras.export import LiteRTModel, sizes, streaming, to_litert
from r2keras.export.litert import plane_weight
from r2keras.export.tflite.constant_values import stored_codes
from r2keras.export.tflite.interpreter import read
from r2keras.export.tflite.schema import INT2
from r2keras.export.tflite.subgraph import subgraphs

pytestmark = pytest.mark.usefixtures("near", "converted_once")
SEQUENCE = (7, 18)
NETS = {
    "dense": ((50,), lambda: [layers.Dense(33, activation="relu"), layers.Dense(10)]),
    "rows": (SEQUENCE, lambda: [layers.Dense(9), layers.Flatten(), layers.Dense(4, use_bias=False)]),
    "pointwise": ((6, 6, 16), lambda: [layers.Conv2D(10, 1, activation="relu"), layers.Conv2D(5, 1), layers.Flatten()]),
    "lstm": (SEQUENCE, lambda: [layers.LSTM(30, return_sequences=True), layers.Dense(5)]),
    "bidirectional": (SEQUENCE, lambda: [layers.Bidirectional(layers.LSTM(10)), layers.Dense(5)]),
}
SPECS = {
    **{str(b): QuantSpec(num_bits=b, granularity="per_channel", method="alternating") for b in (1, 2, 3, 4)},
    "2 per tensor": QuantSpec(num_bits=2, granularity="per_tensor", method="alternating"),
    "palette": PaletteSpec(num_bits=2, min_size=0),
    "scaled palette": PaletteSpec(num_bits=2, min_size=0, channel_scale=True, table_dtype="int8"),
    "1-bit palette": PaletteSpec(num_bits=1, min_size=0),
}
CASES = [
    ("dense", "1"), ("dense", "4"), ("dense", "scaled palette"), ("rows", "3"), ("rows", "palette"),
    ("pointwise", "1-bit palette"), ("lstm", "2"), ("bidirectional", "2 per tensor"),
]  # fmt: skip


@functools.cache
def compressed(net, spec):
    """Returns a model with rounded weights, its record and inputs."""
    keras.utils.set_random_seed(0)
    shape, parts = NETS[net]
    model = keras.Sequential([keras.Input(shape, batch_size=1 if shape == SEQUENCE else None), *parts()])
    data = np.random.default_rng(1).normal(size=(4, *shape)).astype("float32")
    return *finalize(prepare(model, Recipe([(".*", spec)]))), data


def off(one, other):
    """Returns the median difference as a share of the range, and the share of outputs that differ."""
    difference = np.abs(one - other) / np.ptp(other)
    return np.median(difference), np.mean(difference > 1e-5)


def planes_in(path):
    """Returns scale and codes of the named 2-bit tensors, by name."""
    found = {}
    for graph in subgraphs(read(path)):
        for tensor in graph.schema.tensors:
            if tensor.name and tensor.type == INT2:
                part = (np.asarray(tensor.quantization.scale), stored_codes(graph.file, tensor))
                found.setdefault(tensor.name.decode(), []).append(part)
    return found


@pytest.mark.parametrize(("net", "spec"), CASES)
def test_the_file_computes_what_the_twin_computes(net, spec, tmp_path):
    model, record, data = compressed(net, SPECS[spec])
    found = to_litert(model, tmp_path / "m.tflite", record, activations="dynamic")
    assert all(row.note.endswith("packed") for row in found.tensors)
    twin = dynamic_twin(model, record)
    expected, plain = (np.concatenate([keras.ops.convert_to_numpy(m(x[None])) for x in data]) for m in (twin, model))
    assert off(plain, expected)[1] > 0.8
    # Values on a tie take the other code.
    median, share = off(LiteRTModel(tmp_path / "m.tflite").predict(data), expected)
    assert median < 1e-6 and share < 0.15
    built_in = LiteRTModel(tmp_path / "m.tflite", xnnpack=False).predict(data)
    assert np.abs(built_in - expected).max() < 0.03 * np.ptp(expected)


def test_what_is_stored(tmp_path):
    model, record, _ = compressed("lstm", SPECS["2"])
    found = to_litert(model, tmp_path / "m.tflite", record, activations="dynamic")
    stored = planes_in(tmp_path / "m.tflite")
    for name, tensor in record.tensors.items():
        assert [codes.shape[1] % 4 for _, codes in stored[name]] == [0, 0]
        weight = sum(scale[:, None] * codes for scale, codes in stored[name])[:, : tensor.shape[0]]
        np.testing.assert_allclose(weight.T, tensor.values(), rtol=1e-5, atol=1e-7)
        assert set(np.unique([codes[:, : tensor.shape[0]] for _, codes in stored[name]])) == {-1, 1}
    assert [(row.container_bits, row.note) for row in found.tensors] == [
        (4, "2 signs per weight in 2-bit containers, packed")
    ] * 3
    assert sizes(record, tmp_path / "m.tflite") == found


def test_a_stream_with_low_bit_states(tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5,), dtype="int32", batch_size=1)
    x = layers.LSTM(12, return_sequences=True, name="lstm")(layers.Embedding(20, 12, name="table")(inputs))
    spec = dataclasses.replace(SPECS["2"], activation_bits=4)
    model = keras.Model(inputs, layers.Dense(5, name="head")(x))
    model, record = finalize(prepare(model, Recipe([("lstm", spec), (".*", SPECS["2"])])))
    found = to_litert(streaming(model), tmp_path / "step.tflite", record, activations="dynamic")
    notes = {row.name.partition("/")[0]: row.note.rpartition(", ")[2] for row in found.tensors}
    assert notes == {"table": "decoded row by row", "lstm": "packed", "head": "packed"}


def test_folded_factors_and_vanishing_coefficients(tmp_path):
    keras.utils.set_random_seed(0)
    conv, norm = layers.Conv2D(6, 1, use_bias=False), layers.BatchNormalization()
    model = keras.Sequential([keras.Input((4, 4, 8)), conv, norm, layers.Flatten()])
    norm.gamma.assign([1, 1e-12, -1, -1e-9, 0, 2])
    # One bit is enough for these weights; the second coefficient is 0.
    kernel = conv.kernel.numpy()
    kernel[..., 2] = np.where(kernel[..., 2] < 0, -0.5, 0.5)
    kernel[..., 5] = 0
    conv.kernel.assign(kernel)
    data = np.random.default_rng(0).normal(size=(8, 4, 4, 8)).astype("float32")
    model, record = finalize(prepare(model, Recipe([(".*", SPECS["2"])])))
    to_litert(model, tmp_path / "m.tflite", record, activations="dynamic")
    (scales,) = ([scale for scale, _ in parts] for parts in planes_in(tmp_path / "m.tflite").values())
    assert np.min(scales) > np.finfo(np.float32).tiny
    median, share = off(LiteRTModel(tmp_path / "m.tflite").predict(data), dynamic_twin(model, record).predict(data))
    assert median < 1e-6 and share < 0.15


def test_palettes_without_planes_stay_exact(tmp_path):
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((40,))
    specs = {
        "pairs": PaletteSpec(num_bits=2, dim=2, min_size=0),
        "eight": PaletteSpec(num_bits=3, min_size=0),
        "packed": SPECS["2"],
    }
    for name in specs:
        x = layers.Dense(40, name=name)(x)
    model, record = finalize(prepare(keras.Model(inputs, x), Recipe(list(specs.items()))))
    found = to_litert(model, tmp_path / "m.tflite", record, activations="dynamic")
    notes = {row.name: row.note.rpartition(", ")[2] for row in found.tensors}
    assert notes == {"pairs/kernel": "decoded", "eight/kernel": "decoded", "packed/kernel": "packed"}
    twin = dynamic_twin(model, record)
    assert [layer.name for layer in twin.layers if type(layer).__name__ == "DynamicInput"] == ["packed"]
    data = np.random.default_rng(0).normal(size=(32, 40)).astype("float32")
    median, share = off(LiteRTModel(tmp_path / "m.tflite").predict(data), twin.predict(data, verbose=0))
    assert median < 1e-6 and share < 0.1


def test_damage_is_found():
    rows = plane_weight.PlaneRows(
        np.array([[[1, -1]], [[1, 1]]], np.int8), np.array([[2], [0.5]], np.float32), np.array([0.25], np.float32)
    )
    constant = np.array([[2.75, -1.25]], np.float32)
    assert rows.differs(rows.codes, constant) == ""
    assert rows.differs(-rows.codes, constant) == "4 of 4 signs differ"
    assert rows.differs(rows.codes, constant + np.float32(1e-4)).startswith("a value is off by 0.0001")


def test_rows_of_small_weights_are_differences_of_large_coefficients():
    scale = np.array([[1 / 3], [0.2], [0.4 / 3]], np.float32)
    rows = plane_weight.PlaneRows(np.array([[[1]], [[-1]], [[-1]]], np.int8), scale, None)
    # What float32 leaves of 1/3 - 1/5 - 2/15, which is 0.
    assert rows.differs(rows.codes, np.array([[1e-8]], np.float32)) == ""
    assert rows.differs(rows.codes, np.array([[1e-5]], np.float32)).startswith("a value is off by 1")


def test_a_sign_that_does_not_reach_the_file_is_an_error(tmp_path, monkeypatch):
    model, record, _ = compressed("dense", SPECS["2"])
    right = plane_weight.stored_codes
    monkeypatch.setattr(plane_weight, "stored_codes", lambda *args: -right(*args))
    with pytest.raises(RuntimeError, match="signs differ"):
        to_litert(model, tmp_path / "m.tflite", record, activations="dynamic")
    assert not list(tmp_path.iterdir())
