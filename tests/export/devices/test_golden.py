"""Golden values: what is written, read back, and told apart."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import r2keras
from r2keras.export import Golden, GoldenTensor, LiteRTModel, TFLMModel, golden, to_litert, to_tflm
from tests.export.models import random_inputs


@pytest.fixture(scope="module")
def quantized():
    keras.utils.set_random_seed(0)
    layers = [keras.Input((12,)), keras.layers.Dense(32, activation="relu"), keras.layers.Dense(4)]
    x = np.random.default_rng(0).normal(size=(32, 12)).astype(np.float32)
    small, record = r2keras.calibrate(keras.Sequential(layers), r2keras.Recipe.uniform(4, edges=None), x)
    return small, record, x


@pytest.fixture(scope="module")
def int8_file(tmp_path_factory):
    keras.utils.set_random_seed(0)
    layers = [keras.Input((8, 8, 3)), keras.layers.Conv2D(8, 3, activation="relu"), keras.layers.Flatten()]
    model = keras.Sequential([*layers, keras.layers.Dense(4, activation="softmax")])
    x = np.random.default_rng(0).normal(size=(32, 8, 8, 3)).astype(np.float32)
    small, record = r2keras.calibrate(model, r2keras.Recipe.int8(), x, integer=True)
    path = tmp_path_factory.mktemp("int8") / "model.tflite"
    to_litert(small, path, record, activations="int8", io="int8", optimize="memory")
    return small, path, x


def test_the_files_hold_what_the_runtime_takes_and_returns(exported, tmp_path):
    model, _, path, _ = exported
    x = random_inputs(model, 5)
    values = golden(model, path, x)
    folder = values.save(tmp_path / "golden").parent
    manifest = json.loads((folder / "golden.json").read_text())
    raw = [np.fromfile(folder / item["raw"], item["dtype"]) for item in manifest["inputs"]]
    raw = [array.reshape(5, *item["shape"]) for array, item in zip(raw, manifest["inputs"], strict=True)]
    expected = [np.load(folder / item["npy"]) for item in manifest["outputs"]]
    found = LiteRTModel(path).predict(raw)
    found = found if isinstance(found, list) else [found]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    assert manifest["verification"]["num_samples"] == 5
    loaded = Golden.load(folder)
    assert loaded.to_dict() == values.to_dict()
    assert loaded.passed(found)
    assert not loaded.passed([output + 1e-3 for output in found])


def test_integer_files_have_codes_and_whole_steps(tmp_path, int8_file):
    model, path, x = int8_file
    values = golden(model, path, x[:4])
    assert values.inputs[0].values.dtype == values.outputs[0].values.dtype == np.int8
    assert values.inputs[0].scale > 0
    tolerance = values.outputs[0].tolerance
    assert tolerance >= 1 and tolerance == int(tolerance)
    on_device = golden(None, path, x[:4], runtime="tflm")
    assert on_device.verification is None and on_device.runtime.startswith("tflite-micro")
    assert f"4 samples, {on_device.runtime}" in " ".join(str(on_device).split())
    np.testing.assert_array_equal(on_device.outputs[0].values, TFLMModel(path).predict(x[:4]))


def test_files_for_microcontrollers_run_on_their_runtime(quantized, tmp_path):
    small, record, x = quantized
    to_tflm(small, tmp_path / "mcu.tflite", record)
    assert golden(small, tmp_path / "mcu.tflite", x[:3]).runtime.startswith("tflite-micro")


def test_rounded_rows_widen_the_tolerance(quantized, tmp_path):
    small, record, x = quantized
    to_litert(small, tmp_path / "exact.tflite", record)
    to_litert(small, tmp_path / "packed.tflite", record, activations="dynamic")
    exact, packed = (golden(small, tmp_path / f"{name}.tflite", x[:3]) for name in ("exact", "packed"))
    assert packed.outputs[0].tolerance > 100 * exact.outputs[0].tolerance


def test_bad_input_gets_a_sentence(exported, tmp_path):
    model, _, path, _ = exported
    x = random_inputs(model, 2)
    with pytest.raises(ValueError, match=r"`runtime`.*'auto'.*Received: runtime='phone'"):
        golden(model, path, x, runtime="phone")
    with pytest.raises(ValueError, match=r"`runtime`.*'auto'.*Received: runtime="):
        golden(model, path, x, runtime=np.ones(2))
    with pytest.raises(ValueError, match=r"finite outputs.*NaN"):
        golden(None, path, [np.full_like(a, np.nan) for a in x])
    folder = golden(None, path, x).save(tmp_path / "g").parent
    text = (folder / "golden.json").read_text()
    (folder / "golden.json").write_text(text.replace('"version": 1', '"version": 9'))
    with pytest.raises(ValueError, match="its version is 9, and this release reads 1"):
        Golden.load(folder)
    (folder / "golden.json").write_text(text[:50])
    with pytest.raises(ValueError, match="not readable"):
        Golden.load(folder)
    with pytest.raises(FileNotFoundError, match=r"golden\.json"):
        Golden.load(tmp_path / "none")
    with pytest.raises(TypeError, match=r"`folder`.*a path.*Received: folder=None"):
        Golden.load(None)
    values = Golden("m", "", "", (), (GoldenTensor("y", np.ones((2, 1), np.float32)),))
    with pytest.raises(ValueError, match="shapes"):
        values.differences([np.ones((3, 1))])
    with pytest.raises(TypeError, match=r"`folder`.*a path.*Received: folder=3"):
        values.save(3)


def test_both_runtimes_quantize_inputs_to_the_same_codes(int8_file, microcontrollers):
    _, path, x = int8_file
    expected = golden(None, path, x[:4])
    values = golden(None, path, x[:4], runtime="tflm")
    for a, b in ((values.inputs[0], expected.inputs[0]), (values.outputs[0], expected.outputs[0])):
        assert a.scale == pytest.approx(b.scale)
        assert (a.zero_point, a.values.dtype) == (b.zero_point, np.int8)
    np.testing.assert_array_equal(values.inputs[0].values, expected.inputs[0].values)
    assert expected.passed([values.outputs[0].values])


@pytest.mark.parametrize("recipe", [r2keras.Recipe.uniform(4, edges=None), r2keras.Recipe.int8()])
def test_outputs_far_from_zero_still_have_to_vary(recipe, tmp_path):
    head = keras.layers.Dense(1, bias_initializer=keras.initializers.Constant(300.0))
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16, activation="relu"), head])
    x = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
    small, record = r2keras.calibrate(model, recipe, x, integer=recipe == r2keras.Recipe.int8())
    to_litert(small, tmp_path / "m.tflite", record, target="cpu")
    values = golden(small, tmp_path / "m.tflite", x)
    (output,) = values.outputs
    assert values.passed([output.values])
    constant = np.full_like(output.values, output.values.mean())
    if recipe != r2keras.Recipe.int8():  # There, all values lie within a few steps of the grid from 0 to 300.
        assert output.tolerance < 0.5 and not values.passed([constant])
    assert output.tolerance < 2.5


def test_class_numbers_have_to_be_equal(tmp_path):
    inputs = keras.Input((16,))
    x = keras.layers.Dense(32, activation="relu")(inputs)
    best = keras.layers.Lambda(lambda y: tf.argmax(y, axis=-1, output_type=tf.int32))
    model = keras.Model(inputs, best(keras.layers.Dense(50)(x)))
    data = np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32)
    small, record = r2keras.calibrate(model, r2keras.Recipe.uniform(4, edges=None), data)
    to_litert(small, tmp_path / "m.tflite", record, target="cpu")
    values = golden(small, tmp_path / "m.tflite", data)
    (output,) = values.outputs
    assert np.issubdtype(output.values.dtype, np.integer) and output.tolerance == 0
    assert values.passed([output.values]) and not values.passed([output.values + 1])
