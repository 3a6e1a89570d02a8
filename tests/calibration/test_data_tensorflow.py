"""Calibration data as a tf.data.Dataset."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from r2keras.calibration.data import batches

X = np.arange(40, dtype="float32").reshape(10, 4)


def model():
    return keras.Sequential([keras.Input((4,)), layers.Dense(2)])


def test_a_dataset_keeps_its_batches():
    found = list(batches(model(), tf.data.Dataset.from_tensor_slices(X).batch(6)))
    assert [len(batch[0]) for batch in found] == [6, 4]
    np.testing.assert_array_equal(np.concatenate([batch[0] for batch in found]), X)


def test_labels_in_a_dataset_are_refused():
    data = tf.data.Dataset.from_tensor_slices((X, np.zeros(10))).batch(6)
    with pytest.raises(ValueError, match=r"without labels.*data\.map\(lambda x, y: x\)"):
        list(batches(model(), data))


def test_an_unbatched_dataset_is_refused():
    with pytest.raises(ValueError, match=r"\(samples, 4\)"):
        list(batches(model(), tf.data.Dataset.from_tensor_slices(X)))
