"""Memory of a file in a separate process: more for larger weights, an error for a missing file."""

import keras
import pytest
from keras import layers

from r2keras.export import to_litert
from r2keras.export.runtime.peak_memory import STATUS, peak_memory

pytestmark = pytest.mark.skipif(not STATUS.exists(), reason="needs /proc")


def test_larger_weights_take_more(tmp_path):
    found = []
    for units in (8, 2048):
        path = tmp_path / f"{units}.tflite"
        to_litert(keras.Sequential([keras.Input((512,)), layers.Dense(units)]), path)
        found.append(peak_memory(path))
    weights = 4 * 512 * (2048 - 8)
    assert found[1] - found[0] > 0.9 * weights


def test_a_file_that_does_not_run_is_an_error(tmp_path):
    (tmp_path / "m.tflite").write_bytes(b"no model")
    with pytest.raises(RuntimeError, match=r"Measuring the memory of .*m\.tflite failed"):
        peak_memory(tmp_path / "m.tflite")


def test_elsewhere_there_is_no_figure(tmp_path, monkeypatch):
    monkeypatch.setattr("r2keras.export.runtime.peak_memory.STATUS", tmp_path / "none")
    assert peak_memory(tmp_path / "m.tflite") is None


def test_too_many_threads_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`num_threads`.*from 1 to 1024.*num_threads=100000"):
        peak_memory(tmp_path / "m.tflite", 100_000)
