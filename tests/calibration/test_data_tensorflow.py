"""Calibration data as a tf.data.Dataset."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import r2keras
from r2keras import calibration
from r2keras.calibration import data as calibration_data
from r2keras.calibration.data import batches

X = np.arange(40, dtype="float32").reshape(10, 4)
RECIPE = r2keras.Recipe([(".*", r2keras.QuantSpec(num_bits=4, activation_bits=8))])
W3 = r2keras.Recipe([(".*", r2keras.QuantSpec(num_bits=3))])


def small_of(net):
    return r2keras.finalize(r2keras.prepare(net, W3))


def model():
    return keras.Sequential([keras.Input((4,)), layers.Dense(2)])


@pytest.mark.parametrize("size", [1, 6])
def test_a_dataset_gives_the_batches_of_an_array(size):
    data = tf.data.Dataset.from_tensor_slices(X).batch(size)
    for (batch,), (expected,) in zip(batches(model(), data, 4), batches(model(), X, 4), strict=True):
        np.testing.assert_array_equal(batch, expected)


@pytest.mark.parametrize(
    "run",
    [
        lambda net, data, **kwargs: calibration.set_activation_ranges(r2keras.prepare(net, RECIPE), data, **kwargs),
        calibration.reestimate_batch_norm,
        calibration.weight_sensitivity,
        lambda net, data, **kwargs: calibration.correct_bias(net, net, data, **kwargs),
        lambda net, data, **kwargs: calibration.adaround(net, *small_of(net), data, **kwargs),
        lambda net, data, **kwargs: r2keras.calibrate(net, W3, data, **kwargs),
    ],
    ids=["ranges", "batch norm", "sensitivity", "bias", "adaround", "calibrate"],
)
def test_a_dataset_without_end_is_refused_by_every_step(run):
    net = keras.Sequential(
        [keras.Input((4,)), layers.Dense(3), layers.BatchNormalization(), layers.ReLU(), layers.Dense(2)]
    )
    data = tf.data.Dataset.from_tensor_slices(X).batch(6).repeat()
    with pytest.raises(ValueError, match=r"data that end, or max_samples=.*repeats without end.*take\(8\)"):
        run(net, data)
    run(net, data, max_samples=20)


def test_a_dataset_of_unknown_length_meets_a_bound(monkeypatch):
    monkeypatch.setattr(calibration_data, "MAX_SAMPLES", 12)
    data = tf.data.Dataset.from_tensor_slices(X).batch(5).filter(lambda x: True)
    assert sum(len(batch[0]) for batch in batches(model(), data)) == 10
    with pytest.warns(UserWarning, match="the first 12 samples"):
        assert sum(len(batch[0]) for batch in batches(model(), data.repeat().filter(lambda x: True))) == 12


def test_a_finite_dataset_is_read_whole(monkeypatch):
    monkeypatch.setattr(calibration_data, "MAX_SAMPLES", 12)
    data = tf.data.Dataset.from_tensor_slices(X).batch(5).repeat(3)
    assert sum(len(batch[0]) for batch in batches(model(), data)) == 30


def test_labels_in_a_dataset_are_refused():
    data = tf.data.Dataset.from_tensor_slices((X, np.zeros(10))).batch(6)
    with pytest.raises(ValueError, match=r"without labels.*data\.map\(lambda x, y: x\)"):
        list(batches(model(), data))


def test_an_unbatched_dataset_is_refused():
    with pytest.raises(ValueError, match=r"\(samples, 4\)"):
        list(batches(model(), tf.data.Dataset.from_tensor_slices(X)))
