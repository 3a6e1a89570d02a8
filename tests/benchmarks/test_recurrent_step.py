"""The benchmark of recurrent steps: a smoke run, its table, bad flags. No figure is judged."""

import json

import pytest

from tests.scripts import run

SCRIPT = "benchmarks/recurrent_step.py"


@pytest.mark.slow
def test_smoke(tmp_path):
    path = tmp_path / "rows.json"
    code, out, error = run(SCRIPT, "--smoke", f"--out={path}")
    assert code == 0, error[-4000:]
    rows = json.loads(path.read_text())
    assert [row["variant"] for row in rows] == ["control", "w2_mse", "w2_mse_a3"]
    assert all(row["units"] == 8 and row["ratio"] > 0 and row["machine"]["cores"] for row in rows)
    assert "| the float layer again |" in out and "### 8 units, batch 20, length 30" in out


def test_a_pattern_that_fits_nothing():
    code, _, error = run(SCRIPT, "--variants=w9*")
    assert code == 2 and "matches no variant" in error
