"""Range losses: values against NumPy, gradients against finite differences and formulas, and their purpose."""

import keras
import numpy as np
import pytest
from keras import ops

from r2keras.ops import range_loss
from tests import oracles_range_loss as oracle
from tests.gradients import finite_differences, gradients

pytestmark = pytest.mark.backends

LOSSES = {
    "linf": (lambda w, dim: range_loss.linf(w, dim=dim), lambda w, dim: oracle.linf(w, dim)),
    "margin": (lambda w, dim: range_loss.margin(w, 0.7, dim=dim), lambda w, dim: oracle.margin(w, 0.7, dim)),
    "soft_min_max": (
        lambda w, dim: range_loss.soft_min_max(w, 3.0, dim=dim),
        lambda w, dim: oracle.soft_min_max(w, 3.0, dim),
    ),
    "kurtosis": (lambda w, dim: range_loss.kurtosis(w), lambda w, dim: oracle.kurtosis(w)),
}


def weights(*shape, std=1.0):
    return np.random.default_rng(7).normal(0.1, std, shape).astype("float32")


def number(tensor):
    return float(ops.convert_to_numpy(tensor))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("shape", "dim"), [((40,), 1), ((3, 3, 4, 6), 1), ((3, 3, 4, 6), 2), ((9, 7), 3), ((5, 4), 4)])
def test_value_is_the_formula(name, shape, dim):
    loss, expected = LOSSES[name]
    w = weights(*shape)
    assert number(loss(w, dim)) == pytest.approx(expected(w, dim), rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_half_precision_is_computed_in_float32(name, dtype):
    loss, expected = LOSSES[name]
    # The values of 70,000 weights would overflow float16 when summed.
    w = ops.cast(weights(70_000, std=2.0), dtype)
    result = loss(w, 1)
    assert keras.backend.standardize_dtype(result.dtype) == "float32"
    stored = ops.convert_to_numpy(ops.cast(w, "float32"))
    assert number(result) == pytest.approx(expected(stored, 1), rel=2e-5)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dim", [1, 2])
def test_gradient_is_the_difference_quotient(name, dim):
    loss, expected = LOSSES[name]
    w = weights(5, 4)
    (found,) = gradients(lambda v: loss(v, dim), w)
    (differences,) = finite_differences(lambda v: expected(v, dim), w)
    np.testing.assert_allclose(found, differences, atol=2e-5)


LIMITS = np.array([0.2, 0.5, 9.0, 1.3], "float32")
BY_CHANNEL = {
    "linf": (range_loss.linf, lambda part, c: oracle.linf(part)),
    "margin": (lambda w, **axis: range_loss.margin(w, 0.7, **axis), lambda part, c: oracle.margin(part, 0.7)),
    "margins": (lambda w, **axis: range_loss.margin(w, LIMITS, **axis), lambda part, c: oracle.margin(part, LIMITS[c])),
    "soft_min_max": (
        lambda w, **axis: range_loss.soft_min_max(w, 3.0, **axis),
        lambda part, c: oracle.soft_min_max(part, 3.0),
    ),
}


@pytest.mark.parametrize("name", BY_CHANNEL)
@pytest.mark.parametrize(
    ("shape", "axes"),
    [((9, 4), -1), ((3, 3, 2, 4), 3), ((4, 5), 0), ((3, 4, 2), -2), ((3, 3, 2, 2), (-2, -1)), ((2, 6, 2), (2, 0))],
)
def test_by_channel_is_the_mean_of_the_channels(name, shape, axes):
    loss, expected = BY_CHANNEL[name]
    w = weights(*shape)
    assert number(loss(w, channel_axis=axes)) == pytest.approx(oracle.by_channel(expected, w, axes), rel=1e-5)
    (found,) = gradients(lambda v: loss(v, channel_axis=axes), w)
    (differences,) = finite_differences(lambda v: oracle.by_channel(expected, v, axes), w)
    np.testing.assert_allclose(found, differences, atol=2e-5)


@pytest.mark.parametrize("name", ["linf", "margin", "soft_min_max"])
def test_alike_channels_cost_what_one_of_them_costs(name):
    loss, one = BY_CHANNEL[name][0], weights(30, 1)
    assert number(loss(np.tile(one, (1, 7)), channel_axis=-1)) == pytest.approx(number(loss(one)), rel=1e-5)


def test_channels_are_rows():
    w = weights(2, 3, 4)
    for axes in (-1, 0, (1,), (0, 2), [2, 0]):
        np.testing.assert_array_equal(
            ops.convert_to_numpy(range_loss.channels(w, axes)), np.array(oracle.channels(w, axes), "float32")
        )


def test_channel_std_has_a_floor_without_gradient():
    rows = weights(4, 50) * np.array([[1.0], [0.3], [1e-9], [0.0]], "float32")
    expected = np.array(oracle.channel_units(rows, 0))
    assert expected[2] == expected[3] > 100 * rows[2].std()
    np.testing.assert_allclose(ops.convert_to_numpy(range_loss.channel_std(rows))[:, 0], expected, rtol=1e-5)
    (found,) = gradients(lambda w: ops.sum(w) + ops.sum(range_loss.channel_std(w)), rows)
    (own,) = finite_differences(lambda w: w.std(axis=1).sum(), rows[:2])
    np.testing.assert_allclose(found, 1.0 + np.concatenate([own, np.zeros((2, 50))]), atol=1e-6)
    np.testing.assert_array_equal(ops.convert_to_numpy(range_loss.channel_std(np.full((3, 5), 0.3, "float32"))), 1.0)


@pytest.mark.parametrize("axis", [2, -3, (0, 0), (1, -1), ()])
def test_bad_channel_axis_is_named(axis):
    with pytest.raises(ValueError, match=r"argument `channel_axis`.*\(3, 4\)"):
        range_loss.linf(weights(3, 4), channel_axis=axis)


@pytest.mark.parametrize("name", BY_CHANNEL)
def test_palette_vectors_and_channels_are_refused_together(name):
    with pytest.raises(ValueError, match=r"argument `dim`.*channel_axis.*dim=2"):
        BY_CHANNEL[name][0](weights(3, 4), dim=2, channel_axis=-1)


@pytest.mark.parametrize("limit", [0.3, -0.3, 1.2])
@pytest.mark.parametrize("dim", [1, 2])
def test_margin_gradient_counts_what_is_outside(limit, dim):
    w = weights(30, 4)
    limits = np.full((dim,), limit, "float32")
    (found,) = gradients(lambda m: range_loss.margin(w, m, dim=dim), limits)
    outside = (np.abs(oracle.subvectors(w, dim)) > abs(limit)).sum(axis=0)
    np.testing.assert_array_equal(found, np.sign(limit) * (1.0 - outside))
    (differences,) = finite_differences(lambda m: oracle.margin(w, m, dim), limits, step=1e-6)
    np.testing.assert_allclose(found, differences, atol=1e-3)


@pytest.mark.parametrize("sharpness", [0.1, 2.0, 20.0])
def test_sharpness_gradient_is_the_two_variances(sharpness):
    w = weights(64)
    start = np.asarray(sharpness, "float32")
    (found,) = gradients(lambda a: range_loss.soft_min_max(w, a), start)
    p, q = np.exp(sharpness * (w - w.max())), np.exp(-sharpness * (w - w.min()))
    variances = [(k * w**2).sum() / k.sum() - ((k * w).sum() / k.sum()) ** 2 for k in (p, q)]
    assert found == pytest.approx(sum(variances) - np.exp(-sharpness), abs=1e-5)


def test_margin_minimized_over_the_margin_is_linf():
    w = weights(50)
    grid = np.linspace(0.0, 2 * np.abs(w).max(), 400)
    values = [number(range_loss.margin(w, m)) for m in grid]
    assert min(values) == pytest.approx(np.abs(w).max(), rel=1e-6)
    assert all(value >= np.abs(w).max() * (1 - 1e-6) for value in values)


@pytest.mark.parametrize("sharpness", [300.0, 1e4, 1e30])
def test_soft_min_max_becomes_the_range(sharpness):
    w = weights(50)
    assert number(range_loss.soft_min_max(w, sharpness)) == pytest.approx(np.ptp(w), rel=1e-5)


def test_soft_min_max_starts_as_a_variance():
    w = weights(500)
    soft_range = number(range_loss.soft_min_max(w, 1e-2)) - np.exp(-1e-2)
    assert soft_range == pytest.approx(2e-2 * w.var(), rel=1e-2)


@pytest.mark.parametrize("beyond", [1.001, 1.5, 40.0])
def test_margin_beyond_the_weights_restricts_them_and_is_pulled_back(beyond):
    w = weights(1000)
    limit = np.asarray(beyond * np.abs(w).max(), "float32")
    loss, found = number(range_loss.margin(w, limit)), gradients(range_loss.margin, w, limit)
    assert loss == pytest.approx(np.abs(w).max(), rel=1e-6)
    np.testing.assert_array_equal(found[0], gradients(range_loss.linf, w)[0])
    assert found[1] == pytest.approx(max(1.0, 10.0 * (1.0 - 1.0 / beyond)), rel=1e-4)
    assert gradients(range_loss.margin, w, -limit)[1] == -found[1]


def test_overshot_margin_comes_back_under_gradient_descent():
    w = weights(2000, std=0.3)
    limit, path = np.asarray(0.6, "float32"), []
    for _ in range(60):
        limit = np.asarray(limit - 0.05 * gradients(lambda m: range_loss.margin(w, m), limit)[0], "float32")
        path.append(abs(float(limit)))
    assert max(path) > 3 * np.abs(w).max(), "the first steps do overshoot"
    assert 0.5 * np.abs(w).max() < path[-1] < 1.1 * np.abs(w).max()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("value", [0.0, 0.3, -1e-12, 1e4])
def test_constant_tensors_have_finite_losses_and_gradients(name, value):
    w = np.full((33, 4), value, "float32")
    for loss in (LOSSES[name][0], lambda v, dim: LOSSES[name][0](v / range_loss.safe_std(v), dim)):
        assert np.isfinite(number(loss(w, 2)))
        assert np.isfinite(gradients(lambda v, loss=loss: loss(v, 2), w)[0]).all()


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e6])
def test_kurtosis_does_not_depend_on_the_scale(scale):
    w = weights(200)
    assert number(range_loss.kurtosis(w * np.float32(scale))) == pytest.approx(oracle.kurtosis(w), rel=1e-4)


def test_equal_maxima_share_the_gradient():
    (found,) = gradients(range_loss.linf, np.array([1.0, -1.0, 0.5, 0.0], "float32"))
    np.testing.assert_array_equal(found, [0.5, -0.5, 0.0, 0.0])


def test_a_margin_of_zero_is_not_stuck():
    w = weights(20)
    (found,) = gradients(lambda m: range_loss.margin(w, m), np.zeros((), "float32"))
    assert found == 1.0 - 20


@pytest.mark.parametrize(("shape", "dim"), [((6, 4), 2), ((2, 3, 7), 3), ((5,), 5), ((4, 3), 1)])
def test_subvectors_are_runs_of_output_channels(shape, dim):
    w = weights(*shape)
    np.testing.assert_array_equal(ops.convert_to_numpy(range_loss.subvectors(w, dim)), oracle.subvectors(w, dim))


@pytest.mark.parametrize("name", ["linf", "margin", "soft_min_max"])
def test_left_over_channels_get_no_gradient(name):
    (found,) = gradients(lambda v: LOSSES[name][0](v, 3), weights(4, 7))
    assert np.any(found[:, :6]) and not np.any(found[:, 6])


@pytest.mark.parametrize("dim", [0, -1, 1.0, True, "2", None])
def test_bad_dim_is_named(dim):
    with pytest.raises((TypeError, ValueError), match=r"argument `dim`.*at least 1"):
        range_loss.subvectors(weights(4, 4), dim)


def test_dim_above_the_last_axis_is_named():
    with pytest.raises(ValueError, match=r"argument `dim`.*last axis of the weight \(4\).*dim=8.*\(3, 4\)"):
        range_loss.linf(weights(3, 4), dim=8)


@pytest.mark.parametrize("name", LOSSES)
def test_symbolic_tensors_work(name):
    symbol = keras.KerasTensor((6, 4), dtype="float16")
    result = keras.Function([symbol], LOSSES[name][0](symbol, 2))
    w = weights(6, 4).astype("float16")
    assert number(result([w])) == pytest.approx(LOSSES[name][1](w, 2), rel=1e-4)
