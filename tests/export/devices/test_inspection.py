"""Inspection of files against what their own tools and the schema say."""

import json

import keras
import numpy as np
import pytest
from keras import layers

import r2keras
from r2keras.export import LiteRTModel, TFLMModel, ethos_u, inspect, sizes, tflm_arena, to_litert, to_tflm
from r2keras.export.runtime.delegation import delegated

pytestmark = pytest.mark.usefixtures("converted_once")
X = np.random.default_rng(0).normal(size=(16, 8, 8, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def small():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 4))
    x = layers.Conv2D(8, 3, activation="relu", name="conv")(inputs)
    model = keras.Model(inputs, layers.Dense(4, name="head")(layers.Flatten()(x)))
    recipe = r2keras.Recipe.uniform(4, edges=None, activation_bits=8)
    return r2keras.calibrate(model, recipe, X, integer=True)


def test_an_integer_file(small, tmp_path):
    model, record = small
    path = tmp_path / "m.tflite"
    to_litert(model, path, record, target="mcu")
    found = inspect(path)
    (taken,) = found.inputs
    assert (taken.shape, taken.dtype) == ((1, 8, 8, 4), "int8")
    assert taken.scale > 0
    rows = {tensor.name: tensor for tensor in found.constants}
    assert (rows["conv/kernel"].dtype, rows["conv/kernel"].num_bytes) == ("int4", 8 * 3 * 3 * 4 // 2)
    assert rows["head/kernel"].dtype == "int8"
    kinds = {operator.kind: operator for operator in found.operators}
    assert kinds["CONV_2D"].types == "int8 x int4 -> int8"
    assert (kinds["CONV_2D"].runs_on, kinds["FULLY_CONNECTED"].runs_on) == ("LiteRT", "XNNPACK")
    assert "FULLY_CONNECTED only" in kinds["CONV_2D"].reason
    assert f"{tflm_arena(path):,} bytes" in found.runtimes["LiteRT for Microcontrollers"]
    assert found.constant_bytes < found.file_bytes == path.stat().st_size
    assert json.loads(json.dumps(found.to_dict()))["path"] == str(path)
    assert "CONV_2D" in str(found)


def test_packed_bytes_are_those_of_sizes(small, tmp_path):
    model, record = small
    path = tmp_path / "m.tflite"
    reported = {row.name: row for row in to_litert(model, path, record, target="ethos-u").tensors}
    rows = {tensor.name: tensor for tensor in inspect(path).constants}
    for name, row in reported.items():
        assert rows[name].num_bytes == np.prod(row.shape)
    assert sizes(record, path).file_bytes == inspect(path).file_bytes


def test_palettes_of_convolutions_leave_xnnpack(tmp_path):
    model = keras.Sequential([keras.Input((8, 8, 4)), layers.Conv2D(4, 3, name="conv")])
    recipe = r2keras.Recipe([(".*", r2keras.PaletteSpec(num_bits=2, min_size=0))])
    small, record = r2keras.calibrate(model, recipe)
    to_litert(small, tmp_path / "m.tflite", record)
    (conv,) = [operator for operator in inspect(tmp_path / "m.tflite").operators if operator.kind == "CONV_2D"]
    assert (conv.runs_on, "at run time" in conv.reason) == ("LiteRT", True)


def test_a_file_for_microcontrollers(tmp_path):
    model = keras.Sequential([keras.Input((64,)), layers.Dense(32, name="head")])
    small, record = r2keras.calibrate(model, r2keras.Recipe([(".*", r2keras.PaletteSpec(num_bits=3, min_size=0))]))
    to_tflm(small, tmp_path / "m.tflite", record)
    found = inspect(tmp_path / "m.tflite")
    assert found.runtimes["LiteRT for Microcontrollers"].startswith("yes")
    assert found.runtimes["LiteRT"].startswith("no")
    assert {operator.runs_on for operator in found.operators} == {"?"}


def test_what_vela_compiled(vela_file):
    found = inspect(vela_file)
    (operator,) = found.operators
    assert (operator.kind, operator.types, operator.runs_on) == ("CUSTOM ethos-u", "int8 -> int8", "Ethos-U")
    assert {tensor.name for tensor in found.constants} == {"ethos_u_command_stream", "read_only"}
    assert found.runtimes["LiteRT"].startswith("no: ")
    assert found.runtimes["LiteRT for Microcontrollers"].startswith("not here")
    assert found.runtimes["Ethos-U"] == "yes: compiled already"
    assert "CUSTOM ethos-u" in str(found)


def test_what_vela_compiled_is_neither_compiled_again_nor_run(vela_file):
    with pytest.raises(ValueError, match=r"compiled already\. Use the file from which it was compiled"):
        ethos_u(vela_file)
    with pytest.raises(ValueError, match=r"is compiled for Ethos-U, and runs on that NPU only\. Use the file"):
        LiteRTModel(vela_file)


def test_the_wheel_says_why_it_does_not_run_what_vela_compiled(vela_file, microcontrollers):
    with pytest.raises(ValueError, match="is compiled for Ethos-U, and runs on that NPU only"):
        TFLMModel(vela_file)


def test_parts_are_found_by_their_ends(small, tmp_path):
    model, record = small
    to_litert(model, tmp_path / "m.tflite", record, activations="int8", batch_size=1)
    content = (tmp_path / "m.tflite").read_bytes()
    assert len(delegated(content, "m")) == len(inspect(tmp_path / "m.tflite").operators)


def test_damaged_files_are_refused(tmp_path):
    (tmp_path / "m.tflite").write_bytes(b"no file")
    with pytest.raises(ValueError, match=r"m\.tflite"):
        inspect(tmp_path / "m.tflite")
    with pytest.raises(FileNotFoundError):
        inspect(tmp_path / "none.tflite")
