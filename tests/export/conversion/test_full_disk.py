"""A disk that is full while the converter runs."""

import keras
import pytest
import tensorflow as tf

from r2keras.export import to_litert


def test_a_full_disk_is_not_a_fault_of_the_model(tmp_path, monkeypatch):
    def save(*args, **kwargs):
        raise tf.errors.ResourceExhaustedError(None, None, "/tmp/x/variables; No space left on device")

    monkeypatch.setattr(tf.saved_model, "save", save)
    model = keras.Sequential([keras.Input((3, 2)), keras.layers.SimpleRNN(2)])
    with pytest.raises(OSError, match=r"No space left on device: the converter writes to .* set TMPDIR"):
        to_litert(model, tmp_path / "m.tflite")
    assert not (tmp_path / "m.tflite").exists()
