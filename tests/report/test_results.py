"""Rows in results.json: saved one by one, read back unchanged, and one-sentence errors for bad ones."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from r2keras.report import Results, load_results, save_results
from r2keras.report.results import COLUMNS, NULLABLE, checked_row
from tests.report.samples import row, run_rows


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "results.json"


def test_every_row_is_on_disk_as_soon_as_it_is_added(path):
    results = Results(path)
    for index, one in enumerate(run_rows()):
        results.add(one)
        assert len(json.loads(path.read_text())) == index + 1
    assert Results(path).rows == run_rows()


def test_a_json_list_with_one_row_per_line(path):
    save_results(path, run_rows())
    lines = path.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("[", "]")
    assert [json.loads(line.rstrip(",")) for line in lines[1:-1]] == run_rows()


def test_a_row_of_the_same_experiment_is_replaced(path):
    results = Results(path)
    for one in (row(), row(seed=1), row(accuracy=0.5)):
        results.add(one)
    assert results.rows == [row(seed=1), row(accuracy=0.5)]


def test_rows_of_other_datasets_are_other_experiments(path):
    results = Results(path)
    results.add(row(dataset="digits"))
    results.add(row(dataset="cifar10"))
    assert len(results) == 2


def test_find(path):
    results = Results(path)
    for one in run_rows():
        results.add(one)
    found = results.find(regularizer="linf", method="qat", num_bits=4, seed=2)
    assert found["path"] == "out/linf_qat_4_2.tflite"
    assert results.find(regularizer="margin") is None
    with pytest.raises(ValueError, match="rows match"):
        results.find(regularizer="linf")


def test_what_is_returned_is_a_copy(path):
    results = Results(path)
    results.add(row())
    results.rows[0]["accuracy"] = 0.0
    results.find(seed=0)["accuracy"] = 0.0
    assert [one["accuracy"] for one in results] == [0.97]


def test_numpy_scalars_and_paths_are_kept_as_plain_json(path):
    values = {"accuracy": np.float32(0.5), "file_bytes": np.int64(7), "path": path, "seed": np.int32(3)}
    Results(path).add(row(**values))
    assert load_results(path)[0] == row(accuracy=0.5, file_bytes=7, path=str(path), seed=3)


@pytest.mark.parametrize("column", NULLABLE)
def test_what_was_not_measured_is_none(path, column):
    Results(path).add(row(**{column: None}))
    assert load_results(path)[0][column] is None


@pytest.mark.parametrize("column", COLUMNS)
def test_a_missing_column_is_named(path, column):
    short = {name: value for name, value in row().items() if name != column}
    with pytest.raises(ValueError, match=f"lacks the column '{column}'"):
        Results(path).add(short)
    assert not path.exists()


@pytest.mark.parametrize(
    ("column", "value", "error"),
    [
        ("accuracy", 97.0, ValueError),
        ("accuracy", -0.1, ValueError),
        ("float_accuracy", float("nan"), ValueError),
        ("file_accuracy", "0.97", TypeError),
        ("accuracy", None, TypeError),
        ("file_bytes", -1, ValueError),
        ("latency_ms", float("inf"), ValueError),
        ("num_bits", 0, ValueError),
        ("num_bits", 2.5, ValueError),
        ("seed", True, ValueError),
        ("seed", -1, ValueError),
        ("regularizer", "", TypeError),
        ("method", 3, TypeError),
    ],
)
def test_a_bad_value_is_named(path, column, value, error):
    with pytest.raises(error, match=f"column '{column}': expected .* Received: "):
        Results(path).add(row(**{column: value}))


@pytest.mark.parametrize("text", ["", "[", '[{"regularizer": "linf"}]', "{}", "[1]", "[null]", "\x00\xff", "[NaN]"])
def test_a_corrupt_file_is_refused_in_one_sentence(path, text):
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(ValueError, match=r"results\.json is not a readable results file \(.*\)\. Restore it"):
        Results(path)
    assert path.read_text() == text


def test_a_file_that_is_no_text_is_refused(path):
    path.parent.mkdir()
    path.write_bytes(b"\xff\xfe\x80")
    with pytest.raises(ValueError, match="not a readable results file"):
        Results(path)


@pytest.mark.parametrize("cut", [5, 200, -5])
def test_a_truncated_file_is_refused(path, cut):
    save_results(path, run_rows())
    path.write_text(path.read_text()[:cut])
    with pytest.raises(ValueError, match="not a readable results file"):
        load_results(path)


def test_two_rows_of_one_experiment_are_refused(path):
    with pytest.raises(ValueError, match="Rows 0 and 1 of the results are of the same experiment: regularizer='linf'"):
        save_results(path, [row(), row(accuracy=0.2)])


def test_no_rows_are_refused(path):
    with pytest.raises(ValueError, match="at least one result row"):
        save_results(path, [])


def test_a_disk_that_fills_up_loses_nothing(path, monkeypatch):
    results = Results(path)
    results.add(row())

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match=r"Could not write .*results\.json: No space left on device"):
        results.add(row(seed=1))
    monkeypatch.undo()
    assert results.rows == load_results(path) == [row()]
    assert [found.name for found in path.parent.iterdir()] == ["results.json"]


def test_a_path_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Could not write"):
        save_results(tmp_path / "file" / "results.json", [row()])


HOSTILE = {
    "deep": ("[" * 100_000, "nested too deeply"),
    "not a number": ('[{"seed": NaN}]', "NaN is not a number"),
    "a repeated key": ('[{"seed": 1, "seed": 2}]', "'seed' is given twice"),
    "long": ('["' + "x" * 10**6 + '"]', "not a dictionary"),
    "a byte order mark": ('\ufeff[{"path": 1}]', "lacks the columns"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_in_one_short_sentence(tmp_path, name):
    text, words = HOSTILE[name]
    (tmp_path / "results.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=f"not a readable results file .*{words}") as caught:
        Results(tmp_path / "results.json")
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("column", ["num_bits", "seed", "accuracy", "file_bytes", "latency_ms"])
def test_numbers_that_no_float_holds_are_refused(column):
    row = {"regularizer": "linf", "method": "qat", "num_bits": 2, "seed": 0, "float_accuracy": 1, "accuracy": 1}
    rest = dict.fromkeys(["file_accuracy", "file_bytes", "ideal_bytes", "latency_ms", "max_over_std", "path"])
    with pytest.raises(ValueError, match=f"column '{column}'"):
        checked_row({**row, **rest, column: 10**400})
