"""Embedding tables in files: only the rows that are looked up are decoded, exactly."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import layers

from r2keras import PaletteSpec, QuantSpec
from r2keras.export import LiteRTModel, expand, sizes, to_litert
from r2keras.export.litert import write_codes
from r2keras.export.tflite.constant_values import kind_of
from r2keras.export.tflite.interpreter import read
from r2keras.record import CompressionRecord
from tests.export.palettize import compress
from tests.export.quantize import quantize, quantize_tensor

WORDS, STEPS = 60, 6


def table_model(size=8, name="words"):
    """Returns an embedding with a dense layer behind."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((STEPS,), name="tokens")
    x = layers.Embedding(WORDS, size, name=name)(inputs)
    return keras.Model(inputs, layers.Dense(3, name="head")(x))


def by_rows(model, spec):
    """Puts the table on a grid a row, and returns the record."""
    layer = model.get_layer("words")
    turned = quantize_tensor("words/embeddings", layer.embeddings.numpy().T, spec)
    parts = {part: getattr(turned, part).T for part in ("codes", "scale", "zero_point")}
    tensor = dataclasses.replace(turned, **parts)
    layer.embeddings.assign(tensor.values())
    return CompressionRecord({tensor.name: tensor}, {}, model.count_params(), model.name)


def check(model, record, path):
    """Exports, asserts that the file is exact in every form, and returns its operators."""
    found = to_litert(model, path, record)
    assert sizes(record, path) == found
    x = np.random.default_rng(0).integers(0, WORDS, (4, STEPS)).astype(np.float32)
    expected = keras.ops.convert_to_numpy(model(x))
    path.with_name("float.tflite").write_bytes(expand(path))
    for name, xnnpack in ((path.name, True), (path.name, False), ("float.tflite", True)):
        got = LiteRTModel(path.with_name(name), xnnpack=xnnpack).predict(x)
        assert np.abs(got - expected).max() <= 1e-6 * np.ptp(expected)
    file = read(path)
    return [kind_of(file, op) for op in file.subgraphs[0].operators]


@pytest.mark.parametrize(
    ("num_bits", "options"),
    [
        (8, {}),
        (4, {"granularity": "per_tensor"}),
        (2, {"levels": "mid_rise"}),
        (4, {"symmetric": False}),
        (2, {"symmetric": False, "granularity": "per_tensor"}),
    ],
)
def test_grids_a_column_or_one_for_all(num_bits, options, tmp_path):
    model = table_model()
    record = quantize(model, lambda name: QuantSpec(num_bits=num_bits, **options))
    assert "EMBEDDING_LOOKUP" in check(model, record, tmp_path / "m.tflite")


@pytest.mark.parametrize("num_bits", [8, 4, 2])
def test_grids_a_row(num_bits, tmp_path):
    model = table_model()
    record = by_rows(model, QuantSpec(num_bits=num_bits))
    kinds = check(model, record, tmp_path / "m.tflite")
    assert "EMBEDDING_LOOKUP" in kinds and "DEQUANTIZE" not in kinds


@pytest.mark.parametrize(
    ("num_bits", "options"),
    [
        (5, {}),
        (2, {"table_dtype": "int8"}),
        (3, {"granularity": "per_group", "group_size": 1}),
        (5, {"granularity": "per_group", "group_size": 4, "table_dtype": "int8"}),
        (2, {"granularity": "per_group", "group_size": 4}),
        (3, {"channel_scale": True}),
    ],
)
def test_palettes(num_bits, options, tmp_path):
    model = table_model()
    record = compress(model, lambda name, shape: PaletteSpec(num_bits=num_bits, **options) if "words" in name else None)
    kinds = check(model, record, tmp_path / "m.tflite")
    assert "EMBEDDING_LOOKUP" in kinds and "CALL_ONCE" not in kinds


def test_palettes_of_vectors_are_decoded_as_before(tmp_path):
    model = table_model()
    record = compress(model, lambda name, shape: PaletteSpec(num_bits=3, dim=2) if "words" in name else None)
    assert "CALL_ONCE" in check(model, record, tmp_path / "m.tflite")


def test_rows_that_end_within_a_byte_are_decoded_as_before(tmp_path):
    model = table_model(size=6)
    record = quantize(model, lambda name: QuantSpec(num_bits=2))
    assert "EMBEDDING_LOOKUP" not in check(model, record, tmp_path / "m.tflite")


def test_a_table_used_twice_is_stored_once(tmp_path):
    first, second = keras.Input((STEPS,), name="tokens"), keras.Input((STEPS,), name="others")
    table = layers.Embedding(WORDS, 8, name="words")
    model = keras.Model([first, second], layers.concatenate([table(first), table(second)]))
    record = quantize(model, lambda name: QuantSpec(num_bits=4))
    to_litert(model, tmp_path / "m.tflite", record)
    file = read(tmp_path / "m.tflite")
    kinds = [kind_of(file, op) for op in file.subgraphs[0].operators]
    assert kinds.count("EMBEDDING_LOOKUP") == 2 and "DEQUANTIZE" not in kinds
    x = np.random.default_rng(0).integers(0, WORDS, (2, 4, STEPS)).astype(np.float32)
    got = LiteRTModel(tmp_path / "m.tflite").predict(list(x))
    np.testing.assert_allclose(got, model(list(x)), atol=1e-7)


def test_what_changed_on_the_way_is_found(tmp_path, monkeypatch):
    model, original = table_model(), write_codes.store
    record = quantize(model, lambda name: QuantSpec(num_bits=4))

    def changed(*arguments, **options):
        stored = original(*arguments, **options)
        return dataclasses.replace(stored, scale=stored.scale * np.float32(1.00001))

    monkeypatch.setattr(write_codes, "store", changed)
    with pytest.raises(RuntimeError, match="did not reach the file unchanged: a value is off by"):
        to_litert(model, tmp_path / "m.tflite", record)
    assert list(tmp_path.iterdir()) == []
