"""Verification of files against Keras, on figures known beforehand."""

import keras
import numpy as np
import pytest
from keras import layers

from r2keras.export import LiteRTModel, Verification, to_litert, verify
from r2keras.export.runtime import verification
from tests.export.models import random_inputs


def test_the_exported_file_passes(exported):
    model, _, path, _ = exported
    found = verify(model, path, random_inputs(model, 50))
    assert found.passed()
    assert found.num_samples == 50
    assert found.agreement == 1.0
    assert found.model_accuracy is None


def test_accuracy_is_the_share_of_right_classes(exported):
    model, _, path, _ = exported
    x = random_inputs(model, 40)[0]
    labels = np.asarray(model(x)).argmax(axis=1)
    labels[:10] = (labels[:10] + 1) % 4
    found = verify(model, path, (x, labels))
    assert found.model_accuracy == found.file_accuracy == pytest.approx(0.75)
    assert verify(model, path, x, labels=labels[:, None]) == found
    assert "75.00% in Keras, 75.00% in the file" in str(found)


def test_a_changed_model_is_told_apart(exported):
    model, _, path, _ = exported
    other = keras.models.clone_model(model)
    other.set_weights([w + 0.01 for w in model.get_weights()])
    found = verify(other, path, random_inputs(model))
    assert not found.passed()
    assert found.max_abs_difference > 1e-3


def test_not_a_number_never_passes():
    assert not Verification(float("nan"), 1.0, 1.0, None, None, 3).passed()


@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_a_single_unit_decides_by_its_threshold(activation, tmp_path):
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1, activation=activation)])
    model.set_weights([np.ones((1, 1)), np.zeros(1)])
    to_litert(model, tmp_path / "model.tflite")
    x = np.array([[-2.0], [-1.0], [1.0], [2.0]], np.float32)
    found = verify(model, tmp_path / "model.tflite", (x, np.array([0, 0, 1, 0])))
    assert (found.agreement, found.file_accuracy) == (1.0, 0.75)


def test_outputs_that_are_no_classification_have_no_agreement(tmp_path):
    model = keras.Sequential([keras.Input((4, 4, 1)), layers.Conv2D(3, 3)])
    to_litert(model, tmp_path / "model.tflite")
    found = verify(model, tmp_path / "model.tflite", random_inputs(model))
    assert found.passed()
    assert found.agreement is None
    assert "same decision" not in str(found)


@pytest.mark.parametrize(
    ("labels", "words"),
    [(np.zeros(32), "integer class labels.*float64.*argmax"), (np.zeros(5, int), "one label for each of 32 samples")],
)
def test_labels_that_do_not_fit_are_refused(exported, labels, words):
    model, _, path, _ = exported
    with pytest.raises(ValueError, match=words):
        verify(model, path, random_inputs(model)[0], labels=labels)


def test_labels_given_twice_are_refused(exported):
    model, _, path, _ = exported
    labels = np.zeros(32, int)
    with pytest.raises(ValueError, match="one tuple"):
        verify(model, path, (random_inputs(model)[0], labels), labels=labels)


@pytest.mark.parametrize("rows", [slice(0, 32), slice(0, 8)])
def test_not_a_number_is_no_decision(exported, rows):
    model, _, path, _ = exported
    x = random_inputs(model)[0]
    x[rows] = np.nan
    count = len(x[rows])
    found = verify(model, path, (x, np.zeros(len(x), int)))
    assert found.agreement == 1 - count / len(x)
    assert found.num_nan == count
    # A ReLU may make 0 of "not a number", in Keras or in the file, by the instructions that it is compiled to.
    assert min(found.model_accuracy, found.file_accuracy) <= found.agreement
    assert not found.passed()
    assert not found.passed(min_agreement=0.99)
    assert f"not a number        {count} of {len(x)} samples" in str(found)


def test_equal_infinities_agree(tmp_path):
    model = keras.Sequential([keras.Input((4,)), layers.ReLU()])
    to_litert(model, tmp_path / "model.tflite")
    x = random_inputs(model)[0]
    x[:3] = np.inf
    found = verify(model, tmp_path / "model.tflite", x)
    assert found.max_abs_difference == 0
    assert found.passed()


def test_a_softmax_over_one_class_agrees(tmp_path):
    """Its output is 1 up to rounding, so that its range is nothing but rounding."""
    model = keras.Sequential([keras.Input((4,)), layers.Dense(1), layers.Softmax()])
    to_litert(model, tmp_path / "model.tflite")
    found = verify(model, tmp_path / "model.tflite", random_inputs(model, 50))
    assert found.passed()
    assert found.agreement == 1
    assert found.output_range == pytest.approx(1)


@pytest.mark.parametrize(
    ("values", "output_range"),
    [([3.0, 3.0], 3.0), ([0.0, 0.0], 1.0), ([63.5, 64.0], 2.0), ([-1.0, 3.0], 4.0), ([np.inf, 1.0, 2.0], 1.0)],
)
def test_range_is_never_below_the_rounding_of_float32(values, output_range):
    assert verification._distance(np.array(values), np.array(values)) == (0, output_range)


@pytest.mark.parametrize("dtype", ["int32", "bool"])
def test_outputs_that_are_not_floats_are_compared(dtype, tmp_path):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.ops.cast(inputs, dtype))
    to_litert(model, tmp_path / "model.tflite")
    assert verify(model, tmp_path / "model.tflite", random_inputs(model)).passed()


def test_the_worst_of_several_outputs_counts(tmp_path):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, [layers.Dense(3)(inputs), layers.Dense(2)(inputs)])
    to_litert(model, tmp_path / "model.tflite")
    other = keras.models.clone_model(model)
    other.set_weights([*model.get_weights()[:2], -model.get_weights()[2], model.get_weights()[3]])
    x = random_inputs(model)[0]
    assert verify(model, tmp_path / "model.tflite", x).agreement == 1
    assert verify(other, tmp_path / "model.tflite", x).agreement == 0


def test_open_sizes_are_those_of_the_data(tmp_path):
    """At its smallest size the file does not fit together; inputs of different rank are open at once."""
    image, sound = keras.Input((None, None, 3)), keras.Input((None, 3))
    model = keras.Model([image, sound], [layers.Conv2D(2, 3)(image), layers.Conv1D(2, 4)(sound)])
    path = tmp_path / "model.tflite"
    to_litert(model, path)
    rng = np.random.default_rng(0)
    for height, length in ((6, 9), (5, 4)):
        x = [rng.normal(size=(4, height, 7, 3)), rng.normal(size=(4, length, 3))]
        assert verify(model, path, [array.astype(np.float32) for array in x]).passed()
    with pytest.raises(ValueError, match=r"Expected arrays that .*LiteRT fails"):
        LiteRTModel(path).predict([np.zeros((1, 2, 2, 3)), np.zeros((1, 4, 3))])
    with pytest.raises(ValueError, match="open input sizes, and does not run at"):
        LiteRTModel(path).latency()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (np.zeros((3, 15)), r"shapes \[\(-1, 16\)\].*shapes \(3, 15\)"),
        (np.zeros((0, 16)), "at least one sample"),
        (np.float32(3), r"shapes \(\)"),
        (np.zeros((3, 16), "U4"), "arrays of numbers.*<U4"),
        (np.zeros((3, 16), complex), "arrays of numbers.*complex128"),
        ([np.zeros((3, 16))] * 2, r"one array for each of the inputs 'keras_tensor\w*'. Received: 2 arrays"),
        ({"other": np.zeros((3, 16))}, r"keys \['keras_tensor\w*'\]"),
    ],
)
def test_wrong_data_are_called_data(exported, data, words):
    with pytest.raises(ValueError, match=f"argument `data`.*{words}"):
        verify(exported[0], exported[2], data)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda model, path: verify(path, model, np.zeros((1, 16))), "`model`.*the Keras model that was exported"),
        (lambda model, path: verify(model, model, np.zeros((1, 16))), r"`path`.*the path of a .*Received: <class"),
        (lambda model, path: LiteRTModel(model), r"`path`.*the path of a \.tflite"),
    ],
)
def test_arguments_in_the_wrong_place_are_named(exported, call, words):
    with pytest.raises(TypeError, match=words):
        call(exported[0], exported[2])


def test_a_model_that_takes_a_dict_gets_its_arrays_by_key(tmp_path):
    inputs = {"second": keras.Input((3,), name="b"), "first": keras.Input((3,), name="a")}
    model = keras.Model(inputs, layers.Subtract()([inputs["first"], inputs["second"]]))
    to_litert(model, tmp_path / "m.tflite")
    by_name = {"b": np.ones((5, 3), np.float32), "a": np.zeros((5, 3), np.float32)}
    for data in (by_name, [by_name[tensor.name] for tensor in model.inputs]):
        assert verify(model, tmp_path / "m.tflite", data).max_abs_difference == 0
