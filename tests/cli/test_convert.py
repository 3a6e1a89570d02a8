"""r2keras-convert: the three ways to a file; every mistake gives one sentence and exit code 2."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from r2keras.cli import convert
from r2keras.export import sizes
from r2keras.record import CompressionRecord

ROOT = Path(__file__).resolve().parents[2]


def run(**flags):
    return convert.main(["convert.py", *(f"--{name}={value}" for name, value in flags.items())])


def refused(capsys, **flags):
    """Returns the one sentence that a mistake gives."""
    assert run(**flags) == 2
    out, err = capsys.readouterr()
    assert out == ""
    *stages, error = err.splitlines()
    assert all(line.endswith(" ...") for line in stages)
    assert "Traceback" not in err
    return f"{error}\n"


def test_with_a_record_the_file_is_the_same_as_from_python(made, tmp_path, capsys):
    out = tmp_path / "new" / "m.tflite"
    assert run(model=made / "small.keras", record=made / "small.record.npz", output=out) == 0
    assert out.read_bytes() == (made / "small.tflite").read_bytes()
    shown = capsys.readouterr().out
    assert "head/kernel" in shown
    assert "stem/kernel" in shown


@pytest.mark.parametrize("data", ["x.npz", "image.npz"])
def test_with_a_recipe_it_calibrates_and_keeps_what_it_made(made, tmp_path, data):
    record, model, out = (tmp_path / name for name in ("r.npz", "m.keras", "m.tflite"))
    code = run(
        model=made / "float.keras",
        recipe=made / "recipe.yaml",
        calibration_data=made / data,
        output=out,
        record_output=record,
        model_output=model,
    )
    assert code == 0
    expected = CompressionRecord.load(made / "small.record.npz")
    for name, tensor in CompressionRecord.load(record).tensors.items():
        np.testing.assert_array_equal(tensor.codes, expected.tensors[name].codes)
    again = tmp_path / "again.tflite"
    assert run(model=model, record=record, output=again) == 0
    assert again.read_bytes() == out.read_bytes()


@pytest.mark.parametrize("model", ["float.keras", "float.h5"])
def test_without_either_the_file_is_float(made, tmp_path, capsys, model):
    assert run(model=made / model, output=tmp_path / "m.tflite") == 0
    size = os.path.getsize(tmp_path / "m.tflite")
    assert f"{size:,} bytes, float" in capsys.readouterr().out
    assert size > os.path.getsize(made / "small.tflite") / 2


def test_a_file_for_microcontrollers(made, tmp_path, capsys, microcontrollers):
    out = tmp_path / "mcu.tflite"
    assert run(model=made / "small.keras", record=made / "small.record.npz", format="tflm", output=out) == 0
    shown = capsys.readouterr().out
    assert f"{os.path.getsize(out):,}" in shown
    assert "microcontroller needs: " in shown


# Flags beside --model=float.keras --output=m.tflite (None takes one away), and a word of what is told.
PLAIN = (
    *("format", "activations", "io", "input_bits", "output_bits", "recurrent"),
    *("bits", "edge_bits", "steps", "activation_bits", "integer"),
)
MISTAKES = [
    ({"model": None}, "--model is missing"),
    ({"output": None}, "--output is missing"),
    ({"record": "small.record.npz", "recipe": "recipe.yaml"}, "not both"),
    ({"bits": 4, "recipe": "recipe.yaml"}, "--bits cannot be combined with --recipe"),
    ({"steps": "adaround", "record": "small.record.npz"}, "--steps cannot be combined with --record"),
    ({"edge_bits": 4, "recipe": "recipe.yaml"}, "--edge_bits cannot be combined with --recipe"),
    ({"steps": "adaround"}, "--steps goes with --bits"),
    ({"activation_bits": 8}, "--activation_bits goes with --bits"),
    ({"bits": 9}, "`num_bits`"),
    ({"bits": 4, "edge_bits": 9}, "`edges`"),
    ({"bits": 4, "steps": "adarond"}, "Did you mean 'adaround'"),
    ({"bits": 4, "calibration_data": "x.npz"}, "--edge_bits=0"),  # the model has a first and a last kernel only
    ({"integer": "true", "activation_bits": 4}, "--activation_bits=4 contradicts --integer"),
    ({"integer": "true", "output_bits": 4}, "--output_bits=4 contradicts --integer"),
    ({"integer": "true", "activations": "float"}, "--activations=float contradicts --integer"),
    ({"integer": "true", "recipe": "recipe.yaml", "calibration_data": "x.npz"}, "activation_bits=8"),
    ({"integer": "true"}, "Give them with --calibration_data"),
    ({"integer": "true", "format": "tflm"}, "--format=litert"),
    ({"calibration_data": "x.npz"}, "--calibration_data goes with --recipe"),
    ({"record_output": "r.npz"}, "--record_output goes with --recipe"),
    ({"model_output": "m.keras", "record": "small.record.npz"}, "--model_output goes with --recipe"),
    ({"format": "tflm", "activations": "int8", "record": "small.record.npz"}, "--format=litert"),
    ({"format": "tflm", "recurrent": "fused", "record": "small.record.npz"}, "--format=litert"),
    ({"recurrent": "fused"}, "has no LSTM"),
    ({"output": "m.bin"}, "should end in .tflite"),
    ({"recipe": "recipe.yaml", "record_output": "r.json"}, "should end in .npz"),
    ({"outptu": "m.tflite"}, "Did you mean: output"),
    ({"model": "none.keras"}, "none.keras: No such file"),
    ({"model": "x.npz"}, ".keras or .h5"),
    ({"recipe": "none.yaml"}, "none.yaml: No such file"),
    ({"recipe": "x.npz"}, ".yaml, .yml or .json"),
    ({"recipe": "recipe.yaml"}, "Give them with --calibration_data"),  # batch normalization wants some
    ({"recipe": "recipe.yaml", "calibration_data": "none.npz"}, "none.npz: No such file"),
    ({"recipe": "recipe.yaml", "calibration_data": "small.record.npz"}, "lacks the array `x`"),
    ({"record": "x.npz"}, "not a readable record"),
    ({"record": "small.record.npz"}, "stem/kernel|head/kernel"),  # a record of other values
    ({"activations": "int8"}, "--activations=int8 goes with --record or --recipe"),
    ({"activations": "int4"}, "activations"),
    ({"activations": "dynamic"}, "--activations=dynamic goes with --record, --recipe or --bits"),
    ({"activations": "dynamic", "format": "tflm", "bits": 4}, "leave --format=tflm out"),
    ({"io": "int8"}, "--io=int8 goes with --integer or --activations=int8"),
    ({"input_bits": 8}, "--input_bits goes with --recipe"),
    ({"output_bits": 8}, "--output_bits goes with --recipe"),
    ({"model": "small.keras", "record": "small.record.npz", "activations": "int8"}, "a record without activations"),
]


@pytest.mark.parametrize(
    ("flags", "words"), MISTAKES, ids=lambda value: "-".join(value) if isinstance(value, dict) else ""
)
def test_mistake_is_one_sentence_and_writes_nothing(made, tmp_path, monkeypatch, capsys, flags, words):
    monkeypatch.chdir(tmp_path)
    given = {"model": "float.keras", "output": "m.tflite"} | flags
    paths = {
        name: value if name.startswith("out") or "_output" in name or name in PLAIN else made / value
        for name, value in given.items()
        if value
    }
    told = refused(capsys, **paths)
    assert any(word in told for word in words.split("|"))
    assert list(tmp_path.iterdir()) == []


def test_integer_operators_from_a_recipe_and_from_its_record(made, tmp_path, capsys):
    import r2keras
    from r2keras.cli import verify

    r2keras.Recipe([(".*", r2keras.QuantSpec(activation_bits=8))]).save(tmp_path / "a8.yaml")
    kept = {"record_output": tmp_path / "r.npz", "model_output": tmp_path / "m.keras"}
    given = {"activations": "int8", "io": "float"}
    flags = {"recipe": tmp_path / "a8.yaml", "input_bits": 8, "output_bits": 8, **kept, **given}
    flags["calibration_data"] = made / "x.npz"
    assert run(model=made / "float.keras", output=tmp_path / "m.tflite", **flags) == 0
    told = capsys.readouterr().out
    assert "same decision as the Keras model: " in told
    size = (tmp_path / "m.tflite").stat().st_size
    assert "exact, in float" in told and f"{size:,}" in told.partition("on integers")[2]
    given |= {"record": tmp_path / "r.npz", "output": tmp_path / "again.tflite"}
    assert run(model=tmp_path / "m.keras", **given) == 0
    assert (tmp_path / "again.tflite").read_bytes() == (tmp_path / "m.tflite").read_bytes()
    paths = {"model": tmp_path / "m.keras", "file": tmp_path / "m.tflite", "data": made / "x.npz"}
    command = ["verify.py", *(f"--{name}={value}" for name, value in paths.items())]
    assert verify.main([*command, "--min_agreement=0.9"]) == 0
    # With output_bits Keras rounds where the file does.
    assert verify.main([*command, "--tolerance=1e-5"]) == 0
    assert "agree in 90.00% of the decisions" in capsys.readouterr().out


def test_bits_and_steps_replace_a_recipe(made, tmp_path, capsys):
    import r2keras

    steps = ("adaround", "correct_bias")
    r2keras.Recipe.uniform(4, edges=None, steps=steps).save(tmp_path / "r.yaml")
    given = {"model": made / "float.keras", "calibration_data": made / "x.npz"}
    assert run(**given, recipe=tmp_path / "r.yaml", output=tmp_path / "a.tflite") == 0
    assert run(**given, bits=4, edge_bits=0, steps=",".join(steps), output=tmp_path / "b.tflite") == 0
    assert (tmp_path / "a.tflite").read_bytes() == (tmp_path / "b.tflite").read_bytes()
    told = capsys.readouterr().err
    assert f"Calibrating adaround, correct_bias ...\nWriting {tmp_path / 'b.tflite'} ...\n" in told


def test_dynamic_products(made, tmp_path, capsys):
    out = tmp_path / "m.tflite"
    flags = {"model": made / "small.keras", "record": made / "small.record.npz", "output": out}
    assert run(**flags, activations="dynamic") == 0
    shown = capsys.readouterr().out
    assert "packed" in shown and "dynamic" in shown and "exact, in float" in shown
    notes = [row.note for row in sizes(CompressionRecord.load(made / "small.record.npz"), out).tensors]
    assert any("packed" in note for note in notes)


def test_a_recipe_that_rounds_rows(made, tmp_path, capsys):
    recipe = tmp_path / "rows.yaml"
    grid = "{num_bits: 4, activation_bits: 8, activation_method: dynamic}"
    recipe.write_text(f"rules:\n- {{match: '.*', quantize: {grid}}}\n")
    given = {"model": made / "float.keras", "calibration_data": made / "x.npz", "recipe": recipe}
    told = refused(capsys, **given, output=tmp_path / "m.tflite")
    assert "activation_method: dynamic, which goes with --activations=dynamic or int8" in told
    kept = {"record_output": tmp_path / "r.npz", "model_output": tmp_path / "m.keras"}
    assert run(**given, activations="dynamic", output=tmp_path / "m.tflite", **kept) == 0
    shown = capsys.readouterr().out
    assert "packed" in shown and "same decision as the Keras model: 100.00%" in shown
    assert "head/kernel" in CompressionRecord.load(tmp_path / "r.npz").dynamic_kernels
    flags = {"model": tmp_path / "m.keras", "record": tmp_path / "r.npz"}
    assert run(**flags, activations="dynamic", output=tmp_path / "again.tflite") == 0
    assert (tmp_path / "again.tflite").read_bytes() == (tmp_path / "m.tflite").read_bytes()
    capsys.readouterr()
    assert "Pass activations='dynamic'" in refused(capsys, **flags, output=tmp_path / "no.tflite")


def test_integer_does_all_of_it(made, tmp_path, capsys):
    from r2keras.cli import verify

    kept = {"record_output": tmp_path / "r.npz", "model_output": tmp_path / "m.keras"}
    given = {"model": made / "float.keras", "calibration_data": made / "x.npz", "integer": "true", "io": "int8"}
    assert run(**given, output=tmp_path / "m.tflite", **kept) == 0
    assert "on integers" in capsys.readouterr().out
    record = CompressionRecord.load(tmp_path / "r.npz")
    assert {tensor.spec.num_bits for tensor in record.tensors.values()} == {8}
    assert {"image", "head"} <= set(record.activations)
    paths = {"model": tmp_path / "m.keras", "file": tmp_path / "m.tflite", "data": made / "x.npz"}
    # With output_bits Keras rounds where the file does.
    assert verify.main(["verify.py", *(f"--{name}={value}" for name, value in paths.items()), "--tolerance=1e-5"]) == 0
    # The record has all ranges: no data are needed.
    again = {"model": tmp_path / "m.keras", "record": tmp_path / "r.npz", "integer": "true", "io": "int8"}
    assert run(**again, output=tmp_path / "again.tflite") == 0
    assert (tmp_path / "again.tflite").read_bytes() == (tmp_path / "m.tflite").read_bytes()


def test_a_file_that_decides_otherwise_is_warned_of(monkeypatch, capsys):
    import r2keras

    for agreement, warns in [(None, False), (0.995, False), (0.9, True)]:
        found = r2keras.export.Verification(0.1, 1.0, agreement, None, None, 100)
        monkeypatch.setattr(r2keras.export, "verify", lambda *_, found=found: found)
        convert.check_decisions(None, [])
        shown = capsys.readouterr()
        assert (agreement is None) != ("same decision" in shown.out)
        assert warns == ("decides otherwise than the Keras model in 10.00% of the samples" in shown.err)


def test_positional_argument_is_refused(capsys):
    assert convert.main(["convert.py", "m.keras"]) == 2
    assert "write --flag=value" in capsys.readouterr().err


@pytest.mark.parametrize("data", [b"", b"text", None])
def test_corrupt_model_is_refused(made, tmp_path, capsys, data):
    whole = (made / "float.keras").read_bytes()
    (tmp_path / "m.keras").write_bytes(whole[: len(whole) // 2] if data is None else data)
    told = refused(capsys, model=tmp_path / "m.keras", output=tmp_path / "m.tflite")
    assert "m.keras is not a readable Keras model" in told


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((0, 6, 6, 1)), "no samples"),
        (np.float32(1), "no samples"),
        (np.zeros((4, 5)), "shape (4, 5)"),
        (np.full((4, 6, 6, 1), np.nan), "NaN"),
    ],
)
def test_unusable_calibration_data_are_refused(made, tmp_path, capsys, array, words):
    np.savez(tmp_path / "bad.npz", x=array)
    flags = {"recipe": made / "recipe.yaml", "calibration_data": tmp_path / "bad.npz"}
    assert words in refused(capsys, model=made / "float.keras", output=tmp_path / "m.tflite", **flags)


def test_data_are_asked_for_only_where_they_are_what_is_missing(made, tmp_path, capsys):
    (tmp_path / "r.json").write_text('{"rules": [{"match": "nowhere", "quantize": {"num_bits": 4}}]}')
    told = refused(capsys, model=made / "float.keras", output=tmp_path / "m.tflite", recipe=tmp_path / "r.json")
    assert "nowhere" in told and "calibration_data" not in told


def test_folder_that_cannot_be_written(made, tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    told = refused(capsys, model=made / "float.keras", output=tmp_path / "file" / "m.tflite")
    assert "Choose a folder you can write to." in told


def test_help_costs_no_backend_and_shows_every_flag():
    code = (
        "import json, sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from r2keras.cli import convert\n"
        "code = convert.main(['/usr/bin/r2keras-convert', '--help'])\n"
        "print(json.dumps([code, sorted({'keras', 'tensorflow'} & set(sys.modules))]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == [0, []]
    assert all(f"--{name}" in done.stdout for name in convert.FLAGS)
    assert "\n    r2keras-convert --model=" in done.stdout


@pytest.mark.parametrize(
    ("path", "command"),
    [
        ("/usr/bin/r2keras-convert", "r2keras-convert"),
        ("r2keras-convert.exe", "r2keras-convert"),
        ("tools/convert.py", "python tools/convert.py"),
        ("/lib/r2keras/cli/convert.py", "python -m r2keras.cli.convert"),
    ],
)
def test_help_and_errors_name_the_program_as_it_was_called(capsys, path, command):
    assert convert.main([path, "--help"]) == 0
    assert f"\n    {command} --model=small.keras" in capsys.readouterr().out
    assert convert.main([path]) == convert.main([path, "--modle=m.keras"]) == 2
    missing, unknown = capsys.readouterr().err.splitlines()
    assert missing.startswith("--model is missing") and missing.endswith(f"See {command} --help.")
    assert "modle" in unknown and unknown.endswith(f"See {command} --help.")


def test_script_runs_from_anywhere_and_its_errors_are_quiet(tmp_path):
    command = [sys.executable, ROOT / "tools" / "convert.py", "--model=none.keras", "--output=m.tflite"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    env.pop("TF_CPP_MIN_LOG_LEVEL", None)
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "none.keras: No such file or directory.\n"


def test_latency_holds_8_bits_a_weight(made, tmp_path):
    out = tmp_path / "m.tflite"
    assert run(model=made / "small.keras", record=made / "small.record.npz", output=out, optimize="latency") == 0
    record = CompressionRecord.load(made / "small.record.npz")
    assert [row.container_bits for row in sizes(record, out).tensors] == [8, 8]
    assert [row.container_bits for row in sizes(record, made / "small.tflite").tensors] == [8, 4]


def test_a_float_file_has_one_form(made, tmp_path, capsys):
    err = refused(capsys, model=made / "float.keras", output=tmp_path / "m.tflite", optimize="latency")
    assert "--optimize=latency goes with --record, --recipe or --bits" in err


def test_a_checkout_without_keras_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "keras", None)  # The import fails as if there were no such package.
    told = refused(capsys, model="m.keras", output="m.tflite")
    assert told == "This program needs the package `keras`, which is not installed. Run `pip install keras`.\n"
