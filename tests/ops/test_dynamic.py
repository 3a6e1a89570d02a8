"""Rounding of rows to 8 bits: against XNNPACK's steps in NumPy, at the ends of the range, and its gradient."""

import keras
import numpy as np
import pytest
from keras import ops

from r2keras.ops.dynamic import dynamic_quantize
from tests.gradients import gradients
from tests.oracles_activations import dynamic_rows

pytestmark = pytest.mark.backends


@pytest.mark.parametrize("shift", [0, 5, -5, 0.5, -0.2])
@pytest.mark.parametrize("size", [1, 2, 33])
def test_rows_are_those_of_the_formula(size, shift):
    rows = (np.random.default_rng(size).normal(size=(20, size)) + shift).astype("float32")
    expected, codes = dynamic_rows(rows)
    found = ops.convert_to_numpy(dynamic_quantize(ops.convert_to_tensor(rows)))
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-7)
    assert size < 33 or np.unique(codes).size > 100


def test_zeros_stay_zeros_and_rows_do_not_mix():
    rows = np.array([[[0, 0, 0], [1e-3, 0, -2e-3]], [[1e6, 0, 3], [0, 7, 7]]], "float32")
    found = ops.convert_to_numpy(dynamic_quantize(ops.convert_to_tensor(rows)))
    assert found.shape == rows.shape and np.isfinite(found).all()
    assert not found[rows == 0].any()
    np.testing.assert_allclose(found, rows, atol=0.6 * np.ptp(rows, axis=-1, keepdims=True).max() / 255)
    np.testing.assert_allclose(found[0], rows[0], atol=1e-5)


def test_rows_along_several_axes():
    x = np.random.default_rng(2).normal(size=(3, 4, 5)).astype("float32")
    found = ops.convert_to_numpy(dynamic_quantize(ops.convert_to_tensor(x), axis=(0, -1)))
    expected, _ = dynamic_rows(x.transpose(1, 0, 2).reshape(4, 15))
    np.testing.assert_allclose(found.transpose(1, 0, 2).reshape(4, 15), expected, rtol=2e-6, atol=1e-7)


def test_the_gradient_passes():
    rows = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    weights = ops.convert_to_tensor(np.arange(12, dtype="float32").reshape(3, 4))
    (gradient,) = gradients(lambda x: ops.sum(weights * dynamic_quantize(x)), rows)
    np.testing.assert_array_equal(gradient, np.arange(12).reshape(3, 4))


def test_integers_become_floats():
    found = dynamic_quantize(ops.convert_to_tensor(np.array([[0, 1, 254], [3, 100, 1000]], "int32")))
    assert keras.backend.standardize_dtype(found.dtype) == "float32"
    expected, _ = dynamic_rows(np.array([[0, 1, 254], [3, 100, 1000]], "float32"))
    np.testing.assert_allclose(ops.convert_to_numpy(found), expected, rtol=2e-6)


def test_half_precision_keeps_its_type():
    rows = keras.ops.cast(np.ones((2, 3)), "float16")
    assert keras.backend.standardize_dtype(dynamic_quantize(rows).dtype) == "float16"
