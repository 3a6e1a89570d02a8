"""Errors of `to_litert`: each names its cause, and no half-written file is left."""

import dataclasses
import sys
import warnings

import keras
import numpy as np
import pytest
from keras import layers

from r2keras import calibrate, prepare
from r2keras.export import LiteRTModel, to_litert, to_tflm
from r2keras.export.conversion import checks
from r2keras.export.litert import write_codes
from r2keras.specs import QuantSpec, Recipe
from tests.export.models import dense_net
from tests.export.quantize import quantize


def refused(model, folder, error, words, record=None):
    """Asserts the error and an untouched folder."""
    with pytest.raises(error, match=words):
        to_litert(model, folder / "model.tflite", record)
    assert list(folder.iterdir()) == []


@pytest.fixture
def model():
    return dense_net()


@pytest.fixture
def record(model):
    return quantize(model, lambda name: QuantSpec(num_bits=4))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_named(model, tmp_path, bad):
    model.get_layer("head").bias.assign([0.0, bad, 0.0, 0.0])
    refused(model, tmp_path, ValueError, "head/bias has 1 NaN or infinite")


def test_a_model_that_is_not_built(tmp_path):
    refused(keras.Sequential([layers.Dense(3)]), tmp_path, ValueError, "not built")


def test_a_subclassed_model(tmp_path):
    class Own(keras.Model):
        def call(self, x):
            return x

    refused(Own(), tmp_path, TypeError, "Functional or Sequential")


def test_a_model_that_still_has_wrappers(model, tmp_path):
    student = prepare(model, Recipe([("hidden", QuantSpec(num_bits=4))]))
    refused(student, tmp_path, ValueError, r"'hidden', which still trains.*r2keras\.finalize first")


def test_a_record_that_is_none(model, tmp_path):
    refused(model, tmp_path, TypeError, "`record`. Expected an r2keras.CompressionRecord or None", {"head/kernel": 4})


def test_a_record_of_other_values(model, record, tmp_path):
    kernel = model.get_layer("head").kernel
    kernel.assign(kernel * 1.001)
    refused(model, tmp_path, ValueError, "does not belong.*'head/kernel' has other values", record)


def test_a_record_of_another_model(model, record, tmp_path):
    other = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="else")])
    refused(other, tmp_path, ValueError, "does not belong.*no weight 'hidden/kernel'", record)


def test_a_weight_that_the_converter_folded_away(tmp_path):
    class Doubled(layers.Layer):
        def build(self, shape):
            self.kernel = self.add_weight(shape=(shape[-1], 4), name="kernel")

        def call(self, x):
            return x @ (self.kernel * self.kernel + 1.0)

    model = keras.Sequential([keras.Input((8,)), Doubled(name="odd")])
    record = quantize(model, lambda name: QuantSpec(num_bits=4))
    refused(model, tmp_path, ValueError, "no constant with the values of 'odd/kernel'", record)


def test_an_operation_that_the_converter_does_not_know(tmp_path):
    class Unknown(layers.Layer):
        def call(self, x):
            return keras.ops.erfinv(x)

        def compute_output_shape(self, shape):
            return shape

    model = keras.Sequential([keras.Input((8,)), Unknown()])
    refused(model, tmp_path, RuntimeError, "could not convert the model.*LiteRT does not have Erfinv")


def test_a_code_that_changed_on_the_way_is_found(model, record, tmp_path, monkeypatch):
    def wrong(*arguments, **options):
        stored = original(*arguments, **options)
        codes = stored.codes.copy()
        codes.flat[3] = -codes.flat[3] or 1
        return dataclasses.replace(stored, codes=codes)

    original = write_codes.store
    monkeypatch.setattr(write_codes, "store", wrong)
    refused(model, tmp_path, RuntimeError, "'hidden/kernel' did not reach the file unchanged: 1 of 384 codes", record)


def test_a_scale_that_changed_on_the_way_is_found(model, record, tmp_path, monkeypatch):
    def wrong(*arguments, **options):
        stored = original(*arguments, **options)
        return dataclasses.replace(stored, scale=stored.scale * np.float32(1.00001))

    original = write_codes.store
    monkeypatch.setattr(write_codes, "store", wrong)
    refused(model, tmp_path, RuntimeError, "a value is off by", record)


def test_another_backend_is_told_what_to_do(model, tmp_path, monkeypatch):
    monkeypatch.setattr(checks.keras.backend, "backend", lambda: "jax")
    refused(model, tmp_path, RuntimeError, "KERAS_BACKEND=tensorflow r2keras-convert")


@pytest.mark.parametrize("package", ["tensorflow", "ai_edge_litert"])
def test_a_missing_package_is_named(model, tmp_path, monkeypatch, package):
    for name in [n for n in sys.modules if n.split(".")[0] == package and package != "tensorflow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    refused(model, tmp_path, ImportError, f"pip install {package.replace('_', '-')}")


def test_a_folder_that_is_a_file(model, tmp_path):
    (tmp_path / "file").write_text("here")
    with pytest.raises(OSError, match="Could not write"):
        to_litert(model, tmp_path / "file" / "model.tflite")


def test_a_failed_export_leaves_the_old_file(model, record, tmp_path):
    path = tmp_path / "model.tflite"
    to_litert(model, path, record)
    before = path.read_bytes()
    model.get_layer("head").kernel.assign(np.full((24, 4), np.nan))
    with pytest.raises(ValueError, match="head/kernel"):
        to_litert(model, path, record)
    assert path.read_bytes() == before


def test_a_model_that_came_with_a_record_warns_without_it(model, tmp_path):
    float_model = dense_net()
    small, record = calibrate(float_model, Recipe([(".*", QuantSpec(num_bits=4))]), progress=False)
    with pytest.warns(UserWarning, match=r"file is float.*to_litert\(model, path, record\)"):
        to_litert(small, tmp_path / "model.tflite")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        to_litert(small, tmp_path / "model.tflite", record)
        to_litert(float_model, tmp_path / "model.tflite")


def test_a_file_for_microcontrollers_is_called_so_by_the_other_runtime(model, record, tmp_path):
    pytest.importorskip("tflite_micro")
    to_tflm(model, tmp_path / "model.tflite", record)
    with pytest.raises(ValueError, match=r"file for LiteRT for Microcontrollers.*TFLMModel"):
        LiteRTModel(tmp_path / "model.tflite")
