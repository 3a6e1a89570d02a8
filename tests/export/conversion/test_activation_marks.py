"""A model with quantized activations through the exact float route: the same grids run as plain operators."""

import keras
import numpy as np
import pytest
from keras import layers

from r2keras import QuantSpec, Recipe, calibrate, export

X = np.random.default_rng(0).normal(size=(64, 6, 6, 3)).astype("float32")


@pytest.mark.parametrize("bits", [2, 8])
def test_file_computes_what_keras_does(bits, tmp_path):
    from ai_edge_litert.interpreter import Interpreter

    net = [layers.Conv2D(4, 3), layers.BatchNormalization(), layers.ReLU(), layers.Flatten(), layers.Dense(2)]
    recipe = Recipe([(".*", QuantSpec(num_bits=4, activation_bits=bits))])
    model, record = calibrate(keras.Sequential([keras.Input(X.shape[1:]), *net]), recipe, X, input_bits=8)
    assert len(record.activations) == 2
    export.to_litert(model, tmp_path / "m.tflite", record)
    interpreter = Interpreter(str(tmp_path / "m.tflite"))
    place = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(place, X.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(place, X)
    interpreter.invoke()
    found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    # A value within float noise of a tie may fall on either of two levels.
    wrong = np.abs(found - model.predict(X, verbose=0)).max(axis=1)
    assert np.mean(wrong > 1e-4) < 0.1 and np.median(wrong) < 1e-5
