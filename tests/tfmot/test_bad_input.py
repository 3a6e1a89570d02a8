"""One clear sentence for each input that TFMOT would reject late or compute wrongly."""

import importlib.util
import sys

import keras
import numpy as np
import pytest
import tf_keras

import r2keras
from r2keras import PaletteSpec, QuantSpec, Recipe
from r2keras.tfmot import annotate
from tests.tfmot.nets import RECIPE, applied, keras3_net, net

layers = tf_keras.layers
ALL = Recipe([(".*", QuantSpec(num_bits=4))])


class Subclassed(tf_keras.Model):
    """A model without a graph."""


def nested():
    inner = tf_keras.Sequential([layers.Input((4,)), layers.Dense(3)], name="inner")
    return tf_keras.Sequential([layers.Input((4,)), inner, layers.Dense(2)], name="outer")


def masked():
    words = layers.Embedding(9, 3, mask_zero=True, name="words")
    return tf_keras.Sequential([layers.Input((4,)), words, layers.LSTM(2)])


def broken():
    model = net()
    model.get_layer("head").kernel.assign(np.full((5, 3), np.nan))
    return model


def mixed():
    return Recipe([("it/gru_cell/kernel", PaletteSpec(min_size=0)), ("it", QuantSpec())])


@pytest.mark.parametrize(
    ("make", "recipe", "error", "match"),
    [
        (keras3_net, ALL, TypeError, r"the Keras 3 model 'net'.*r2keras\.prepare"),
        (lambda: Subclassed(name="mine"), ALL, TypeError, "the subclassed Subclassed 'mine'"),
        (lambda: "net", ALL, TypeError, "of tf_keras"),
        (nested, ALL, ValueError, "TFMOT quantizes no nested models.*'outer', which contains the model 'inner'"),
        (lambda: tf_keras.Sequential([layers.Dense(2)], name="raw"), ALL, ValueError, "'raw', which is not built"),
        (masked, ALL, ValueError, "'words', which makes a mask"),
        (broken, ALL, ValueError, "head/kernel has 15 NaN"),
        (net, {"rules": []}, TypeError, "an r2keras.Recipe"),
        (net, Recipe([("nothing", QuantSpec()), *ALL.rules]), ValueError, "pattern 'nothing', which matches nothing"),
        (net, Recipe([(".*", None)]), ValueError, "leaves every kernel of 'net' float"),
        (
            lambda: tf_keras.Sequential([layers.Input((4, 3)), layers.GRU(4, name="it")]),
            mixed(),
            ValueError,
            "'it' both palettes and uniform grids",
        ),
    ],
)
def test_annotate_says_what_is_wrong(make, recipe, error, match):
    with pytest.raises(error, match=match):
        annotate(make(), recipe)


def test_a_palette_that_does_not_fit_is_said_when_it_is_applied():
    model = tf_keras.Sequential([layers.Input((4,)), layers.Dense(3, name="it")])
    with pytest.raises(ValueError, match="does not fit the weight"):
        applied(model, Recipe([("it", PaletteSpec(dim=4, min_size=0))]))


def test_the_door_for_keras_3_says_where_tf_keras_goes():
    with pytest.raises(TypeError, match=r"Use r2keras\.tfmot for models of tf_keras"):
        r2keras.prepare(net(), RECIPE)


REQUIREMENTS = importlib.util.find_spec("r2keras.tfmot.requirements")


def requirements():
    """Runs the module that checks what is installed, once more."""
    REQUIREMENTS.loader.exec_module(importlib.util.module_from_spec(REQUIREMENTS))


def test_another_backend_is_refused(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ImportError, match="KERAS_BACKEND=tensorflow"):
        requirements()


def test_tfmot_not_installed_is_said(monkeypatch):
    find = _without(importlib.util.find_spec, "tensorflow_model_optimization")
    monkeypatch.setattr(importlib.util, "find_spec", find)
    assert "tensorflow_model_optimization" in sys.modules
    with pytest.raises(ImportError, match="pip install tensorflow-model-optimization"):
        requirements()


def _without(find, hidden):
    return lambda name, *rest: None if name == hidden else find(name, *rest)


def test_subclassed_models_are_not_exported(tmp_path):
    with pytest.raises(TypeError, match="the subclassed Subclassed"):
        r2keras.export.to_litert(Subclassed(name="mine"), tmp_path / "m.tflite")
    with pytest.raises(ValueError, match="is not built"):
        r2keras.export.to_litert(tf_keras.Sequential([layers.Dense(2)]), tmp_path / "m.tflite")
