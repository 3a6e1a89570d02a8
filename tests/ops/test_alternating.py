"""Alternating codes against their oracle, and their guarantees: descending coefficients, nearest sums, no NaN."""

import itertools

import numpy as np
import pytest
from keras import ops

from r2keras.ops.alternating import alternating, nearest_signs, weighted_sum
from tests.oracles_recurrent import alternating as oracle

pytestmark = pytest.mark.backends


def row_mean(t):
    return ops.mean(t, axis=-1, keepdims=True)


def fitted(x, num_bits):
    return ops.convert_to_numpy(weighted_sum(*alternating(ops.convert_to_tensor(x), num_bits, row_mean)))


@pytest.mark.parametrize("num_bits", [1, 2, 3, 4])
def test_rows_are_the_oracles(num_bits):
    x = np.random.default_rng(num_bits).normal(0.1, 1.0, (4, 60)).astype("float32")
    expected = np.stack([oracle(row, num_bits) for row in x])
    np.testing.assert_allclose(fitted(x, num_bits), expected, atol=1e-4)


@pytest.mark.parametrize("num_bits", [1, 2, 3, 4])
@pytest.mark.parametrize("x", [np.zeros((2, 5)), np.full((2, 5), -0.7), np.array([[1.0, -1.0, 1.0, -1.0]])])
def test_few_values_are_met_exactly(num_bits, x):
    np.testing.assert_allclose(fitted(x.astype("float32"), num_bits), x, atol=1e-6)


@pytest.mark.parametrize("coefficients", [[0.9], [0.9, 0.2], [0.9, 0.6, 0.5], [0.9, 0.5, 0.3, 0.3]])
def test_signs_are_those_of_the_nearest_sum(coefficients):
    x = np.linspace(-2.5, 2.5, 101, dtype="float32")
    found = ops.convert_to_numpy(weighted_sum(coefficients, nearest_signs(ops.convert_to_tensor(x), coefficients)))
    signs = np.array(np.meshgrid(*[(-1, 1)] * len(coefficients))).reshape(len(coefficients), -1).T
    errors = np.abs(x[:, None] - signs @ np.array(coefficients))
    np.testing.assert_allclose(np.abs(x - found), errors.min(-1), atol=1e-5)


def test_the_second_round_never_fits_worse():
    x = np.random.default_rng(0).standard_t(4, (8, 200)).astype("float32")
    errors = []
    for rounds in range(4):
        value = weighted_sum(*alternating(ops.convert_to_tensor(x), 3, row_mean, rounds=rounds))
        errors.append(np.square(ops.convert_to_numpy(value) - x).sum(-1))
    assert all((after <= before + 1e-3).all() for before, after in itertools.pairwise(errors))
    assert (errors[2] < errors[0]).all()
