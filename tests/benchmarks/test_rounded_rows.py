"""The benchmark of training with rounded rows: its table, and a smoke run. No figure is judged."""

import json

import pytest

from benchmarks import rounded_rows
from tests.scripts import run


def test_table():
    rows = [
        {"net": "dense", "bits": 2, "seed": seed, "rows": rows, "float": 0.9, "file": 0.8 + 0.01 * seed + gain}
        for seed in (1, 0)
        for rows, gain in (("float", 0), ("dynamic", 0.005 * seed))
    ]
    line = rounded_rows.table(rows).splitlines()[2]
    figures = ["90.00 (90.00 to 90.00)", "80.50 (80.00 to 81.00)", "80.75 (80.00 to 81.50)", "+0.25 (+0.00 to +0.50)"]
    assert line == f"| dense | 2 | {' | '.join(figures)} |"


@pytest.mark.slow
def test_smoke(tmp_path):
    code, out, error = run("benchmarks/rounded_rows.py", "--smoke", "--bits=4", f"--out={tmp_path / 'rows.json'}")
    assert code == 0, error
    rows = {row["rows"]: row for row in json.loads((tmp_path / "rows.json").read_text())}
    assert set(rows) == {"float", "dynamic"} and "| dense | 4 |" in out
    assert abs(rows["dynamic"]["keras"] - rows["dynamic"]["file"]) < 0.005
