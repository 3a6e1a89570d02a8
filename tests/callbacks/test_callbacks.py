"""FreezeBatchNorm: statistics stop at the epoch, scale and offset go on learning, the step uses the statistics."""

import keras
import numpy as np
import pytest

import r2keras
from r2keras.callbacks import FreezeBatchNorm

pytestmark = pytest.mark.backends
RNG = np.random.default_rng(5)
X, Y = RNG.normal(3, 2, (32, 6)).astype("float32"), RNG.normal(size=(32, 2)).astype("float32")


class Watch(keras.callbacks.Callback):
    """Notes statistics and learned weights after every epoch."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_epoch_end(self, epoch, logs=None):
        norm = self.model.get_layer("norm")
        parts = (norm.moving_mean, norm.moving_variance, norm.gamma, norm.beta)
        self.seen.append([np.array(keras.ops.convert_to_numpy(part)) for part in parts])


def student(seed=0):
    keras.utils.set_random_seed(seed)
    parts = [keras.layers.Dense(5, name="first"), keras.layers.BatchNormalization(momentum=0.5, name="norm")]
    model = keras.Sequential([keras.Input((6,)), *parts, keras.layers.Dense(2, name="head")])
    student = r2keras.prepare(model, r2keras.Recipe([(".*", r2keras.QuantSpec(num_bits=4, range="min_max"))]))
    student.compile(keras.optimizers.Adam(0.05), "mse", jit_compile=False)
    return student


def test_statistics_stop_and_the_rest_learns_on():
    model, watch = student(), Watch()
    count = len(model.trainable_variables)
    model.fit(X, Y, batch_size=16, epochs=4, verbose=0, callbacks=[FreezeBatchNorm(epoch=2), watch])
    first, second, third, fourth = watch.seen
    for place in (0, 1):
        assert not np.allclose(first[place], second[place])
        np.testing.assert_array_equal(second[place], third[place])
        np.testing.assert_array_equal(second[place], fourth[place])
    for place in (2, 3):
        assert not np.allclose(third[place], fourth[place])
    assert len(model.trainable_variables) == count


def test_training_normalises_with_the_statistics():
    model = student()
    model.fit(X, Y, batch_size=16, epochs=1, verbose=0, callbacks=[FreezeBatchNorm(epoch=0)])
    outputs = [keras.ops.convert_to_numpy(model(X[:4], training=training)) for training in (True, False)]
    np.testing.assert_array_equal(*outputs)
    assert r2keras.finalize(model)[1].tensors


@pytest.mark.parametrize("epoch", [-1, 1.5, True, None])
def test_bad_epoch(epoch):
    with pytest.raises((TypeError, ValueError), match="epoch"):
        FreezeBatchNorm(epoch)


def test_nothing_to_freeze():
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="no batch normalization"):
        model.fit(X, Y, verbose=0, callbacks=[FreezeBatchNorm(0)])
