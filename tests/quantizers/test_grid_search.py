"""The search for the grid with the least squared error, against a finer search in NumPy and the steps of training."""

import numpy as np
import pytest
from keras import ops

from r2keras.ops import affine
from r2keras.quantizers import grid_search
from tests import reference

pytestmark = pytest.mark.backends

# (8, 30, 6): blocks of 240 weights per channel, 1440 per tensor, 60 per group.
SHAPE = (8, 30, 6)
SCALES = {"per_tensor": (1, 1, 1), "per_channel": (1, 1, 6), "per_group": (4, 1, 6)}
GRIDS = [(1, "rise"), (2, "rise"), (2, "narrow"), (3, "full"), (3, "asymmetric"), (4, "narrow"), (4, "asymmetric")]
EVERY = pytest.mark.parametrize(("num_bits", "grid"), [*GRIDS, (8, "narrow"), (8, "asymmetric")])


def weights(seed=0):
    """Skewed, so that no two channels and no two ends are alike."""
    rng = np.random.default_rng(seed)
    return (rng.normal(0.05, 0.3, SHAPE) * np.exp(rng.normal(size=SHAPE[-1]))).astype("float32")


def limits(num_bits, grid):
    return -(2 ** (num_bits - 1)) + (grid == "narrow"), 2 ** (num_bits - 1) - 1


def found(x, shape, num_bits, grid):
    """The scale and the zero point of the search, as arrays."""
    zero_point = -0.5 if grid == "rise" else 0.0
    tensors = grid_search.mse_range(
        ops.convert_to_tensor(x), shape, *limits(num_bits, grid), zero_point, grid != "asymmetric"
    )
    return [np.asarray(ops.convert_to_numpy(tensor)) for tensor in tensors]


@pytest.mark.parametrize(("num_bits", "grid"), GRIDS)
@pytest.mark.parametrize("granularity", SCALES)
def test_mse_range_is_as_good_as_a_fine_search(num_bits, grid, granularity):
    x, shape, (low, high) = weights(), SCALES[granularity], limits(num_bits, grid)
    scale, zero = found(x, shape, num_bits, grid)
    zeros = range(low, high + 1) if grid == "asymmetric" else [-0.5 if grid == "rise" else 0.0]
    least = reference.least_errors(x, shape, low, high, zeros).sum()
    assert reference.squared_errors(x, scale, zero, low, high).sum() <= 1.01 * least


@EVERY
def test_mse_range_is_never_worse_than_min_max(num_bits, grid):
    low, high = limits(num_bits, grid)
    for seed, shape in enumerate(SCALES.values()):
        x = weights(seed)
        if grid == "asymmetric":
            start = reference.asymmetric_range(x, shape, low, high)
        else:
            start = reference.symmetric_range(x, shape, low, high, grid == "rise")
        errors = reference.squared_errors(x, *found(x, shape, num_bits, grid), low, high)
        assert (errors <= (1 + 1e-5) * reference.squared_errors(x, *start, low, high)).all()


@EVERY
def test_further_rounds_of_training_leave_the_found_scale(num_bits, grid):
    x, shape = weights(), SCALES["per_group"]
    scale, zero = found(x, shape, num_bits, grid)
    refined = affine.refine_scale(ops.convert_to_tensor(x), scale, zero, *limits(num_bits, grid))
    np.testing.assert_allclose(ops.convert_to_numpy(refined), scale, rtol=1e-3)


def test_a_search_in_parts_finds_the_same(monkeypatch):
    whole = found(weights(), SCALES["per_channel"], 4, "narrow")
    monkeypatch.setattr(grid_search, "MSE_ELEMENTS", 7 * 1440)
    monkeypatch.setattr(grid_search, "BLOCK_ELEMENTS", 3 * 1440)
    np.testing.assert_array_equal(whole, found(weights(), SCALES["per_channel"], 4, "narrow"))


@EVERY
def test_one_round_is_that_of_training(num_bits, grid):
    x, (low, high) = weights(3), limits(num_bits, grid)
    scale = np.full(SCALES["per_group"], 0.2, "float32")
    zero = np.full(scale.shape, -0.5 if grid == "rise" else low + 1.0 if grid == "asymmetric" else 0.0, "float32")
    expected = affine.refine_scale(ops.convert_to_tensor(x), scale, zero, low, high)
    values = grid_search._refined(x, scale, zero, (np.float32(low), np.float32(high)))
    np.testing.assert_array_equal(values, ops.convert_to_numpy(expected))


EXTREMES = {
    "zero": np.zeros(SHAPE, "float32"),
    "constant": np.full(SHAPE, 0.3, "float32"),
    "negative": np.full(SHAPE, -7.0, "float32"),
    "tiny": 1e-30 * weights(),
    "small": 1e-12 * weights(),
    "huge": 1e30 * weights(),
    "wide": weights() * np.where(np.arange(1440).reshape(SHAPE) % 7, 1e-20, 1e20).astype("float32"),
}


@pytest.mark.parametrize("grid", ["narrow", "full", "rise", "asymmetric"])
@pytest.mark.parametrize("name", EXTREMES)
def test_extreme_tensors_have_a_sound_grid(name, grid):
    x, (low, high) = EXTREMES[name], limits(4, grid)
    scale, zero = found(x, SCALES["per_channel"], 4, grid)
    assert np.isfinite(scale).all() and (scale >= np.float32(affine.MIN_SCALE)).all()
    assert ((zero == np.rint(zero)) & (low <= zero) & (zero <= high) | (zero == -0.5)).all()
    if name in ("constant", "negative"):
        np.testing.assert_allclose(reference.fake_quantize(x, scale, zero, low, high), x, rtol=1e-5)
