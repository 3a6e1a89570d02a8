"""Initial codebooks: the scalar optimum against every possible cut, vectors against a shuffled start."""

import numpy as np
import pytest

from r2keras.layers.kernels import initial_codebook
from tests.oracles_dkm import brute_force, squared_error

pytestmark = pytest.mark.backends


@pytest.mark.parametrize(("n", "k"), [(5, 2), (20, 3), (40, 8), (40, 16), (33, 32)])
@pytest.mark.parametrize("weighted", [False, True])
def test_scalars_are_optimal(n, k, weighted):
    random = np.random.default_rng(n + k)
    values, weights = random.standard_t(2, n) + 50.0, random.random(n) ** 3 if weighted else np.ones(n)
    found = initial_codebook.scalar_centroids(values, k, weights if weighted else None)
    assert found.shape == (k, 1) and (np.diff(found.ravel()) > 0).all()
    error = squared_error(values[:, None], found, weights)
    assert error == pytest.approx(brute_force(values, weights, k), rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("k", [2, 16, 256])
def test_many_scalars_end_in_a_fixed_point_near_the_known_optimum(k):
    values = np.random.default_rng(0).normal(size=100_000)
    found = initial_codebook.scalar_centroids(values, k).ravel()
    nearest = np.searchsorted(0.5 * (found[1:] + found[:-1]), values)
    error = np.mean((values - found[nearest]) ** 2)
    # Max, Quantizing for minimum distortion, IRE Transactions 1960, table I, and Panter and Dite's limit.
    known = {2: 0.3634, 16: 0.009497, 256: np.pi * np.sqrt(3) / 2 / 256**2}
    # A sample has fewer tails than its distribution, which helps fine tables.
    assert error == pytest.approx(known[k], rel=0.1 if k == 256 else 0.03)
    if k == 2:
        means = [values[nearest == j].mean() for j in range(k)]
        np.testing.assert_allclose(found, means, rtol=1e-3)


def test_repeated_values_count_as_often_as_they_come():
    values = np.array([0.0] * 8 + [1.0, 2.0, 2.0, 9.0])
    weights = np.array([8.0, 1.0, 2.0, 1.0])
    np.testing.assert_allclose(
        initial_codebook.scalar_centroids(values, 2),
        initial_codebook.scalar_centroids([0.0, 1.0, 2.0, 9.0], 2, weights),
    )


def test_weights_of_zero_count_for_nothing_unless_all_are():
    values = np.array([0.0, 1.0, 5.0])
    found = initial_codebook.scalar_centroids(values, 2, np.array([1.0, 1.0, 0.0]))
    np.testing.assert_allclose(found.ravel(), [0.0, 1.0])
    np.testing.assert_allclose(
        initial_codebook.scalar_centroids(values, 2, np.zeros(3)), initial_codebook.scalar_centroids(values, 2)
    )


@pytest.mark.parametrize("dim", [1, 2])
def test_fewer_different_vectors_than_centroids(dim):
    vectors = np.repeat([[3.0] * dim, [-1.0] * dim], 5, axis=0)
    found = initial_codebook.start(vectors[None], 4)[0]
    assert {tuple(row) for row in found} == {(3.0,) * dim, (-1.0,) * dim}
    assert found.shape == (4, dim) and found.dtype == np.float32


def test_vectors_are_clustered():
    random = np.random.default_rng(0)
    centers = random.normal(size=(8, 3)) * 5
    vectors = centers[random.integers(0, 8, 2000)] + 0.01 * random.normal(size=(2000, 3))
    found = initial_codebook.vector_centroids(vectors, 8)
    assert squared_error(centers, found) < 1e-3
    np.testing.assert_array_equal(found, initial_codebook.vector_centroids(vectors, 8))


def test_vectors_follow_their_weights():
    vectors = np.random.default_rng(0).normal(size=(500, 2))
    weights = (vectors[:, 0] > 0) * 1.0
    plain, weighted = (initial_codebook.vector_centroids(vectors, 4, w) for w in (None, weights))
    assert squared_error(vectors, weighted, weights) < squared_error(vectors, plain, weights)


def test_groups_have_tables_of_their_own():
    vectors = np.arange(12.0).reshape(2, 6, 1)
    found = initial_codebook.start(vectors, 3)
    np.testing.assert_allclose(found[..., 0], [[0.5, 2.5, 4.5], [6.5, 8.5, 10.5]])
