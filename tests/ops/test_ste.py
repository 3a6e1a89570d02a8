"""Straight-through estimators: exact values forward, the chosen gradient backward, on every path."""

import keras
import numpy as np
import pytest
from keras import ops

from r2keras.ops.ste import custom_gradient, round_through
from tests.gradients import gradients

pytestmark = pytest.mark.backends

# Ties go to the even neighbor; the last are the largest that still have a fraction.
X = np.array([-2.5, -1.5, -0.6, -0.5, 0.0, 0.4999, 0.5, 1.5, 2.5, 8388607.5, -4194303.5], "float32")
ROUNDED = np.array([-2, -2, -1, 0, 0, 0, 0, 2, 2, 8388608, -4194304], "float32")
WEIGHTS = np.linspace(-1, 1, X.size).astype("float32")


def array(tensor):
    return np.asarray(ops.convert_to_numpy(tensor))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_rounds_half_to_even_in_the_input_type(dtype):
    x = ops.cast(ops.convert_to_tensor(X[:9]), dtype)
    rounded = round_through(x)
    assert keras.backend.standardize_dtype(rounded.dtype) == dtype
    exact = np.rint(array(ops.cast(x, "float32")))
    np.testing.assert_array_equal(array(ops.cast(rounded, "float32")), exact)


def test_values_are_exact_and_the_gradient_is_one():
    np.testing.assert_array_equal(array(round_through(ops.convert_to_tensor(X))), ROUNDED)
    (gradient,) = gradients(lambda x: ops.sum(ops.multiply(round_through(x), WEIGHTS)), X)
    np.testing.assert_array_equal(gradient, WEIGHTS)


def test_every_argument_gets_its_own_gradient():
    def product(x, y):
        return ops.round(x * y), lambda upstream: (2.0 * upstream, -upstream * x)

    x, y = X[:4], WEIGHTS[:4]
    first, second = gradients(lambda a, b: ops.sum(ops.multiply(custom_gradient(product)(a, b), y)), x, y)
    np.testing.assert_array_equal(first, 2.0 * y)
    np.testing.assert_array_equal(second, -y * x)


def test_the_chain_rule_goes_on_through_it():
    (gradient,) = gradients(lambda x: ops.sum(ops.square(round_through(3.0 * x))), X[:9])
    np.testing.assert_array_equal(gradient, 2.0 * np.rint(3.0 * X[:9]) * 3.0)


def test_variables_are_taken():
    variable = keras.Variable(X[:9])
    np.testing.assert_array_equal(array(round_through(variable.value)), ROUNDED[:9])


@keras.saving.register_keras_serializable(package="tests")
class Rounding(keras.layers.Layer):
    def call(self, inputs):
        return round_through(inputs)


@pytest.mark.parametrize("how", [{"run_eagerly": True}, {"jit_compile": False}, {"jit_compile": True}])
def test_symbolic_and_compiled_give_the_same(how):
    if keras.backend.backend() == "torch" and how.get("jit_compile"):
        pytest.skip("torch compiles with a C++ compiler, which need not be there")
    model = keras.Sequential([keras.Input((X.size,)), Rounding()])
    model.compile(loss="mse", **how)
    np.testing.assert_array_equal(model.predict(X[None], verbose=0)[0], ROUNDED)
