"""Verification of files against Keras, on figures known beforehand."""

import keras
import numpy as np
import pytest
from keras import layers

from r2keras.export import Verification, to_litert, verify
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
    [(np.zeros(32), "integer class labels"), (np.zeros(5, int), "one label for each of 32 samples")],
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
