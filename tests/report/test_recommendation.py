"""The recommendation keeps its limits, is not dominated, and states by how much others miss them."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from r2keras.report import group, recommend
from tests.report.samples import row, run_rows

SIZES, ACCURACIES = (100, 200, 300), (0.90, 0.94, 0.97)
DROPS, LIMITS = (None, 0.0, 0.02, 0.05), (None, 150, 250, 350)
SLACK = 1e-9


def cases():
    """Yields all rows of two or three groups with a size and an accuracy each."""
    for n in (1, 2, 3):
        for points in itertools.combinations_with_replacement(itertools.product(SIZES, ACCURACIES), n):
            yield [
                row(method=f"m{i}", float_accuracy=0.96, file_bytes=size, file_accuracy=accuracy)
                for i, (size, accuracy) in enumerate(points)
            ]


def meets(part, drop, size, baseline=0.96):
    enough = drop is None or baseline - part["file_accuracy"] <= drop + SLACK
    return enough and (size is None or part["file_bytes"] <= size)


@pytest.mark.parametrize(("drop", "size"), itertools.product(DROPS, LIMITS))
def test_all_small_cases(drop, size):
    for rows in cases():
        found = recommend(rows, max_accuracy_drop=drop, max_bytes=size)
        fitting = [one for one in rows if meets(one, drop, size)]
        assert (found.chosen is None) == (not fitting)
        if fitting:
            chosen = found.chosen.rows[0]
            assert meets(chosen, drop, size)
            assert chosen["file_bytes"] == min(one["file_bytes"] for one in fitting)
            dominators = [
                one
                for one in rows
                if one["file_bytes"] <= chosen["file_bytes"] and one["file_accuracy"] >= chosen["file_accuracy"]
                and (one["file_bytes"], one["file_accuracy"]) != (chosen["file_bytes"], chosen["file_accuracy"])
            ]  # fmt: skip
            assert dominators == []


@pytest.mark.parametrize(("drop", "size"), itertools.product(DROPS, LIMITS))
def test_the_most_accurate_and_the_nearest_of_all_small_cases(drop, size):
    for rows in cases():
        found = recommend(rows, max_accuracy_drop=drop, max_bytes=size)
        small = [one["file_accuracy"] for one in rows if size is None or one["file_bytes"] <= size]
        accurate = [one["file_bytes"] for one in rows if drop is None or 0.96 - one["file_accuracy"] <= drop + SLACK]
        assert (found.most_accurate.score.mean if found.most_accurate else None) == max(small, default=None)
        assert (found.smallest.file_bytes if found.smallest else None) == min(accurate, default=None)
        assert found.nearest.score.mean == max(one["file_accuracy"] for one in rows)
        assert found.smallest_of_all.file_bytes == min(one["file_bytes"] for one in rows)


@pytest.mark.parametrize(("drop", "size"), itertools.product(DROPS, LIMITS))
def test_every_small_case_has_a_text(drop, size):
    for rows in cases():
        found = recommend(rows, max_accuracy_drop=drop, max_bytes=size)
        assert 1 <= len(found.sentences) <= 6
        assert found.text == " ".join(found.sentences) == str(found)
        assert all(sentence.endswith(".") for sentence in found.sentences)
        assert ("No result meets" in found.text) == (found.chosen is None)


def test_order_of_the_rows_does_not_matter():
    for rows in cases():
        forward = recommend(rows, max_accuracy_drop=0.05, max_bytes=250)
        backward = recommend(rows[::-1], max_accuracy_drop=0.05, max_bytes=250)
        assert forward.text == backward.text


def test_means_and_largest_files_are_judged():
    rows = [
        row(seed=0, file_accuracy=0.97, file_bytes=90),
        row(seed=1, file_accuracy=0.91, file_bytes=100),
        row(method="ptq", file_accuracy=0.95, file_bytes=95),
    ]
    assert recommend(rows, max_accuracy_drop=0.04 + 1e-6, max_bytes=99).chosen.method == "ptq"
    assert recommend(rows, max_accuracy_drop=0.035, max_bytes=100).chosen.method == "ptq"
    assert recommend(rows[:2], max_accuracy_drop=0.04, max_bytes=100).chosen.method == "qat"


def test_a_drop_exactly_at_the_limit_is_allowed():
    rows = [row(float_accuracy=0.8, file_accuracy=0.7988)]
    assert 0.8 - 0.0012 > 0.7988
    assert recommend(rows, max_accuracy_drop=0.0012, max_bytes=None).chosen is not None
    assert recommend(rows, max_accuracy_drop=0.0011, max_bytes=None).chosen is None


def test_losses_are_counted_from_the_model_without_regularizer():
    rows = [row(float_accuracy=0.99), row(regularizer="none", float_accuracy=0.97, file_accuracy=0.5)]
    found = recommend(rows, max_accuracy_drop=0.01, max_bytes=None)
    assert found.drop(found.chosen) == pytest.approx(0.97 - 0.965)
    assert "It loses 0.50 points against the float model (97.00%)." in found.sentences


def test_the_seed_nearest_the_median_is_named_and_said():
    accuracies = [0.95, 0.99, 0.96]
    rows = [row(seed=s, file_accuracy=a, path=f"out/{s}.tflite") for s, a in enumerate(accuracies)]
    found = recommend(rows, max_accuracy_drop=0.05, max_bytes=None)
    assert (found.path, found.row["seed"]) == ("out/2.tflite", 2)
    mean, std = 100 * np.mean(accuracies), 100 * np.std(accuracies, ddof=1)
    assert f"{mean:.2f}% accuracy (mean of 3 seeds ± {std:.2f}, measured on the file)" in found.text
    assert "The file is out/2.tflite: seed 2 with 96.00% accuracy, the closest to the median over seeds." in found.text


def test_one_seed_and_no_file_accuracy_are_said():
    found = recommend([row(file_accuracy=None)], max_accuracy_drop=0.05, max_bytes=None)
    assert "97.00% accuracy (one seed only, measured in Keras, not on the file)" in found.text


def test_a_gain_is_called_one():
    found = recommend([row(float_accuracy=0.95, file_accuracy=0.96)], max_accuracy_drop=0.0, max_bytes=None)
    assert "It gains 1.00 point against the float model (95.00%, trained with R2 L-infinity)." in found.sentences


def test_both_misses_are_told():
    rows = [
        row(method="small", float_accuracy=0.98, file_accuracy=0.90, file_bytes=1_000),
        row(method="large", float_accuracy=0.98, file_accuracy=0.97, file_bytes=9_000),
    ]
    found = recommend(rows, max_accuracy_drop=0.02, max_bytes=5_000)
    assert (found.chosen, found.path, found.row) == (None, None, None)
    assert found.sentences == [
        "No result meets the limits (at most 2.00 points of accuracy lost and at most 5,000 bytes).",
        "Within the limit on bytes, 2-bit, small, R2 L-infinity (90.00% in 1,000 bytes) comes closest: it "
        "loses 6.00 points too much.",
        "Within the limit on accuracy, 2-bit, large, R2 L-infinity (97.00% in 9,000 bytes) is the smallest: "
        "4,000 bytes too large.",
    ]


def test_a_limit_that_no_file_meets_is_told():
    rows = [row(float_accuracy=0.98, file_accuracy=0.90, file_bytes=1_000)]
    found = recommend(rows, max_accuracy_drop=0.02, max_bytes=400)
    assert found.sentences[1:] == [
        "The smallest file, 2-bit, trained, R2 L-infinity (90.00% in 1,000 bytes), is 600 bytes too large.",
        "The most accurate of all, 2-bit, trained, R2 L-infinity (90.00% in 1,000 bytes), still loses 6.00 "
        "points too much.",
    ]


def test_rows_without_a_file_are_no_candidates():
    rows = [row(file_bytes=None), row(method="ptq", file_bytes=50_000)]
    assert recommend(rows, max_accuracy_drop=None, max_bytes=None).chosen.method == "ptq"
    with pytest.raises(ValueError, match="rows with `file_bytes`"):
        recommend(rows[:1], max_accuracy_drop=None, max_bytes=None)


def test_to_dict_is_plain_json():
    found = recommend(run_rows(), max_accuracy_drop=0.5, max_bytes=20_000)
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain["chosen"]["file_bytes"] == found.chosen.file_bytes
    assert plain["path"] == found.path
    empty = recommend(run_rows(), max_accuracy_drop=0.0, max_bytes=1)
    assert json.loads(json.dumps(empty.to_dict()))["chosen"] is None


def test_groups_are_those_of_the_rows():
    found = recommend(run_rows(), max_accuracy_drop=0.5, max_bytes=None)
    assert found.chosen.key in {part.key for part in group(run_rows())}


@pytest.mark.parametrize(
    ("limits", "error", "name"),
    [
        ({"max_accuracy_drop": -0.1, "max_bytes": 1}, ValueError, "max_accuracy_drop"),
        ({"max_accuracy_drop": 1.0001, "max_bytes": 1}, ValueError, "max_accuracy_drop"),
        ({"max_accuracy_drop": float("nan"), "max_bytes": 1}, ValueError, "max_accuracy_drop"),
        ({"max_accuracy_drop": "1%", "max_bytes": 1}, TypeError, "max_accuracy_drop"),
        ({"max_accuracy_drop": None, "max_bytes": 0}, ValueError, "max_bytes"),
        ({"max_accuracy_drop": None, "max_bytes": True}, TypeError, "max_bytes"),
    ],
)
def test_bad_limits(limits, error, name):
    with pytest.raises(error, match=f"Invalid value for argument `{name}`"):
        recommend([row()], **limits)


def test_no_rows():
    with pytest.raises(ValueError, match="at least one result row"):
        recommend([], max_accuracy_drop=None, max_bytes=None)


def with_validation(**columns):
    """Returns a row whose validation accuracies decide."""
    return row(**{"float_validation_accuracy": 0.96, "validation_samples": 200, **columns})


def test_the_choice_is_made_on_validation_data_and_the_test_accuracy_is_reported():
    rows = [
        with_validation(method="lucky", file_bytes=100, validation_accuracy=0.90, file_accuracy=0.99),
        with_validation(method="sound", file_bytes=200, validation_accuracy=0.955, file_accuracy=0.94),
    ]
    found = recommend(rows, max_accuracy_drop=0.01, max_bytes=None)
    assert found.on_validation
    assert found.chosen.method == "sound"
    assert found.choice_drop(found.chosen) == pytest.approx(0.005)
    assert found.drop(found.chosen) == pytest.approx(0.98 - 0.94)
    assert "200 bytes at 94.00% accuracy" in found.text
    assert "Chosen on 200 validation samples, where it loses 0.50 points" in found.text
    # One row without the columns: the test data decide, for all of them.
    rows[0]["validation_accuracy"] = None
    found = recommend(rows, max_accuracy_drop=0.01, max_bytes=None)
    assert (found.on_validation, found.chosen.method) == (False, "lucky")
    assert "validation" not in found.text


def test_differences_within_the_noise_are_called_so():
    rows = [row(regularizer="none", file_accuracy=0.97, float_accuracy=0.98, test_samples=n) for n in (500, 50_000)]
    small, large = (recommend([one], max_accuracy_drop=None, max_bytes=None) for one in rows)
    assert small.noise(small.chosen) == pytest.approx(10 * large.noise(large.chosen), rel=0.05)
    assert "No measurable loss against the float model (98.00%): the difference of 1.00 point" in small.text
    assert "(95%: 500 test samples, 1 seed)" in small.text
    assert "It loses 1.00 point ± 0.19 (95%: 50,000 test samples, 1 seed) against the float model" in large.text


def test_latency_is_told_relative_to_float():
    rows = [
        row(regularizer="none", latency_ms=0.42),
        row(regularizer="none", method="float", num_bits=32, latency_ms=0.1, file_bytes=99_999),
    ]
    found = recommend(rows, max_accuracy_drop=0.05, max_bytes=None)
    assert found.slowdown(found.chosen) == pytest.approx(4.2)
    assert "It takes 0.420 ms on this CPU, 4.2x slower than the float file (0.100 ms)." in found.sentences
    unmeasured = recommend([row(latency_ms=None)], max_accuracy_drop=0.05, max_bytes=None)
    assert "on this CPU" not in unmeasured.text
