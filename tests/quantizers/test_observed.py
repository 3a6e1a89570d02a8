"""Statistics of observed values: exact, or within a bin, and the same for every partition and order."""

import numpy as np
import pytest

from r2keras.quantizers.observed import HALF, MAX_DISTINCT, Observed

RNG = np.random.default_rng(11)
MANY = {
    "heavy tails": RNG.standard_t(2, 20_000).astype("float32"),
    "after a ReLU": np.maximum(RNG.normal(size=20_000), 0).astype("float32"),
    "growing": (RNG.normal(size=20_000) * np.geomspace(1e-6, 1e4, 20_000)).astype("float32"),
    "zeros first": np.concatenate([np.zeros(9000), RNG.normal(size=11_000) * 1e-3]).astype("float32"),
}


def observed(parts):
    statistics = Observed()
    for part in parts:
        statistics.add(part)
    return statistics


@pytest.mark.parametrize("name", MANY)
def test_partition_and_order_have_no_effect(name):
    x = MANY[name]
    one = observed([x])
    for parts in (np.array_split(x, 9), np.array_split(x[::-1], 100), [RNG.permutation(x)], [np.sort(x)]):
        other = observed(parts)
        assert (one.low, one.high, one.count) == (other.low, other.high, other.count) == (x.min(), x.max(), x.size)
        for mine, others in zip(one.table(), other.table(), strict=True):
            np.testing.assert_array_equal(mine, others)
        assert one.moments() == other.moments() and one.percentile(99.9) == other.percentile(99.9)


@pytest.mark.parametrize("name", MANY)
def test_figures_are_those_of_numpy_within_a_bin(name):
    x = MANY[name]
    one = observed(np.array_split(x, 5))
    assert one.distinct is None
    width = float(2 * np.abs(x).max() / HALF)
    for percent in (0, 0.1, 50, 99.9, 100):
        assert one.percentile(percent) == pytest.approx(np.percentile(x.astype("float64"), percent), abs=width)
    root, deviation = one.moments()
    assert root == pytest.approx(np.sqrt(np.mean(x.astype("float64") ** 2)), rel=1e-3)
    assert deviation == pytest.approx(x.astype("float64").std(), rel=1e-3)
    values, counts = one.table()
    assert counts.sum() == x.size and counts[values == 0].sum() == np.sum(x == 0)


def test_few_distinct_values_are_exact():
    x = RNG.integers(-20, 20, 5000).astype("float32") * np.float32(0.3)
    one = observed(np.array_split(x, 6))
    values, counts = np.unique(x, return_counts=True)
    np.testing.assert_array_equal(one.table()[0], values)
    np.testing.assert_array_equal(one.table()[1], counts)
    assert one.percentile(37.3) == pytest.approx(np.percentile(x.astype("float64"), 37.3))


def test_the_number_of_distinct_values_decides_however_they_come():
    x = np.arange(MAX_DISTINCT + 1, dtype="float32")
    assert observed([x]).distinct is None and observed(np.array_split(x, 50)).distinct is None
    assert observed([x[1:], x[1:]]).distinct[1].tolist() == [2] * MAX_DISTINCT


def test_negative_zero_is_zero():
    values, counts = observed([np.float32([-0.0]), np.float32([0.0])]).table()
    assert counts.tolist() == [2] and not np.signbit(values[0])


def test_memory_does_not_grow():
    one = Observed()
    for _ in range(50):
        one.add(RNG.normal(size=10_000).astype("float32"))
    assert one.count == 500_000 and sum(part.nbytes for part in vars(one).values() if hasattr(part, "nbytes")) < 2**20


def test_values_that_are_not_finite_stay_known():
    one = observed([np.float32([1, np.nan]), np.float32([3])])
    assert not one.is_finite and not observed([np.float32([np.inf])]).is_finite


def test_without_bins_only_extremes_and_distinct_values_are_kept():
    one = Observed(bins=False)
    one.add(MANY["heavy tails"])
    assert one.high == MANY["heavy tails"].max() and one.distinct is None
