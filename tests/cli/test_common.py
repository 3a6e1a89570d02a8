"""What the command lines share: help, data that do not fit, and files that would be overwritten."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import r2keras
from r2keras.cli import common, convert, expand, search, verify

REQUIRED = {
    convert: ("model", "output"),
    expand: ("input", "output"),
    search: ("model", "data", "out"),
    verify: ("model", "file", "data"),
}


@pytest.mark.parametrize("program", REQUIRED, ids=lambda program: program.__name__)
def test_help_tells_what_is_required_and_the_defaults(program, capsys):
    assert program.main([f"{program.__name__}.py", "--help"]) == 0
    lines = {line.split(":")[0].strip(" -"): line for line in capsys.readouterr().out.splitlines() if "  --" in line}
    for name, line in lines.items():
        if name in program.FLAGS:
            assert line.endswith(" Required.") == (name in REQUIRED[program])
            assert (" Default: " in line) == (program.FLAGS[name].default is not None)


def test_defaults_are_written_as_on_the_command_line(capsys):
    search.main(["search.py", "--bits=1", "--help"])
    verify.main(["verify.py", "--help"])
    shown = capsys.readouterr().out
    for text in ("Default: 2,3,4,8.", "Default: true.", "Default: accuracy.", "Default: 1e-05."):
        assert text in shown


@pytest.mark.parametrize("program", REQUIRED, ids=lambda program: program.__name__)
def test_version(program, capsys):
    name = program.__name__.rpartition(".")[2]
    assert program.main([f"/usr/bin/r2keras-{name}", "--version"]) == 0
    assert capsys.readouterr().out == f"r2keras-{name} {r2keras.__version__}\n"


@pytest.fixture(scope="module")
def two_inputs():
    a, b = keras.Input((3,), name="left"), keras.Input((None, 2), name="right")
    return keras.Model([a, b], [a, b])


LEFT, RIGHT = np.zeros((4, 3)), np.zeros((4, 5, 2))


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": LEFT}, "`left`, `right`. Expected `left`, `right`, one for each of the model's 2 inputs. Received: `x`"),
        ({"left": LEFT}, "lacks the array `right`"),
        ({"left": LEFT.astype(str), "right": RIGHT}, "`left` in --calibration_data=.*type <U32. Expected real numbers"),
        ({"left": LEFT, "right": RIGHT.astype(complex)}, "`right` in .* complex128"),
        ({"left": LEFT.astype("M8[s]"), "right": RIGHT}, "datetime64"),
        ({"left": LEFT[:, :2], "right": RIGHT}, r"`left` .*shape \(4, 2\). Expected \(any, 3\)"),
        ({"left": LEFT, "right": RIGHT[0]}, r"`right` .*shape \(5, 2\). Expected \(any, any, 2\)"),
        ({"left": LEFT[:0], "right": RIGHT}, "`left` .*no samples"),
        ({"left": np.float32(1), "right": RIGHT}, "`left` .*no samples"),
        ({"left": LEFT, "right": RIGHT[:2]}, "different numbers of samples"),
    ],
)
def test_data_that_do_not_fit_name_the_array_and_the_flag(two_inputs, tmp_path, arrays, words):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ValueError, match=words):
        common.load_inputs(tmp_path / "x.npz", two_inputs, "calibration_data")


def test_an_array_without_a_name_is_refused(two_inputs, tmp_path):
    np.save(tmp_path / "x.npy", LEFT)
    with pytest.raises(ValueError, match=r"--data=.*x\.npy should end in \.npz: .*np\.savez"):
        common.load_inputs(tmp_path / "x.npy", two_inputs)


@pytest.mark.parametrize(
    ("program", "flags", "words"),
    [
        (
            convert,
            {"model": "m.keras", "recipe": "r.yaml", "output": "o.tflite", "model_output": "m.keras"},
            "--model_output=m.keras is the file of --model",
        ),
        (
            convert,
            {"model": "m.keras", "record": "r.npz", "output": "o.tflite", "recipe": "", "record_output": "./r.npz"},
            "--record_output",
        ),
        (
            convert,
            {"model": "m.keras", "recipe": "r.yaml", "output": "a.tflite", "calibration_data": "x.npz"}
            | {"record_output": "sub/../x.npz"},
            "--record_output=sub/../x.npz is the file of --calibration_data",
        ),
        (expand, {"input": "a.tflite", "output": "./a.tflite"}, "--output=./a.tflite is the file of --input"),
    ],
)
def test_a_file_that_is_read_is_not_overwritten(program, flags, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert program.main([f"{program.__name__}.py", *(f"--{name}={value}" for name, value in flags.items())]) == 2
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
