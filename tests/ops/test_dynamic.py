"""Rounding of rows to 8 bits: against XNNPACK's steps in NumPy, at the ends of the range, and its gradient."""

import keras
import numpy as np
import pytest
from keras import ops

from r2keras.ops.dynamic import dynamic_quantize
from tests.gradients import gradients

pytestmark = pytest.mark.backends


def oracle(rows):
    """Returns the rounded rows and their codes, one row after another, as XNNPACK computes them."""
    f32, result, codes = np.float32, np.empty_like(rows), np.empty(rows.shape, int)
    for i, row in enumerate(rows):
        low, high = min(f32(0), row.min()), max(f32(0), row.max())
        scale = f32(1) if low == high else f32(255) / f32(high - low)
        low_error, high_error = f32(-128) + low * scale, f32(127) + high * scale
        zero = f32(-128) - low * scale if low_error + high_error > 0 else f32(127) - high * scale
        zero = np.rint(np.clip(zero, -128, 127))
        codes[i] = np.clip(np.rint(row * scale) + zero, -128, 127)
        result[i] = (codes[i] - zero) / scale
    return result, codes


@pytest.mark.parametrize("shift", [0, 5, -5, 0.5, -0.2])
@pytest.mark.parametrize("size", [1, 2, 33])
def test_rows_are_those_of_the_formula(size, shift):
    rows = (np.random.default_rng(size).normal(size=(20, size)) + shift).astype("float32")
    expected, codes = oracle(rows)
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


def test_the_gradient_passes():
    rows = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    weights = ops.convert_to_tensor(np.arange(12, dtype="float32").reshape(3, 4))
    (gradient,) = gradients(lambda x: ops.sum(weights * dynamic_quantize(x)), rows)
    np.testing.assert_array_equal(gradient, np.arange(12).reshape(3, 4))


def test_half_precision_keeps_its_type():
    rows = keras.ops.cast(np.ones((2, 3)), "float16")
    assert keras.backend.standardize_dtype(dynamic_quantize(rows).dtype) == "float16"
