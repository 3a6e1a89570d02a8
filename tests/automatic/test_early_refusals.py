"""Mistakes that `compress` tells before it rounds kernels, and a model that compression only makes larger."""

import keras
import numpy as np
import pytest

import r2keras


def net(*layers):
    """Returns a small classifier and its inputs."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([*layers, keras.layers.Dense(3, activation="softmax", name="head")])
    return model, np.random.default_rng(0).normal(size=(32, *model.input_shape[1:])).astype("float32")


@pytest.mark.parametrize("setting", [{"integer": "yes"}, {"palettes": 1}])
def test_settings_of_another_type(setting):
    model, x = net(keras.Input((4,)))
    with pytest.raises(TypeError, match="True, False or None"):
        r2keras.compress(model, x, max_drop=0.1, progress=False, **setting)


def test_labels_as_rows_of_zeros_and_ones():
    model, x = net(keras.Input((4,)))
    with pytest.raises(ValueError, match=r"labels\.argmax\(axis=1\)"):
        r2keras.compress(model, x, labels=np.eye(3)[np.arange(32) % 3], max_drop=0.1, progress=False)


def test_a_recurrent_model_for_a_microcontroller_is_refused_before_kernels_are_rounded(tmp_path):
    model, x = net(keras.Input((3, 2)), keras.layers.SimpleRNN(3, name="rnn"))
    with pytest.raises(ValueError, match="rnn"):
        r2keras.compress(model, x, max_drop=0.1, target="mcu", folder=tmp_path, progress=False)
    assert not (tmp_path / "rounding").exists()


def test_a_model_that_compression_makes_larger_is_told():
    model, x = net(keras.Input((2,)))
    with pytest.warns(UserWarning, match=r"The float file takes [\d,]+ bytes, .* Use the float file\."):
        result = r2keras.compress(model, x, max_drop=0.5, bits=(8,), palettes=False, progress=False)
    assert result.chosen["bytes"] >= result.rows[0]["bytes"]
