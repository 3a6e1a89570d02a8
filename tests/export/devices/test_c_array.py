"""C arrays: what a compiler makes of them, their operators, and refusals."""

import dataclasses
import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import r2keras
from r2keras.export import c_array, golden, tflm_arena, to_litert, to_tflm
from r2keras.export.devices.c_array.literals import comment, literal, rows
from r2keras.export.devices.c_array.operators import DECODE, OPERATORS, method, operators_of
from r2keras.export.tflite.interpreter import read
from r2keras.export.tflite.writer import write
from tests.export.devices.tflm_headers import METHODS, write_headers

DUMP = """
#include <cstdio>
#include "model_golden.h"
int main() {
  std::fwrite(model::kData, 1, model::kBytes, stdout);
  std::fwrite(model::kGoldenInput0, sizeof(model::Input0), model::kSamples * model::kInput0Values, stdout);
  std::fwrite(model::kGoldenOutput0, sizeof(model::Output0), model::kSamples * model::kOutput0Values, stdout);
}
"""
# Answers each golden input with its golden output, to which the environment adds an error.
FAKE = """
#include <cstdlib>
#include <cstring>
#include "model_golden.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
static model::Input0 in[model::kInput0Values];
static model::Output0 out[model::kOutput0Values];
TfLiteTensor FakeTensor(bool is_input) {
  TfLiteTensor tensor;
  tensor.data.raw = is_input ? reinterpret_cast<char*>(in) : reinterpret_cast<char*>(out);
  tensor.bytes = is_input ? sizeof(in) : sizeof(out);
  return tensor;
}
bool FakeInvoke(TfLiteTensor&, TfLiteTensor&) {
  for (std::size_t i = 0; i < model::kSamples; ++i) {
    if (std::memcmp(in, model::kGoldenInput0 + i * model::kInput0Values, sizeof(in)) != 0) continue;
    std::memcpy(out, model::kGoldenOutput0 + i * model::kOutput0Values, sizeof(out));
    out[0] = static_cast<model::Output0>(out[0] + std::atof(std::getenv("ERROR")));
    return true;
  }
  return false;
}
"""
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]


def net(**options):
    keras.utils.set_random_seed(0)
    layers = [keras.Input((8, 8, 3), **options), keras.layers.Conv2D(8, 3, activation="relu"), keras.layers.Flatten()]
    return keras.Sequential([*layers, keras.layers.Dense(4, activation="softmax")])


X = np.random.default_rng(0).normal(size=(32, 8, 8, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def tables(tmp_path_factory, microcontrollers):
    """Returns a file with look-up tables, and golden values."""
    small, record = r2keras.calibrate(net(), r2keras.Recipe.uniform(4, edges=None), X)
    path = tmp_path_factory.mktemp("tables") / "model.tflite"
    to_tflm(small, path, record)
    return path, golden(None, path, X[:3])


@pytest.fixture(scope="module")
def integers(tmp_path_factory, microcontrollers):
    """Returns an integer file, and golden values."""
    small, record = r2keras.calibrate(net(batch_size=1), r2keras.Recipe.int8(), X, integer=True)
    path = tmp_path_factory.mktemp("integers") / "model.tflite"
    to_litert(small, path, record, activations="int8", io="int8", optimize="memory")
    return path, golden(None, path, X[:3], runtime="tflm")


@pytest.fixture(params=["tables", "integers"])
def exported(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def compiled(tmp_path):
    """Returns a function that compiles sources and returns the program."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")

    def compile_(sources, folder, standard):
        program = tmp_path / f"program{standard}"
        command = ["g++", f"-std=c++{standard}", *WARNINGS, f"-I{folder}", f"-I{tmp_path}", *map(str, sources)]
        subprocess.run([*command, "-o", str(program)], check=True)
        return program

    return compile_


@pytest.mark.parametrize(("kind", "standard"), [("tables", 11), ("integers", 17)])
def test_a_compiler_sees_the_bytes_and_the_golden_values(kind, standard, compiled, tmp_path, request):
    path, values = request.getfixturevalue(kind)
    folder = tmp_path / "firmware"
    written = c_array(path, folder, golden=values)
    assert written.file_bytes == path.stat().st_size
    assert sorted(written.files) == sorted(file for file in folder.rglob("*") if file.is_file())
    (tmp_path / "dump.cc").write_text(DUMP)
    data, vectors = folder / "model_data.cc", folder / "model_golden.cc"
    dumped = subprocess.run(compiled([data, vectors, tmp_path / "dump.cc"], folder, standard), stdout=-1, check=True)
    parts = [path.read_bytes(), values.inputs[0].values.tobytes(), values.outputs[0].values.tobytes()]
    assert dumped.stdout == b"".join(parts)
    check = subprocess.run(
        compiled([data, folder / "check" / "model_bytes.cc"], folder, standard), stdout=-1, check=True
    )
    assert check.stdout == f"{path.stat().st_size} bytes, unchanged, aligned\n".encode()


def test_the_check_finds_a_changed_byte(tables, compiled, tmp_path):
    c_array(tables[0], tmp_path)
    source = tmp_path / "model_data.cc"
    source.write_text(source.read_text().replace("0x54, 0x46, 0x4c, 0x33", "0x54, 0x46, 0x4c, 0x34", 1))
    check = subprocess.run(compiled([source, tmp_path / "check" / "model_bytes.cc"], tmp_path, 11), stdout=-1)
    assert check.returncode == 1
    assert b"CHANGED" in check.stdout


def test_the_program_compares_outputs_with_golden_values(exported, compiled, tmp_path):
    path, values = exported
    written = c_array(path, tmp_path, golden=values)
    write_headers(tmp_path)
    (tmp_path / "fake.cc").write_text(FAKE)
    sources = [*tmp_path.glob("*.cc"), tmp_path / "check" / "model_run.cc"]
    program = compiled(sources, tmp_path, 11)
    tolerance = values.outputs[0].tolerance
    for error, failed in ((0.0, 0), (0.5 * tolerance, 0), (3 * tolerance + 1e-3, 3)):
        run = subprocess.run(program, env={"ERROR": str(error)}, stdout=-1, check=False)
        assert run.returncode == bool(failed)
        assert run.stdout.startswith(f"{failed} of 3 samples differ".encode())
    assert len(written.operators) > 1


def test_headers_hold_grids_and_the_arena(integers, tmp_path):
    path, values = integers
    written = c_array(path, tmp_path, name="kws", golden=values)
    header = (tmp_path / "kws_data.h").read_text()
    assert written.arena_bytes == tflm_arena(path)
    assert f"kArenaBytes = {written.arena_bytes};" in header
    assert "namespace kws {" in header
    assert "#ifndef KWS_DATA_H_" in header
    for role, tensor in (("Input", values.inputs[0]), ("Output", values.outputs[0])):
        assert f"typedef std::int8_t {role}0;" in header
        assert f"k{role}0Shape[] = {{1, {', '.join(map(str, tensor.values.shape[1:]))}}};" in header
        scale = re.search(rf"k{role}0Scale = (.*)f;", header).group(1)
        assert np.float32(scale) == np.float32(tensor.scale) > 0
        assert f"k{role}0ZeroPoint = {tensor.zero_point};" in header
    assert "Decode" not in (tmp_path / "kws_ops.h").read_text()


def test_the_same_file_gives_the_same_code(tables, tmp_path):
    path, values = tables
    first, second = (c_array(path, tmp_path / part, golden=values) for part in "ab")
    assert [file.read_bytes() for file in first.files] == [file.read_bytes() for file in second.files]
    again = c_array(path, tmp_path / "a")
    assert {file.name for file in again.files} < {file.name for file in first.files}


def test_every_operator_has_a_method_of_the_resolver():
    assert sorted(map(method, OPERATORS | {DECODE})) == sorted(f"Add{name}" for name in METHODS)


def test_what_vela_compiled_needs_a_number_of_bytes(vela_file, tmp_path):
    with pytest.raises(ValueError, match=r"`arena_bytes`.*compiled for Ethos-U.*Take `sram_bytes`"):
        c_array(vela_file, tmp_path / "firmware")
    written = c_array(vela_file, tmp_path / "firmware", arena_bytes=5000)
    header = (tmp_path / "firmware" / "model_ops.h").read_text()
    assert written.operators == ("ETHOS_U",)
    assert "resolver.AddEthosU()" in header and "MicroMutableOpResolver<1>" in header


def test_golden_values_of_what_vela_compiled(vela_file, tmp_path, compiled):
    values = golden(None, vela_file.with_name("npu.tflite"), X[:2])
    with pytest.raises(ValueError, match=r"before its compilation, and pass `dataclasses\.replace"):
        c_array(vela_file, tmp_path, golden=values, arena_bytes=5000)
    sha256 = hashlib.sha256(vela_file.read_bytes()).hexdigest()
    c_array(vela_file, tmp_path, golden=dataclasses.replace(values, sha256=sha256), arena_bytes=5000)
    names = [tmp_path / f"model_{part}.cc" for part in ("data", "golden")]
    compiled([*names, tmp_path / "check" / "model_bytes.cc"], tmp_path, 11)


def test_every_operator_of_the_wheel_is_known(microcontrollers):
    """Files of `to_tflm` run on the wheel, so that they hold no other operators."""
    from ai_edge_litert import schema_py_generated as schema

    library = next(Path(microcontrollers.__file__).parent.rglob("_runtime*.so")).read_bytes()
    registered = {name.decode() for name in re.findall(rb"Register_([A-Z0-9_]+)Ev", library)}
    builtin = registered & set(vars(schema.BuiltinOperator))
    assert len(builtin) > 90
    assert builtin <= OPERATORS
    assert DECODE in registered


@pytest.mark.parametrize("name", ["", "2nd", "a-b", "_a", "a__b", "class", "std", "a\n", 3])
def test_a_name_that_is_not_an_identifier_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match=r"`name`\. Expected a C identifier"):
        c_array(tmp_path / "model.tflite", tmp_path, name=name)


def test_an_open_batch_is_refused(tmp_path):
    to_litert(net(), tmp_path / "open.tflite")
    with pytest.raises(ValueError, match=r"has an open size\. Give every Input its full shape and batch size"):
        c_array(tmp_path / "open.tflite", tmp_path / "firmware")
    assert not (tmp_path / "firmware").exists()


def test_a_batch_of_several_samples_is_refused(tmp_path):
    to_litert(net(batch_size=2), tmp_path / "two.tflite")
    with pytest.raises(ValueError, match=r"takes 2 samples at once\. Give every Input `batch_size=1`"):
        c_array(tmp_path / "two.tflite", tmp_path / "firmware")


def test_operators_that_the_runtime_lacks_are_named(tmp_path):
    inputs = keras.Input((8,), batch_size=1)
    to_litert(keras.Model(inputs, keras.ops.sort(inputs)), tmp_path / "sort.tflite")
    with pytest.raises(ValueError, match=r"with .*TOPK_V2.*Write the file with `to_tflm`, or with `to_litert`"):
        c_array(tmp_path / "sort.tflite", tmp_path / "firmware")


def test_a_file_for_phones_is_refused_with_the_remedy(tmp_path, microcontrollers):
    small, record = r2keras.calibrate(net(batch_size=1), r2keras.Recipe.uniform(4, edges=None), X)
    to_litert(small, tmp_path / "exact.tflite", record)
    with pytest.raises(ValueError, match=r"cannot run .*exact\.tflite.*Write the file with `to_tflm`"):
        c_array(tmp_path / "exact.tflite", tmp_path / "firmware")


def test_dense_layers_of_four_bits_are_refused_in_integer_files(tmp_path):
    model = keras.Sequential([keras.Input((64,), batch_size=1), keras.layers.Dense(64), keras.layers.Dense(4)])
    recipe = r2keras.Recipe.uniform(4, edges=None, activation_bits=8)
    small, record = r2keras.calibrate(model, recipe, X.reshape(96, 64), integer=True)
    to_litert(small, tmp_path / "dense.tflite", record, activations="int8", io="int8", optimize="memory")
    with pytest.raises(
        ValueError,
        match=r"packed weights in a dense layer\. Write the file with",
    ):
        c_array(tmp_path / "dense.tflite", tmp_path / "firmware")


def test_golden_values_of_another_file_are_refused(tables, tmp_path):
    path, values = tables
    with pytest.raises(ValueError, match=r"with other bytes than model\.tflite"):
        c_array(path, tmp_path, golden=dataclasses.replace(values, sha256="0"))
    wrong = dataclasses.replace(values.outputs[0], values=values.outputs[0].values + 1)
    with pytest.raises(ValueError, match=r"Expected outputs of LiteRT for Microcontrollers.*runtime='tflm'"):
        c_array(path, tmp_path, golden=dataclasses.replace(values, outputs=(wrong,)))
    infinite = dataclasses.replace(values.inputs[0], values=values.inputs[0].values + np.inf)
    with pytest.raises(ValueError, match="Expected finite inputs"):
        c_array(path, tmp_path, golden=dataclasses.replace(values, inputs=(infinite,)))
    with pytest.raises(TypeError, match=r"`golden`\. Expected a `Golden`"):
        c_array(path, tmp_path, golden="golden.json")
    assert list(tmp_path.iterdir()) == []


def test_without_the_wheel_the_memory_has_to_be_given(tmp_path, monkeypatch):
    path = tmp_path / "model.tflite"
    to_tflm(net(), path, check=False)
    monkeypatch.setitem(sys.modules, "tflite_micro", None)
    with pytest.raises(ImportError, match=r"pip install 'r2keras\[tflm\]'"):
        c_array(path, tmp_path / "firmware")
    written = c_array(path, tmp_path / "firmware", arena_bytes=30000)
    assert written.arena_bytes == 30000
    assert "kArenaBytes = 30000;" in written.files[0].read_text()
    with pytest.raises(ValueError, match="arena_bytes"):
        c_array(path, tmp_path / "firmware", arena_bytes=0)


def test_custom_operators_are_refused():
    from ai_edge_litert import schema_py_generated as schema

    code = schema.OperatorCodeT(builtinCode=32, deprecatedBuiltinCode=32, customCode=b"Mine", version=1)
    graph = schema.SubGraphT(operators=[schema.OperatorT(opcodeIndex=0, inputs=[], outputs=[])])
    with pytest.raises(ValueError, match=r"m\.tflite with CUSTOM"):
        operators_of(schema.ModelT(operatorCodes=[code], subgraphs=[graph]), "m.tflite")


def test_names_cannot_leave_their_comment(tables, compiled, tmp_path):
    path = tmp_path / "model.tflite"
    file = read(tables[0])
    graph = file.subgraphs[0]
    graph.tensors[graph.inputs[0]].name = b"a??/\n#error b\\"
    path.write_bytes(write(file))
    c_array(path, tmp_path)
    compiled([tmp_path / "model_data.cc", tmp_path / "check" / "model_bytes.cc"], tmp_path, 11)
    assert comment("a\n\\") == "a__"


def edges(dtype):
    """Returns random values of a type, and its smallest and largest ones."""
    rng = np.random.default_rng(0)
    if dtype == "float32":
        return np.append(rng.normal(size=50), [0.0, 1e-45, -3.4e38, 16777216.0, 1 / 3]).astype(dtype)
    low, high = (0, 1) if dtype == "bool" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    return np.array([low, high, *rng.integers(low, high, 50)], dtype)


def test_literals_give_their_values_back(compiled, tmp_path):
    values = {name: edges(name) for name in ("float32", "int8", "int16", "int32", "int64", "uint8", "bool")}
    lines = ["#include <cstdint>", "#include <cstdio>"]
    for name, array in values.items():
        kind = {"float32": "float", "bool": "bool"}.get(name, f"std::{name}_t")
        lines += [f"const {kind} v_{name}[] = {{", *rows(array), "};"]
    lines += ["int main() {", *(f"std::fwrite(v_{name}, 1, sizeof(v_{name}), stdout);" for name in values), "}"]
    (tmp_path / "v.cc").write_text("\n".join(lines))
    found = subprocess.run(compiled([tmp_path / "v.cc"], tmp_path, 11), stdout=-1, check=True).stdout
    assert found == b"".join(array.tobytes() for array in values.values())
    assert literal(3) == "3"
