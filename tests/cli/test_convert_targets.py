"""r2keras-convert --target: the files are those of Python; flags of other targets are refused before any work."""

import sys

import keras
import numpy as np
import pytest

import r2keras
from r2keras.cli import convert
from r2keras.export import LiteRTModel, to_litert


def run(**flags):
    return convert.main(["r2keras-convert", *(f"--{name}={value}" for name, value in flags.items())])


@pytest.fixture
def float_model(made):
    return {"model": made / "float.keras", "calibration_data": made / "x.npz"}


def test_a_browser_gets_what_python_writes(made, tmp_path):
    parts = {"model": made / "small.keras", "record": made / "small.record.npz"}
    assert run(**parts, target="browser", output=tmp_path / "cli.tflite") == 0
    model = keras.models.load_model(parts["model"])
    record = r2keras.CompressionRecord.load(parts["record"])
    to_litert(model, tmp_path / "python.tflite", record, target="browser")
    assert (tmp_path / "cli.tflite").read_bytes() == (tmp_path / "python.tflite").read_bytes()
    assert LiteRTModel(tmp_path / "cli.tflite").inputs[0].signature[0] == 1


def test_an_npu_implies_integers(float_model, tmp_path, capsys):
    assert run(**float_model, bits=4, edge_bits=0, target="ethos-u", output=tmp_path / "npu.tflite") == 0
    model = LiteRTModel(tmp_path / "npu.tflite")
    assert {port.dtype for port in (*model.inputs, *model.outputs)} == {"int8"}
    assert "4-bit codes in an 8-bit container" in capsys.readouterr().out


def test_microcontrollers_get_tables_or_integers(float_model, tmp_path, capsys):
    assert run(**float_model, bits=4, edge_bits=0, target="mcu", output=tmp_path / "t.tflite") == 0
    assert r2keras.export.TFLMModel(tmp_path / "t.tflite").inputs[0].dtype == "float32"
    assert run(**float_model, integer="true", target="mcu", output=tmp_path / "i.tflite") == 0
    assert r2keras.export.TFLMModel(tmp_path / "i.tflite").inputs[0].dtype == "int8"
    assert capsys.readouterr().out.count("memory (arena)") == 2


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Flags of a model whose kernel is worth Huffman codes, and of its data."""
    folder = tmp_path_factory.mktemp("large")
    keras.utils.set_random_seed(0)
    dense = keras.layers.Dense(64, kernel_initializer="random_normal", name="hidden")
    keras.Sequential([keras.Input((64,)), dense, keras.layers.Dense(3, name="head")]).save(folder / "large.keras")
    np.savez(folder / "x.npz", x=np.random.default_rng(0).normal(size=(40, 64)).astype("float32"))
    return {"model": folder / "large.keras", "calibration_data": folder / "x.npz", "bits": 3, "edge_bits": 0}


def sizes_of_forms(capsys, folder, **flags):
    """The bytes of a file without and with Huffman codes, which the second command names."""
    sizes = []
    for form in ("memory", "size"):
        path = folder / f"{form}.tflite"
        assert run(**flags, target="mcu", optimize=form, output=path) == 0
        sizes.append(path.stat().st_size)
        assert ("Huffman codes of 2." in capsys.readouterr().out) is (form == "size")
    return sizes


def test_huffman_codes_of_tables(large, tmp_path, capsys, microcontrollers):
    memory, size = sizes_of_forms(capsys, tmp_path, **large)
    assert size < memory


def test_huffman_codes_of_an_integer_record(large, tmp_path, capsys, microcontrollers):
    kept = {"record_output": tmp_path / "r.npz", "model_output": tmp_path / "m.keras", "integer": "true"}
    flags = {"target": "mcu", "optimize": "size"}
    assert run(**large, **kept, **flags, output=tmp_path / "a.tflite") == 0
    parts = {"model": tmp_path / "m.keras", "record": tmp_path / "r.npz"}
    capsys.readouterr()
    memory, size = sizes_of_forms(capsys, tmp_path, **parts)
    assert size < memory
    assert (tmp_path / "a.tflite").read_bytes() == (tmp_path / "size.tflite").read_bytes()
    assert run(**parts, **flags, format="c_array", output=tmp_path / "firmware") == 0
    assert "AddDecode" in (tmp_path / "firmware" / "model_ops.h").read_text()


def test_c_sources_hold_the_file(float_model, tmp_path, capsys):
    folder = tmp_path / "firmware"
    assert run(**float_model, integer="true", target="mcu", format="c_array", output=folder) == 0
    names = {path.name for path in folder.iterdir()}
    assert {"model_data.h", "model_data.cc", "model_ops.h", "model_golden.h", "model_golden.cc"} <= names
    assert "bytes of RAM" in capsys.readouterr().out


def test_the_compiled_file_is_kept(float_model, tmp_path, capsys):
    pytest.importorskip("ethosu", reason="ethos-u-vela is not installed")
    flags = {"target": "ethos-u", "accelerator": "ethos-u55-64", "npu_output": tmp_path / "vela.tflite"}
    assert run(**float_model, bits=2, edge_bits=0, output=tmp_path / "npu.tflite", **flags) == 0
    assert "weights in flash" in capsys.readouterr().out
    assert (tmp_path / "vela.tflite").stat().st_size > 0


def test_a_missing_vela_is_told_before_the_model_is_read(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "ethosu", None)
    flags = {"target": "ethos-u", "accelerator": "ethos-u55-64", "output": tmp_path / "npu.tflite"}
    assert run(model=tmp_path / "none.keras", **flags) == 2
    assert "r2keras[npu]" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags, expected",
    [
        ({"target": "cpu", "accelerator": "ethos-u55-64"}, "--accelerator goes with --target=ethos-u"),
        ({"target": "ethos-u", "npu_output": "v.tflite"}, "--npu_output goes with --accelerator"),
        ({"format": "c_array"}, "--format=c_array goes with --target=mcu"),
        ({"format": "tflm", "target": "browser"}, "--format=tflm goes with --target=mcu"),
        ({"target": "phone"}, "any|cpu|browser|ethos-u|mcu"),
        ({"target": "ethos-u", "activations": "float"}, "contradicts --integer"),
        ({"target": "ethos-u", "accelerator": "u55"}, "ethos-u55-32"),
        ({"target": "mcu", "format": "c_array", "output": "m.tflite"}, "should be a folder"),
    ],
)
def test_flags_of_other_targets(flags, expected, tmp_path, capsys):
    given = {"model": tmp_path / "none.keras", "output": tmp_path / "m.tflite", **flags}
    assert run(**given) == 2
    error = capsys.readouterr().err
    assert expected in error and error.count("\n") == 1


def test_data_for_a_file_without_integers(made, tmp_path, capsys):
    parts = {"model": made / "small.keras", "record": made / "small.record.npz", "calibration_data": made / "x.npz"}
    assert run(**parts, target="cpu", output=tmp_path / "m.tflite") == 2
    assert "--calibration_data goes with integer activations" in capsys.readouterr().err
    assert not (tmp_path / "m.tflite").exists()


@pytest.mark.parametrize("flag", ["--batch_size=3", "--io=int8", "--recurrent=fused"])
def test_tables_take_one_sample_of_floats(made, tmp_path, capsys, flag):
    parts = [f"--model={made / 'small.keras'}", f"--record={made / 'small.record.npz'}", "--target=mcu"]
    assert convert.main(["r2keras-convert", *parts, flag, f"--output={tmp_path / 'm.tflite'}"]) == 2
    assert "look-up tables" in capsys.readouterr().err
    assert not (tmp_path / "m.tflite").exists()
