"""r2keras-compress: mistakes give one sentence; one run writes what it names."""

from __future__ import annotations

import json
import os
import signal
import time

import keras
import numpy as np
import pytest

from r2keras.cli import compress
from tests import scripts


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model, inputs with labels, and inputs alone."""
    folder = tmp_path_factory.mktemp("made")
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((16,)), keras.layers.Dense(32, activation="relu"), keras.layers.Dense(4)])
    model.save(folder / "m.keras")
    x = np.random.default_rng(0).normal(size=(64, 16)).astype("float32")
    y = np.argmax(model.predict(x, verbose=0), axis=1)
    np.savez(folder / "x.npz", x=x, y=y)
    np.savez(folder / "many.npz", x=x, y=y[:10])
    return folder


def run(made, tmp_path, **flags):
    given = {"model": made / "m.keras", "data": made / "x.npz", "out": tmp_path / "out"} | flags
    return compress.main(["compress.py", *(f"--{name}={value}" for name, value in given.items())])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"out": ""}, "--out is missing"),
        ({"model": "none.keras"}, "none.keras: No such file"),
        ({}, "max_bytes, max_drop or both"),
        ({"max_drop": 0.1, "bits": "two"}, "--bits=two is not a list of numbers"),
        ({"max_drop": 0.1, "bits": "9"}, "`bits`"),
        ({"max_drop": 0.1, "target": "ethos-u"}, "`target`"),
        ({"max_drop": 0.1, "data": "many.npz"}, "one label per sample (64)"),
    ],
)
def test_mistake_is_one_sentence(made, tmp_path, capsys, flags, words):
    if flags.get("data") == "many.npz":
        flags = flags | {"data": made / "many.npz"}
    assert run(made, tmp_path, **flags) == 2
    out, err = capsys.readouterr()
    assert words in err
    assert (out, err.count("\n")) == ("", 1)
    assert not (tmp_path / "out").exists()


def test_a_run_writes_file_recipe_and_report(made, tmp_path, capsys):
    assert run(made, tmp_path, max_drop=0.1, bits="8", palettes="false") == 0
    out, err = capsys.readouterr()
    assert "chosen" in out
    assert "Measuring the sensitivity of each layer ..." in err
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"model.tflite", "recipe.yaml", "report.html"} <= names


def test_limits_that_nothing_meets_are_exit_code_1(made, tmp_path, capsys):
    assert run(made, tmp_path, max_drop=0.0, max_bytes=1400, bits="2", palettes="false") == 1
    assert "Nothing meets" in capsys.readouterr().out


def rows_in(folder):
    path = folder / "candidates.json"
    return json.loads(path.read_text()) if path.exists() else []


def test_a_killed_run_goes_on_and_ends_as_one_that_was_not_killed(made, tmp_path, capsys):
    given = {"max_drop": 0.02, "bits": "8,4", "palettes": "false"}
    assert run(made, tmp_path, **given) == 0
    undisturbed, folder = tmp_path / "out", tmp_path / "killed"
    flags = {"model": made / "m.keras", "data": made / "x.npz", **given, "out": folder}
    script = "tools/compress.py", *(f"--{name}={value}" for name, value in flags.items())
    with scripts.started_warm(*script, cwd=tmp_path) as (pid, finish):
        while len(rows_in(folder)) < 2:
            os.kill(pid, 0)  # Raises if it has ended.
            time.sleep(0.02)
        os.kill(pid, signal.SIGKILL)
        assert finish()[0] == -signal.SIGKILL
    assert not (folder / "model.tflite").exists()
    first = rows_in(folder)
    assert run(made, tmp_path, **given, out=folder) == 0
    assert rows_in(folder)[: len(first)] == first
    rows = [[{**row, "seconds": 0} for row in rows_in(one)] for one in (undisturbed, folder)]
    assert rows[0] == rows[1] and len(rows[0]) > len(first)
    assert (folder / "model.tflite").read_bytes() == (undisturbed / "model.tflite").read_bytes()
