"""Errors of `to_tflm`, and its behavior without tflite-micro: these tests do not need the package."""

import sys

import keras
import numpy as np
import pytest
from keras import layers

from r2keras.export import TFLMModel, tflm_arena, to_tflm, verify
from r2keras.export.tflite.schema import FLOAT32
from r2keras.export.tflite.subgraph import Subgraph
from r2keras.export.weights import lookup_table
from r2keras.specs import QuantSpec
from tests.export.models import dense_net
from tests.export.quantize import quantize


@pytest.fixture
def quantized():
    """Returns a small dense model at 2 bits and its record."""
    model = keras.Sequential([keras.Input((64,)), layers.Dense(48, name="head")])
    return model, quantize(model, lambda name: QuantSpec(num_bits=2))


def test_without_the_wheel_the_error_says_so_and_the_file_can_still_be_written(quantized, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tflite_micro", None)
    model, record = quantized
    path = tmp_path / "mcu.tflite"
    with pytest.raises(
        ImportError, match=r"`tflite-micro`, which is not installed\. Run `pip install 'r2keras\[tflm\]'`"
    ):
        to_tflm(model, path, record)
    assert not path.exists()
    found = to_tflm(model, path, record, check=False)
    assert found.arena_bytes is None
    assert found.file_bytes == path.stat().st_size
    for use in (TFLMModel, tflm_arena, lambda p: verify(model, p, np.zeros((1, 64)))):
        with pytest.raises(ImportError, match=r"r2keras\[tflm\]"):
            use(path)


def test_a_fixed_batch_is_refused(tmp_path):
    model = keras.Sequential([keras.Input(batch_shape=(4, 8)), layers.Dense(2)])
    with pytest.raises(ValueError, match="takes 4 samples at once"):
        to_tflm(model, tmp_path / "mcu.tflite", check=False)


def test_sizes_that_change_as_the_model_runs_are_refused(tmp_path):
    inputs = keras.Input((None, 3))
    model = keras.Model(inputs, layers.Dense(2)(inputs), name="open")
    with pytest.raises(ValueError, match=r"'open' with an operator whose result has no fixed size.*its full shape"):
        to_tflm(model, tmp_path / "mcu.tflite", check=False)
    assert list(tmp_path.iterdir()) == []


def test_a_record_of_another_model_is_refused(quantized, tmp_path):
    with pytest.raises(ValueError, match="does not belong to the model"):
        to_tflm(dense_net(), tmp_path / "mcu.tflite", quantized[1], check=False)


def test_a_missing_file_is_named(tmp_path):
    for use in (TFLMModel, tflm_arena):
        with pytest.raises(FileNotFoundError, match=r"File not found: .*none\.tflite"):
            use(tmp_path / "none.tflite")


def test_weights_of_operators_without_a_place_for_tables_stay_float(quantized, tmp_path, monkeypatch):
    monkeypatch.setattr("r2keras.export.tflm.to_tflm.TAKES_COMPUTED", set())
    with pytest.warns(UserWarning, match=r"'head/kernel' \(FULLY_CONNECTED takes constants only\)"):
        found = to_tflm(quantized[0], tmp_path / "mcu.tflite", quantized[1], check=False)
    assert found.tensors[0].container_bits == 32
    assert found.tensors[0].packed_bytes == found.tensors[0].float_bytes
    assert found.tensors[0].note == "stays float: FULLY_CONNECTED takes constants only"


def test_indices_that_change_on_the_way_are_noticed(quantized, tmp_path, monkeypatch):
    pack = lookup_table.pack_indices
    monkeypatch.setattr(lookup_table, "pack_indices", lambda indices, bits: pack(indices, bits) ^ np.uint8(1))
    with pytest.raises(RuntimeError, match=r"'head/kernel' did not reach the file unchanged: the stored values differ"):
        to_tflm(*quantized[:1], tmp_path / "mcu.tflite", quantized[1], check=False)
    assert list(tmp_path.iterdir()) == []


def test_factors_that_change_on_the_way_are_noticed(quantized, tmp_path, monkeypatch):
    add = Subgraph.add_tensor

    def add_wrong(graph, shape, kind, data=None, name=None):
        data = data * np.float32(1.01) if kind == FLOAT32 and data is not None else data
        return add(graph, shape, kind, data, name)

    monkeypatch.setattr(Subgraph, "add_tensor", add_wrong)
    with pytest.raises(RuntimeError, match="a value is off by"):
        to_tflm(quantized[0], tmp_path / "mcu.tflite", quantized[1], check=False)
