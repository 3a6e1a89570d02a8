"""Training steps of the nets: a regularizer on every kernel, its removal, and the evaluation."""

import keras
import numpy as np
import pytest

from r2keras import Kurtosis, R2Linf, R2Margin
from r2keras.workloads import nets, training

pytestmark = pytest.mark.backends


def net():
    return nets.build("cnn", (8, 8, 1), 10)


def losses(model):
    return [float(loss) for loss in model.losses]


def test_every_kernel_carries_one():
    model = net()
    assert training.kernel_layers(model) == ["stem", "block1_conv", "block2_conv", "head"]
    assert len(losses(training.regularized(model, R2Linf()))) == 4
    assert training.regularized(model, None) is model


def test_kurtosis_is_a_mean_without_the_first_kernel():
    model = net()
    found = losses(training.regularized(model, Kurtosis(0.6)))
    kernels = [np.asarray(model.get_layer(n).kernel) for n in training.kernel_layers(model)[1:]]
    expected = [0.2 * (np.mean((k - k.mean()) ** 4) / k.std() ** 4 - 1.8) ** 2 for k in kernels]
    # One of the kernels is nearly uniform: what is left of its loss is a difference of equal numbers.
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-8)


def test_off_again():
    model = training.regularized(net(), R2Margin())
    plain = training.without_regularizers(model)
    assert len(losses(model)) == 4 and not losses(plain)
    x = np.random.default_rng(0).normal(size=(3, 8, 8, 1)).astype("float32")
    np.testing.assert_array_equal(training.scores(plain, x), training.scores(model, x))


def test_logits():
    softmax = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, "softmax")])
    assert training.gives_logits(net()) and not training.gives_logits(softmax)
