"""r2keras-verify: 0 where model and file agree, 1 where they do not, 2 where they cannot be compared."""

from __future__ import annotations

import numpy as np
import pytest

from r2keras.cli import verify


def run(made, **flags):
    given = {"model": "small.keras", "file": "small.tflite", "data": "x.npz"} | flags
    paths = {name: made / value if name in ("model", "file", "data") else value for name, value in given.items()}
    return verify.main(["verify.py", *(f"--{name}={value}" for name, value in paths.items())])


@pytest.mark.parametrize("data", ["x.npz", "image.npz"])
def test_the_exported_model_agrees(made, capsys, data):
    assert run(made, data=data) == 0
    shown = capsys.readouterr().out
    assert shown.splitlines()[-1] == "agree within 1e-05 of the output range"
    assert "40" in shown
    assert ("accuracy" in shown) == (data == "x.npz")


@pytest.mark.parametrize("data", ["x.npz", "image.npz"])
def test_layers_are_compared_whatever_the_array_is_called(made, capsys, data):
    assert run(made, data=data, layers=True) == 0
    assert "head" in capsys.readouterr().out


def test_another_model_disagrees_and_a_tolerance_forgives(made, capsys):
    assert run(made, model="float.keras") == 1
    assert capsys.readouterr().out.splitlines()[-1] == "DISAGREE within 1e-05 of the output range"
    assert run(made, model="float.keras", tolerance=1.0) == 0


def test_a_changed_code_disagrees(made, tmp_path):
    data = bytearray((made / "small.tflite").read_bytes())
    codes = np.load(made / "small.record.npz")["stem/kernel|codes"]
    stored = np.moveaxis(codes, 3, 0).tobytes()
    place = bytes(data).index(stored)
    data[place] ^= 0x40
    (tmp_path / "m.tflite").write_bytes(data)
    assert run(made, file=tmp_path / "m.tflite") == 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"model": "none.keras"}, "none.keras: No such file"),
        ({"file": "none.tflite"}, "none.tflite"),
        ({"data": "none.npz"}, "none.npz: No such file"),
        ({"file": "x.npz"}, "x.npz"),
        ({"data": "small.tflite"}, "not a readable .npz"),
        ({"data": "small.record.npz"}, "Expected `x`"),
        ({"tolerance": -1}, "--tolerance=-1.0 is out of range"),
        ({"tolerance": "nan"}, "--tolerance=nan is out of range"),
        ({"tolerance": "small"}, "tolerance"),
        ({"min_agreement": 2}, "--min_agreement=2.0 is out of range"),
        ({"tolerence": 1}, "Did you mean: tolerance"),
    ],
)
def test_mistake_is_one_sentence(made, capsys, flags, words):
    assert run(made, **flags) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert words in err


@pytest.mark.parametrize("name", ["model", "file", "data"])
def test_each_input_is_needed(made, capsys, name):
    flags = {"model": made / "small.keras", "file": made / "small.tflite", "data": made / "x.npz"}
    del flags[name]
    assert verify.main(["verify.py", *(f"--{key}={value}" for key, value in flags.items())]) == 2
    assert f"--{name} is missing" in capsys.readouterr().err


@pytest.mark.parametrize(("length", "cut"), [(0, True), (100, True), (0.5, True)])
def test_truncated_file_is_refused(made, tmp_path, capsys, length, cut):
    data = (made / "small.tflite").read_bytes()
    (tmp_path / "m.tflite").write_bytes(data[: int(length * len(data)) if isinstance(length, float) else length])
    assert run(made, file=tmp_path / "m.tflite") == 2
    assert "m.tflite" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": np.zeros((4, 5, 5, 1), np.float32)}, "shape"),
        ({"x": np.zeros((0, 6, 6, 1), np.float32)}, "no samples"),
        ({"x": np.zeros((4, 6, 6, 1), np.float32), "y": np.zeros(3, int)}, "labels"),
        ({"x": np.zeros((4, 6, 6, 1), np.float32), "y": np.zeros(4)}, "labels"),
    ],
)
def test_data_that_do_not_fit_are_refused(made, tmp_path, capsys, arrays, words):
    np.savez(tmp_path / "bad.npz", **arrays)
    assert run(made, data=tmp_path / "bad.npz") == 2
    assert words in capsys.readouterr().err
