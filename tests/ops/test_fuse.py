"""Fused functions: the same values eagerly and within a compiled step, on every backend, for every shape."""

import keras
import numpy as np
import pytest
from keras import ops

from r2keras.ops.fuse import fused
from r2keras.ops.range_quantize import quantize_span
from tests.gradients import gradients

pytestmark = pytest.mark.backends

X = np.random.default_rng(0).normal(size=(5, 7)).astype("float32")


@fused
def twice_and_sum(x, y):
    return 2.0 * x + y, ops.sum(x * y)


def test_eager_values():
    both, total = twice_and_sum(ops.convert_to_tensor(X), ops.ones((5, 7)))
    np.testing.assert_allclose(ops.convert_to_numpy(both), 2 * X + 1, rtol=1e-6)
    np.testing.assert_allclose(float(total), X.sum(), rtol=1e-4)


@pytest.mark.parametrize("rows", [[5], [5, 3, 5]], ids=["one shape", "a last batch"])
def test_values_inside_a_model(rows):
    inputs = keras.Input((7,))
    model = keras.Model(inputs, keras.layers.Lambda(lambda x: twice_and_sum(x, x)[0], output_shape=(7,))(inputs))
    for count in rows:
        np.testing.assert_allclose(model.predict(X[:count], verbose=0), 3 * X[:count], rtol=1e-6)


class Rounded(keras.layers.Layer):
    """Rounds to a range of which one end learns."""

    def build(self, shape):
        self.high = self.add_weight(shape=(), initializer="ones", name="high")

    def call(self, x):
        return quantize_span(x, -1.0, self.high + 0.0, -8, 7)


def test_a_compiled_step_moves_as_the_eager_gradient_says():
    """One step of gradient descent in `fit`, which compiles, against the gradient taken eagerly."""
    layer = Rounded()
    model = keras.Sequential([keras.Input((7,)), layer])
    model.compile(keras.optimizers.SGD(1.0), lambda y, found: ops.sum(found * y, axis=-1))
    upstream = np.random.default_rng(1).normal(size=X.shape).astype("float32") / len(X)

    def loss(high):
        return ops.sum(quantize_span(X, -1.0, high, -8, 7) * ops.convert_to_tensor(upstream))

    expected = gradients(loss, np.float32(1.0))[0]
    model.fit(X, len(X) * upstream, batch_size=len(X), epochs=1, verbose=0)
    np.testing.assert_allclose(1.0 - float(ops.convert_to_numpy(layer.high)), expected, rtol=1e-3, atol=1e-4)
