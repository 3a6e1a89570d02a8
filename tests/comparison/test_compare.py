"""Comparison layer by layer: figures known beforehand, merged layers, and a fault that is found where it is."""

import keras
import numpy as np
import pytest
from keras import layers

import r2keras
from r2keras.comparison import compare as module
from r2keras.export import to_litert, to_tflm

X = np.random.default_rng(0).normal(size=(24, 8, 8, 3)).astype(np.float32)


def net():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="conv")(inputs)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="norm")(x))
    y = layers.Conv2D(4, 3, padding="same", name="inner")(x)
    x = layers.Add(name="add")([x, y])
    return keras.Model(inputs, layers.Dense(5, name="head")(layers.GlobalAveragePooling2D(name="pool")(x)))


def rows_of(comparison):
    return {row.layer: row for row in comparison.rows}


def test_an_exact_file_equals_its_model_up_to_rounding(tmp_path):
    model, record = r2keras.calibrate(net(), r2keras.Recipe.uniform(4, edges=None), X)
    to_litert(model, tmp_path / "m.tflite", record)
    comparison = r2keras.compare(model, tmp_path / "m.tflite", X, num_samples=10)
    rows = rows_of(comparison)
    assert list(rows) == ["conv", "norm", "relu", "inner", "add", "pool", "head"]
    assert comparison.num_samples == 10 and comparison.first_departure is None
    for name in ("relu", "inner", "add", "pool", "head"):
        assert rows[name].sqnr_db > 100 and rows[name].max_abs_difference < 1e-5
    assert rows["conv"].counterpart == "" and rows["conv"].sqnr_db is None
    assert rows["relu"].counterpart.startswith("CONV_2D")
    assert "merged with another layer" in str(comparison)


def test_figures_are_those_of_the_formula():
    first, second = np.array([[1.0, 2.0], [3.0, 0.0]], np.float32), np.array([[1.0, 1.0], [3.0, 1.0]], np.float32)
    assert module._sqnr(first, second) == pytest.approx(10 * np.log10(14 / 2))
    assert module._sqnr(first, first) == module.INFINITE
    assert module._sqnr(first, first * np.nan) == -module.INFINITE


def test_a_changed_layer_is_the_first_that_departs(tmp_path):
    model = net()
    to_litert(model, tmp_path / "m.tflite")
    broken = keras.models.clone_model(model)
    broken.set_weights(model.get_weights())
    kernel, bias = broken.get_layer("inner").get_weights()
    broken.get_layer("inner").set_weights([kernel * np.where(np.arange(4) % 2, 1.0, 0.2), bias])
    for other, reference in ((tmp_path / "m.tflite", broken), (broken, model)):
        comparison = r2keras.compare(reference, other, X)
        assert comparison.first_departure.layer == "inner"
        assert rows_of(comparison)["relu"].sqnr_db > 100
        assert comparison.worst(1)[0].layer in ("inner", "add", "pool", "head")


def test_integer_files_tell_what_is_clipped(tmp_path):
    model, record = r2keras.calibrate(net(), r2keras.Recipe.int8(), X * 0.3, integer=True)
    to_litert(model, tmp_path / "m.tflite", record, target="cpu")
    inside, outside = (rows_of(r2keras.compare(model, tmp_path / "m.tflite", x)) for x in (X * 0.3, X))
    name = next(name for name in inside if name.endswith("_quantized"))
    assert inside[name].saturated < 0.02 < 0.2 < outside[name].saturated
    assert inside["head"].sqnr_db > 20


def test_layers_of_the_compressed_model_that_were_split_off(tmp_path):
    inputs = keras.Input((6,))
    model = keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(inputs))
    x = np.random.default_rng(0).normal(size=(16, 6)).astype(np.float32)
    small, _ = r2keras.calibrate(model, r2keras.Recipe.int8(), x, integer=True)
    (row,) = r2keras.compare(model, small, x).rows
    assert row.counterpart == "head_softmax" and row.sqnr_db > 30


def test_recurrent_and_named_inputs(tmp_path):
    tokens, scale = keras.Input((5,), dtype="int32", name="tokens"), keras.Input((1,), name="scale")
    x = layers.LSTM(4, name="lstm")(layers.Embedding(10, 6, name="embedding")(tokens))
    model = keras.Model([tokens, scale], layers.Multiply(name="product")([x, scale]))
    rng = np.random.default_rng(0)
    data = {"tokens": rng.integers(0, 10, (7, 5)), "scale": rng.normal(size=(7, 1)).astype(np.float32)}
    to_litert(model, tmp_path / "m.tflite")
    rows = rows_of(r2keras.compare(model, tmp_path / "m.tflite", data))
    assert rows["product"].sqnr_db > 80 and rows["lstm"].sqnr_db > 80


def test_bad_input(tmp_path):
    model = net()
    with pytest.raises(TypeError, match="`model`"):
        r2keras.compare("m.keras", tmp_path / "m.tflite", X)
    with pytest.raises(FileNotFoundError, match=r"none\.tflite"):
        r2keras.compare(model, tmp_path / "none.tflite", X)
    with pytest.raises(ValueError, match="`num_samples`"):
        r2keras.compare(model, model, X, num_samples=0)
    with pytest.raises(ValueError, match="`data`"):
        r2keras.compare(model, model, X[..., :2])
    to_tflm(model, tmp_path / "t.tflite", check=False)
    palettes, record = r2keras.calibrate(
        model, r2keras.Recipe([(".*", r2keras.PaletteSpec(num_bits=2, min_size=0))]), X
    )
    to_tflm(palettes, tmp_path / "t.tflite", record, check=False)
    with pytest.raises(ValueError, match="Microcontrollers"):
        r2keras.compare(model, tmp_path / "t.tflite", X)
