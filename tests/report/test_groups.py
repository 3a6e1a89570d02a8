"""Means and spreads over seeds against NumPy; the baseline, the front and the typical seed from their definitions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from r2keras.report import group
from r2keras.report.groups import float_baseline, float_latency, pareto
from r2keras.report.stats import Stat
from tests.report.samples import row, run_rows

COLUMNS = ("float_accuracy", "accuracy", "file_accuracy", "file_bytes", "ideal_bytes", "latency_ms", "max_over_std")


@pytest.mark.parametrize("n", [2, 3, 10])
def test_stat_is_mean_and_sample_deviation(n):
    values = np.random.default_rng(n).normal(5.0, 3.0, n)
    stat = Stat.of(values.tolist())
    np.testing.assert_allclose([stat.mean, stat.std], [values.mean(), values.std(ddof=1)], rtol=1e-12)
    assert stat.n == n


def test_one_value_has_no_spread():
    assert Stat.of([0.5]) == Stat(0.5, None, 1)


@pytest.mark.parametrize("column", COLUMNS)
def test_groups_average_over_seeds(column):
    rows = run_rows()
    for part in group(rows):
        same = [r for r in rows if (r["regularizer"], r["method"], r["num_bits"]) == part.key]
        values = np.array([r[column] for r in same], float)
        assert len(same) == 3
        np.testing.assert_allclose(part.stat(column).mean, values.mean(), rtol=1e-12)
        np.testing.assert_allclose(part.stat(column).std, values.std(ddof=1), rtol=1e-9, atol=1e-12)


def test_order_is_by_first_row_and_falling_bits():
    keys = [part.key for part in group(run_rows())]
    methods = [("float", 32), ("ptq", 8), ("ptq", 4), ("ptq", 2), ("qat", 8), ("qat", 4), ("qat", 2)]
    assert keys == [(name, *rest) for name in ("none", "linf") for rest in methods]


def test_order_of_the_rows_does_not_change_the_figures():
    rows = run_rows()
    expected = {part.key: part.score for part in group(rows)}
    assert {part.key: part.score for part in group(rows[::-1])} == pytest.approx(expected)


def test_the_file_is_judged_where_every_seed_has_one():
    [part] = group([row(), row(seed=1, file_accuracy=0.9)])
    assert (part.score_column, part.score.mean) == ("file_accuracy", pytest.approx((0.965 + 0.9) / 2))
    [part] = group([row(accuracy=0.8), row(seed=1, accuracy=0.6, file_accuracy=None)])
    assert (part.score_column, part.score.mean) == ("accuracy", pytest.approx(0.7))


def test_the_largest_file_counts():
    [part] = group([row(file_bytes=10), row(seed=1, file_bytes=30), row(seed=2, file_bytes=20)])
    assert part.file_bytes == 30
    [part] = group([row(), row(seed=1, file_bytes=None)])
    assert part.file_bytes is None


@pytest.mark.parametrize("accuracies", itertools.product([0.1, 0.2, 0.4, 0.8], repeat=3))
def test_typical_row_of_three_seeds_is_the_median(accuracies):
    [part] = group([row(seed=seed, file_accuracy=value) for seed, value in enumerate(accuracies)])
    assert part.typical_row["file_accuracy"] == np.median(accuracies)
    assert part.typical_row["seed"] == accuracies.index(np.median(accuracies))


def test_typical_row_of_two_seeds_is_not_the_better_one():
    [part] = group([row(seed=0, file_accuracy=0.9), row(seed=1, file_accuracy=0.8)])
    assert part.typical_row["seed"] == 1


def test_baseline_is_the_mean_without_a_regularizer():
    rows = run_rows()
    baseline = float_baseline(group(rows))
    accuracies = {r["seed"]: r["float_accuracy"] for r in rows if r["regularizer"] == "none"}
    np.testing.assert_allclose(baseline.accuracy.mean, np.mean(list(accuracies.values())), rtol=1e-12)
    np.testing.assert_allclose(baseline.accuracy.std, np.std(list(accuracies.values()), ddof=1), rtol=1e-9)
    assert (baseline.regularizer, baseline.accuracy.n) == ("none", 3)


def test_baseline_is_else_the_best_mean():
    rows = run_rows(regularizers=("l2", "linf", "margin"))
    means = {
        name: np.mean([r["float_accuracy"] for r in rows if r["regularizer"] == name])
        for name in ("l2", "linf", "margin")
    }
    baseline = float_baseline(group(rows))
    assert baseline.regularizer == max(means, key=means.get)
    assert baseline.accuracy.mean == pytest.approx(means[baseline.regularizer])


def test_a_seed_with_more_rows_does_not_weigh_more():
    rows = [
        row(seed=0, float_accuracy=0.9),
        row(seed=0, num_bits=4, float_accuracy=0.9),
        row(seed=1, float_accuracy=0.8),
    ]
    assert float_baseline(group(rows)).accuracy.mean == pytest.approx(0.85)


@pytest.mark.parametrize("seed", range(30))
def test_front_is_what_no_other_dominates(seed):
    rng = np.random.default_rng(seed)
    sizes, accuracies = rng.integers(1, 5, 8), rng.integers(1, 5, 8) / 10
    groups = group(
        [
            row(method=str(i), file_bytes=int(b), file_accuracy=float(a))
            for i, (b, a) in enumerate(zip(sizes, accuracies, strict=True))
        ]
    )

    def dominated(one):
        return any(
            g.file_bytes <= one.file_bytes
            and g.score.mean >= one.score.mean
            and (g.file_bytes, g.score.mean) != (one.file_bytes, one.score.mean)
            for g in groups
        )

    expected = {(g.file_bytes, g.score.mean) for g in groups if not dominated(g)}
    found = [(g.file_bytes, g.score.mean) for g in pareto(groups)]
    assert set(found) == expected
    assert found == sorted(found)


@pytest.mark.parametrize("column", ["dataset", "model"])
def test_several_datasets_or_models_are_not_averaged(column):
    with pytest.raises(ValueError, match=f"Rows of different `{column}` cannot be averaged"):
        group([row(**{column: "a"}), row(**{column: "b"}, seed=1)])


def test_trainings_of_different_length_are_not_averaged():
    with pytest.raises(ValueError, match="one in the group 2-bit, trained, R2 L-infinity"):
        group([row(epochs=3), row(epochs=5, seed=1)])
    assert len(group([row(epochs=3), row(epochs=5, seed=1, method="ptq")])) == 2


def test_no_rows():
    with pytest.raises(ValueError, match="at least one result row"):
        group([])


def test_the_seed_is_chosen_on_validation_data():
    accuracies = [(0.90, 0.99), (0.95, 0.90), (0.99, 0.95)]  # On validation data and on test data, for each seed.
    rows = [
        row(seed=seed, validation_accuracy=chosen, float_validation_accuracy=0.97, file_accuracy=reported)
        for seed, (chosen, reported) in enumerate(accuracies)
    ]
    [part] = group(rows)
    assert (part.typical_row["seed"], part.choice_column) == (1, "validation_accuracy")
    [part] = group([*rows[:2], row(seed=2, file_accuracy=0.95)])
    assert (part.typical_row["seed"], part.choice_column) == (2, "file_accuracy")


def test_latency_of_float_files():
    slow = row(regularizer="none", method="float", num_bits=32, latency_ms=0.5)
    groups = group([row(latency_ms=9.0), row(method="float", num_bits=32, latency_ms=0.1), slow])
    assert float_latency(groups, "none") == 0.5
    assert float_latency(groups[:-1], "none") == 0.1
    assert float_latency(group([row()]), "none") is None
