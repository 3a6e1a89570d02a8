"""Operators of a file timed one by one: their weights, bytes and forms; states; bad input."""

import keras
import numpy as np
import pytest

import r2keras
from r2keras.export import profile, to_litert
from r2keras.export.devices import profile as module

FEW = {"rounds": 2, "runs": 1}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Returns the paths of one net's exact, dynamic and float file."""
    folder = tmp_path_factory.mktemp("profile")
    layers = [keras.Input((16,)), keras.layers.Dense(16, activation="relu", name="body"), keras.layers.Softmax()]
    model = keras.Sequential([*layers, keras.layers.Dense(4, name="head")])
    recipe = r2keras.Recipe([(".*", r2keras.QuantSpec(num_bits=4, granularity="per_channel"))])
    small, record = r2keras.calibrate(model, recipe, np.ones((4, 16), np.float32), progress=False)
    to_litert(model, folder / "float.tflite")
    to_litert(small, folder / "exact.tflite", record)
    to_litert(small, folder / "dynamic.tflite", record, activations="dynamic")
    return folder


@pytest.mark.parametrize("name, form, runs_on", [("exact", "decoded", "LiteRT"), ("dynamic", "packed", "XNNPACK")])
def test_forms_of_weights(files, name, form, runs_on):
    found = profile(files / f"{name}.tflite", **FEW)
    assert [(row.kind, row.weight) for row in found.rows] == [
        ("FULLY_CONNECTED", "body/kernel"),
        ("SOFTMAX", ""),
        ("FULLY_CONNECTED", "head/kernel"),
    ]
    for row in found.rows[::2]:
        assert (row.form, row.runs_on) == (form, runs_on)
    # 4-bit codes and a bias of each layer; scales of weights are not constants of the file.
    assert found.rows[0].num_bytes >= 16 * 16 // 2 + 16 * 4 and found.rows[1].num_bytes == 0
    assert all(row.median_ms > 0 for row in found.rows) and found.total_ms > 0
    assert found.sum_ms == sum(row.median_ms for row in found.rows)


def test_each_part_gets_what_the_whole_file_computes(files, monkeypatch):
    """The parts compute one after another what the file computes."""
    inputs = {}
    monkeypatch.setattr(
        module.LiteRTSession, "times", lambda self, arrays, runs: inputs.setdefault(id(self), (self, arrays)) and [1.0]
    )
    profile(files / "exact.tflite", **FEW)
    steps = [(session.run(arrays)[0], arrays[0]) for session, arrays in inputs.values()]
    # The first session is the whole file. Each operator's output is another one's input, the last one's the file's.
    (whole, x), *operators = steps
    for _ in range(3):
        x = next(out for out, array in operators if array.shape == x.shape and np.allclose(array, x))
    np.testing.assert_allclose(x, whole, atol=1e-6)
    assert len(operators) == 3


def test_built_in_kernels(files):
    found = profile(files / "float.tflite", xnnpack=False, **FEW)
    assert {row.runs_on for row in found.rows} == {"LiteRT"} and {row.form for row in found.rows} == {"float", ""}
    assert "built-in" in str(found) and found.to_dict()["rows"][0]["form"] == "float"


def test_loops_are_one_operator(tmp_path):
    model = keras.Sequential([keras.Input((6, 4), batch_size=1), keras.layers.SimpleRNN(3, name="rnn")])
    to_litert(model, tmp_path / "loop.tflite")
    loop = next(row for row in profile(tmp_path / "loop.tflite", **FEW).rows if row.kind == "WHILE")
    assert "rnn" in loop.weight and loop.form == "float" and loop.num_bytes >= 36 and loop.median_ms > 0


def test_weights_that_are_decoded_once(tmp_path):
    model = keras.Sequential([keras.Input((32,)), keras.layers.Dense(64, name="head")])
    recipe = r2keras.Recipe([(".*", r2keras.PaletteSpec(num_bits=4))])
    small, record = r2keras.calibrate(model, recipe, np.ones((4, 32), np.float32), progress=False)
    to_litert(small, tmp_path / "size.tflite", record)
    rows = profile(tmp_path / "size.tflite", **FEW).rows
    product = next(row for row in rows if row.kind == "FULLY_CONNECTED")
    assert product.form == "decoded once" and product.median_ms > 0
    assert {row.median_ms for row in rows if row.kind in ("CALL_ONCE", "VAR_HANDLE", "READ_VARIABLE")} == {None}


def test_a_fused_lstm_keeps_its_states(tmp_path):
    model = keras.Sequential([keras.Input((6, 4), batch_size=1), keras.layers.LSTM(4, name="lstm")])
    to_litert(model, tmp_path / "fused.tflite", recurrent="fused")
    rows = {row.kind: row for row in profile(tmp_path / "fused.tflite", **FEW).rows}
    assert rows["UNIDIRECTIONAL_SEQUENCE_LSTM"].median_ms > 0


def test_many_operators_share_the_last_row_of_the_table():
    row = r2keras.export.ProfileRow("ADD", "", "", "XNNPACK", 8, 0.5)
    shown = str(r2keras.export.Profile("m.tflite", (row,) * 32, 20.0, 2, True))
    assert "2 faster ones" in shown and "2 threads" in shown and "16.0000 ms; the whole file 20.0000 ms" in shown


@pytest.mark.parametrize("arguments, expected", [({"rounds": 0}, "`rounds`"), ({"runs": 0}, "`runs`")])
def test_numbers_out_of_range(files, arguments, expected):
    with pytest.raises(ValueError, match=expected):
        profile(files / "float.tflite", **arguments)


def test_files_that_do_not_run(tmp_path):
    (tmp_path / "broken.tflite").write_bytes(b"TFL3" * 10)
    with pytest.raises(ValueError, match=r"broken\.tflite"):
        profile(tmp_path / "broken.tflite")
    with pytest.raises(FileNotFoundError, match=r"missing\.tflite"):
        profile(tmp_path / "missing.tflite")


def test_a_file_without_an_operator(tmp_path):
    inputs = keras.Input((4,))
    to_litert(keras.Model(inputs, keras.layers.Identity()(inputs)), tmp_path / "identity.tflite")
    with pytest.raises(ValueError, match="an operator that reads its inputs"):
        profile(tmp_path / "identity.tflite", **FEW)
