"""Affine quantization against the NumPy oracle: every width, granularity and grid, on every path."""

import keras
import numpy as np
import pytest
from keras import ops

from r2keras.ops import affine
from tests import reference
from tests.gradients import gradients

pytestmark = pytest.mark.backends

SHAPE = (8, 6)
SCALE_SHAPES = {"per_tensor": (1, 1), "per_channel": (1, 6), "per_group": (4, 6)}
GRIDS = [
    (num_bits, grid)
    for num_bits in range(1, 9)
    for grid in ("narrow", "full", "rise", "asymmetric")
    if num_bits > 1 or grid in ("rise", "asymmetric")
]
EVERY = pytest.mark.parametrize(("num_bits", "grid"), GRIDS)
RNG = np.random.default_rng(3)
UPSTREAM = RNG.normal(size=SHAPE).astype("float32")


def array(tensor):
    return np.asarray(ops.convert_to_numpy(ops.cast(tensor, "float32")))


def limits(num_bits, grid):
    return -(2 ** (num_bits - 1)) + (grid == "narrow"), 2 ** (num_bits - 1) - 1


def weights(shape=SHAPE, seed=0):
    """Skewed, so that no two channels and no two ends are alike."""
    rng = np.random.default_rng(seed)
    return (rng.normal(0.05, 0.3, shape) * np.exp(rng.normal(size=shape[-1]))).astype("float32")


def expected_range(x, shape, num_bits, grid):
    low, high = limits(num_bits, grid)
    if grid == "asymmetric":
        return reference.asymmetric_range(x, shape, low, high)
    return reference.symmetric_range(x, shape, low, high, grid == "rise")


def min_max(x, shape, num_bits, grid):
    """The range as the package finds it."""
    low, high = limits(num_bits, grid)
    if grid == "asymmetric":
        return affine.asymmetric_range(x, shape, low, high)
    zero_point = -0.5 if grid == "rise" else 0.0
    return affine.symmetric_scale(x, shape, low, high, zero_point), ops.full(shape, zero_point, "float32")


@EVERY
@pytest.mark.parametrize("granularity", SCALE_SHAPES)
def test_every_grid_is_the_oracle(num_bits, grid, granularity):
    x, low_high = weights(), limits(num_bits, grid)
    scale, zero = min_max(ops.convert_to_tensor(x), SCALE_SHAPES[granularity], num_bits, grid)
    parameters = expected_range(x, SCALE_SHAPES[granularity], num_bits, grid)
    np.testing.assert_array_equal(array(scale), parameters[0])
    np.testing.assert_array_equal(array(zero), parameters[1])
    # A tighter scale clips some of the weights.
    for tighter in (1.0, 0.6):
        scale, zero = np.float32(tighter) * parameters[0], parameters[1]
        codes = array(affine.quantize(ops.convert_to_tensor(x), scale, zero, *low_high))
        values = array(affine.fake_quantize(ops.convert_to_tensor(x), scale, zero, *low_high))
        np.testing.assert_array_equal(codes, reference.codes(x, scale, zero, *low_high))
        np.testing.assert_array_equal(values, reference.fake_quantize(x, scale, zero, *low_high))
        np.testing.assert_array_equal(array(affine.dequantize(codes, scale, zero)), values)


@EVERY
@pytest.mark.parametrize("granularity", ["per_tensor", "per_group"])
def test_gradient_is_the_mask(num_bits, grid, granularity):
    x, low_high = weights(), limits(num_bits, grid)
    scale, zero = expected_range(x, SCALE_SHAPES[granularity], num_bits, grid)
    scale = np.float32(0.5) * scale

    def weighted(x, scale, zero):
        return ops.sum(ops.multiply(affine.fake_quantize(x, scale, zero, *low_high), UPSTREAM))

    to_x, to_scale, to_zero = gradients(weighted, x, scale, zero)
    mask = reference.passes(x, scale, zero, *low_high)
    assert 0 < mask.sum() < mask.size
    np.testing.assert_array_equal(to_x, UPSTREAM * mask)
    assert to_scale.shape == to_zero.shape == scale.shape and not to_scale.any() and not to_zero.any()


@pytest.mark.parametrize(("num_bits", "grid"), [(2, "rise"), (3, "narrow"), (4, "asymmetric")])
def test_gradient_is_the_slope_seen_from_one_cell_away(num_bits, grid):
    """Rounding noise of one cell smooths the steps; its slope is the estimator's, but for half a cell at the ends."""
    x, (low, high) = weights(), limits(num_bits, grid)
    scale, zero = expected_range(x, (1, 1), num_bits, grid)
    scale = np.float32(0.5) * scale
    ends = [reference.fake_quantize(x + side * scale, scale, zero, low, high) for side in (-0.5, 0.5)]
    slope = (ends[1] - ends[0]) / scale
    steps = x / scale + zero
    clear = np.minimum(abs(steps - low), abs(steps - high)) > 0.51
    (gradient,) = gradients(lambda x: ops.sum(affine.fake_quantize(x, scale, zero, low, high)), x)
    assert clear.sum() > 20 and set(gradient[clear]) == {0.0, 1.0}
    np.testing.assert_allclose(gradient[clear], slope[clear], atol=1e-5)


def test_ties_go_to_even_and_the_mask_holds_its_ends():
    x = np.array([[-2.75, -2.5, -1.5, -0.5, 0.0, 0.5, 1.5, 2.5, 2.75]], "float32")
    one = np.ones((1, 1), "float32")
    assert array(affine.quantize(x, one, 0 * one, -2, 2)).tolist() == [[-2, -2, -2, 0, 0, 0, 2, 2, 2]]
    (gradient,) = gradients(lambda x: ops.sum(affine.fake_quantize(x, one, 0 * one, -2, 2)), x)
    assert gradient.tolist() == [[0, 1, 1, 1, 1, 1, 1, 1, 0]]


def test_scalars_and_vectors_are_taken():
    x = np.array([0.3, -0.9, 0.2, 2.0], "float32")
    one, two = np.ones(1, "float32"), np.array([0.5, 1.0], "float32")
    assert array(affine.fake_quantize(ops.convert_to_tensor(x), 0.5 * one, 0 * one, -3, 3)).tolist() == [
        0.5,
        -1,
        0,
        1.5,
    ]
    assert array(affine.fake_quantize(ops.convert_to_tensor(x), two, 0 * two, -3, 3)).tolist() == [0.5, -1, 0, 2]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("grid", ["narrow", "rise", "asymmetric"])
def test_low_precision_is_computed_in_float32(dtype, grid):
    x = ops.cast(ops.convert_to_tensor(weights()), dtype)
    exact = array(x)
    scale, zero = min_max(x, (1, 6), 4, grid)
    expected = expected_range(exact, (1, 6), 4, grid)
    np.testing.assert_array_equal(array(scale), expected[0])
    np.testing.assert_array_equal(array(zero), expected[1])
    low_high = limits(4, grid)
    codes = affine.quantize(x, scale, zero, *low_high)
    values = affine.fake_quantize(x, scale, zero, *low_high)
    assert keras.backend.standardize_dtype(codes.dtype) == "float32"
    assert keras.backend.standardize_dtype(values.dtype) == dtype
    np.testing.assert_array_equal(array(codes), reference.codes(exact, *expected, *low_high))
    rounded = ops.cast(ops.convert_to_tensor(reference.fake_quantize(exact, *expected, *low_high)), dtype)
    np.testing.assert_array_equal(array(values), array(rounded))

    def weighted(x):
        half = ops.cast(affine.fake_quantize(ops.cast(x, dtype), 0.5 * scale, zero, *low_high), "float32")
        return ops.sum(ops.multiply(half, UPSTREAM))

    (gradient,) = gradients(weighted, exact)
    mask = reference.passes(exact, np.float32(0.5) * expected[0], expected[1], *low_high)
    np.testing.assert_array_equal(gradient, array(ops.cast(ops.convert_to_tensor(UPSTREAM), dtype)) * mask)


EXTREMES = {
    "zero": np.zeros(SHAPE, "float32"),
    "constant": np.full(SHAPE, 0.3, "float32"),
    "negative": np.full(SHAPE, -0.3, "float32"),
    "tiny": 1e-30 * weights(),
    "small": 1e-12 * weights(),
    "huge": 1e30 * weights(),
    "wide": weights() * np.where(np.arange(48).reshape(SHAPE) % 7, 1e-20, 1e20).astype("float32"),
}


@pytest.mark.parametrize("grid", ["narrow", "full", "rise", "asymmetric"])
@pytest.mark.parametrize("name", EXTREMES)
def test_extreme_tensors_have_a_sound_grid(name, grid):
    x, low_high = EXTREMES[name], limits(4, grid)
    scale, zero = map(array, min_max(ops.convert_to_tensor(x), (1, 6), 4, grid))
    assert np.isfinite(scale).all() and (scale >= 2.0**-120).all()
    assert ((zero == np.rint(zero)) & (low_high[0] <= zero) & (zero <= low_high[1]) | (zero == -0.5)).all()
    codes = array(affine.quantize(ops.convert_to_tensor(x), scale, zero, *low_high))
    np.testing.assert_array_equal(codes, reference.codes(x, scale, zero, *low_high))
    values = array(affine.dequantize(codes, scale, zero))
    np.testing.assert_array_equal(values, reference.dequantize(codes, scale, zero))
    assert (abs(values.astype("float64") - x) <= (0.5 + 1e-4) * scale * (1 + (grid == "asymmetric"))).all()


@pytest.mark.parametrize("grid", ["narrow", "full", "rise", "asymmetric"])
def test_refining_never_raises_the_error(grid):
    rng = np.random.default_rng(5)
    for _ in range(25):
        num_bits = int(rng.integers(2, 9))
        low_high = limits(num_bits, grid)
        x = weights(seed=int(rng.integers(1000))) * np.float32(10.0 ** rng.integers(-6, 6))
        shape = SCALE_SHAPES[rng.choice(list(SCALE_SHAPES))]
        scale, zero = expected_range(x, shape, num_bits, grid)
        scale = (scale * rng.uniform(0.05, 2.0, shape)).astype("float32")
        refined = array(affine.refine_scale(ops.convert_to_tensor(x), scale, zero, *low_high))
        before, after = (reference.squared_errors(x, s, zero, *low_high) for s in (scale, refined))
        assert (after <= (1 + 1e-5) * before).all()


def test_refining_is_the_least_squares_fit():
    x, scale, zero = weights(), np.full((4, 6), 0.2, "float32"), np.full((4, 6), -0.5, "float32")
    steps = reference.codes(x, scale, zero, -2, 1) + 0.5
    expected = np.empty_like(scale)
    for index, part in reference.blocks(SHAPE, scale.shape):
        expected[index] = np.linalg.lstsq(steps[part].reshape(-1, 1), x[part].ravel())[0][0]
    refined = array(affine.refine_scale(ops.convert_to_tensor(x), scale, zero, -2, 1))
    np.testing.assert_allclose(refined, expected, rtol=1e-5)


def test_a_block_of_zero_codes_keeps_its_scale():
    x, scale = np.zeros(SHAPE, "float32"), np.full((1, 6), 0.2, "float32")
    np.testing.assert_array_equal(array(affine.refine_scale(ops.convert_to_tensor(x), scale, 0 * scale, -7, 7)), scale)


@pytest.mark.parametrize("shape", [(1, 1), (8, 1), (2, 1), (4, 3), (8, 6)])
def test_expand_and_reduce_are_blocks(shape):
    x, values = weights(), RNG.normal(size=shape).astype("float32")
    full, largest = np.empty(SHAPE, "float32"), np.empty(shape, "float32")
    for index, part in reference.blocks(SHAPE, shape):
        full[part], largest[index] = values[index], x[part].max()
    expanded = array(affine.expand(ops.convert_to_tensor(values), SHAPE))
    np.testing.assert_array_equal(np.broadcast_to(expanded, SHAPE), full)
    np.testing.assert_array_equal(array(affine.reduce(ops.max, ops.convert_to_tensor(x), shape)), largest)


COMPILED = [(2, "rise"), (4, "narrow"), (3, "asymmetric"), (8, "full")]


class Quantizing(keras.layers.Layer):
    """Takes a weight as its input; gives values, codes, scale and zero point for each grid."""

    def __init__(self, find, grids, shape, **kwargs):
        super().__init__(**kwargs)
        self.find, self.grids, self.shape = find, grids, shape

    def call(self, x):
        return [part for grid in self.grids for part in self.quantized(x, *grid)]

    def quantized(self, x, num_bits, grid):
        scale, zero = self.find(x, self.shape, num_bits, grid)
        low_high = limits(num_bits, grid)
        codes = affine.quantize(x, scale, zero, *low_high)
        # Of the weight's shape, because predict joins batches along the first axis.
        wide = (ops.broadcast_to(affine.expand(part, SHAPE), SHAPE) for part in (scale, zero))
        return affine.fake_quantize(x, scale, zero, *low_high), codes, *wide


@pytest.mark.parametrize("how", [{"run_eagerly": True}, {"jit_compile": False}, {"jit_compile": True}])
def test_symbolic_and_compiled_give_the_oracle(how):
    if keras.backend.backend() == "torch" and how.get("jit_compile"):
        pytest.skip("torch compiles with a C++ compiler, which need not be there")
    inputs = keras.Input(batch_shape=SHAPE)
    model = keras.Model(inputs, Quantizing(min_max, COMPILED, (4, 6))(inputs))
    model.compile(loss="mse", **how)
    for seed in range(4):
        x = weights(seed=seed)
        found = model.predict(x, verbose=0, batch_size=8)
        for place, (num_bits, grid) in enumerate(COMPILED):
            values, codes, scale, zero = found[4 * place : 4 * place + 4]
            expected = expected_range(x, (4, 6), num_bits, grid)
            np.testing.assert_array_equal(scale, np.repeat(expected[0], 2, axis=0))
            np.testing.assert_array_equal(zero, np.repeat(expected[1], 2, axis=0))
            np.testing.assert_array_equal(codes, reference.codes(x, *expected, *limits(num_bits, grid)))
            np.testing.assert_array_equal(values, reference.fake_quantize(x, *expected, *limits(num_bits, grid)))
