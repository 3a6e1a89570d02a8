"""The benchmark of recurrent files: a run writes every row, its table shows them."""

import pytest

from benchmarks import recurrent_files


def test_table():
    rows = [
        {"units": 8, "weights": weights, "form": form, "bytes": 4000, "ms": 0.5 + (form == "fused"), "difference": 2e-7}
        for weights in recurrent_files.WEIGHTS
        for form in recurrent_files.FORMS
    ]
    lines = recurrent_files.table(rows, 8).splitlines()
    assert lines[-1] == "| palette, 4 bits | 4,000 | 4,000 | 0.500 | 1.500 | 2e-07 |"
    assert len(lines) == 2 + len(recurrent_files.WEIGHTS)


@pytest.mark.slow
def test_run_writes_files_that_compute_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(recurrent_files, "WEIGHTS", ("float", "2 bits"))
    recurrent_files.FLAGS(["", "--rounds=1", "--runs=1"])
    rows = recurrent_files.run(8, {})
    assert [(row["weights"], row["form"]) for row in rows] == [
        ("float", "loop"),
        ("float", "fused"),
        ("2 bits", "loop"),
        ("2 bits", "fused"),
    ]
    assert all(0 < row["difference"] < 1e-6 and row["ms"] > 0 for row in rows)
    assert rows[2]["bytes"] < rows[0]["bytes"]
