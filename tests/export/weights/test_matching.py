"""Finding weights in constants by value."""

import numpy as np
import pytest

from r2keras.export.weights.assignment import assign
from r2keras.export.weights.axis_layout import Layout, layouts, sample
from r2keras.export.weights.matching import match


def ternary(shape, seed=0):
    return np.random.default_rng(seed).integers(-1, 2, shape).astype(np.float32) * np.float32(0.37)


def factors(count, seed=1):
    """One factor per channel: of either sign, one zero, one tiny."""
    values = np.random.default_rng(seed).normal(size=count).astype(np.float32)
    values[0], values[-1] = 0.0, 1e-20
    return values


CASES = {
    "dense transposed": ((13, 7), lambda w: w.T, 0),
    "conv": ((3, 3, 5, 8), lambda w: w.transpose(3, 0, 1, 2), 0),
    "conv with equal axes": ((3, 3, 3, 3), lambda w: w.transpose(3, 0, 1, 2), 0),
    "one-dimensional conv": ((3, 5, 8), lambda w: w.transpose(2, 0, 1)[:, None], 0),
    "depthwise": ((3, 3, 6, 2), lambda w: w.reshape(1, 3, 3, 12), 3),
    "transposed conv": ((3, 3, 8, 5), lambda w: w.transpose(2, 0, 1, 3), 0),
    "projection with heads": ((16, 4, 8), lambda w: w.reshape(16, 32).T, 0),
    "embedding": ((40, 8), lambda w: w, 1),
}


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_every_layout_is_found_with_its_factors(case, folded):
    shape, assignment, axis = CASES[case]
    weight = ternary(shape)
    constant = np.ascontiguousarray(assignment(weight))
    along = [1] * constant.ndim
    along[axis] = constant.shape[axis]
    factor = factors(constant.shape[axis]).reshape(along) if folded else np.ones(along, np.float32)
    found = match(weight, constant * factor)
    np.testing.assert_array_equal(found.layout.apply(weight), constant)
    np.testing.assert_allclose(np.broadcast_to(found.factor, constant.shape) * constant, constant * factor, rtol=2e-7)
    assert found.is_exact != folded
    assert found.is_strong


def test_a_single_wrong_value_is_no_match():
    weight = ternary((64, 64))
    constant = weight.T.copy()
    constant[17, 23] += np.float32(1e-5)
    assert match(weight, constant) is None


def test_zero_patterns_have_to_agree():
    weight = ternary((64, 64))
    constant = weight * factors(64)
    constant[weight == 0] = 1e-12
    assert match(weight, constant) is None


def test_another_number_of_values_is_no_match():
    assert match(ternary((4, 4)), ternary((4, 5))) is None


def test_two_roundings_of_a_folded_factor_are_a_match():
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(32, 48)).astype(np.float32)
    gamma, inverse_std = rng.normal(size=48).astype(np.float32), rng.uniform(0.1, 3, 48).astype(np.float32)
    assert match(weight, (weight * gamma * inverse_std).T).is_strong


def test_samples_are_the_same_points_on_both_sides():
    weight = np.arange(3 * 4 * 10, dtype=np.float32).reshape(3, 1, 4, 10)
    for layout in layouts(weight.shape, (10, 12)):
        for axis in (None, 0, 1):
            in_target, in_source = sample(layout, weight.shape, axis)
            np.testing.assert_array_equal(layout.apply(weight).ravel()[in_target], weight.ravel()[in_source])


def test_layout_inverts():
    weight = ternary((2, 3, 4))
    layout = Layout((2, 0, 1), (8, 3))
    np.testing.assert_array_equal(layout.invert(layout.apply(weight), weight.shape), weight)


def test_each_weight_gets_its_own_constant():
    weights = {f"w{i}": ternary((16, 16), i) for i in range(4)}
    constants = [w.T * factors(16)[:, None] for w in weights.values()][::-1]
    assignments, missing = assign(weights, constants)
    assert {p.owner: p.constant for p in assignments} == {"w0": 3, "w1": 2, "w2": 1, "w3": 0}
    assert missing == []


def test_a_weight_may_lie_in_two_constants_and_two_weights_in_one():
    weight = ternary((16, 16))
    assignments, missing = assign({"a": weight}, [weight.T, weight.T * factors(16)[:, None]])
    assert [p.constant for p in assignments] == [0, 1]
    assignments, missing = assign({"a": weight, "b": weight.copy()}, [weight.T])
    assert list(assignments[0].matches) == ["a", "b"]
    assert missing == []


def test_equal_weights_with_a_constant_each_get_one_each():
    weight = ternary((16, 16))
    assignments, _ = assign({"a": weight, "b": weight.copy()}, [weight.T, weight.T * factors(16)[:, None]])
    assert sorted(p.owner for p in assignments) == ["a", "b"]


def test_a_tiny_kernel_takes_the_matrix_and_leaves_the_bias():
    kernel = np.array([[1.0, -1.0, 2.0]], np.float32)
    bias, folded = np.array([5.0, 6.0, 7.0], np.float32), np.array([[0.5], [-3.0], [8.0]], np.float32)
    assignments, missing = assign({"kernel": kernel}, [bias, folded])
    assert [p.constant for p in assignments] == [1]
    assert missing == []


def test_a_weight_without_a_constant_is_named():
    assert assign({"here": ternary((16, 16)), "lost": ternary((16, 16), 1)}, [ternary((16, 16))])[1] == ["lost"]
