"""The benchmark of recurrent steps: a smoke run, its table, bad flags. No figure is judged."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "recurrent_step.py"


def run(*flags):
    """Runs the script."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(SCRIPT), *map(str, flags)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=600, check=False)


def test_smoke(tmp_path):
    path = tmp_path / "rows.json"
    done = run("--smoke", f"--out={path}")
    assert done.returncode == 0, done.stderr[-4000:]
    rows = json.loads(path.read_text())
    assert [row["variant"] for row in rows] == ["control", "w2_mse", "w2_mse_a3"]
    assert all(row["units"] == 8 and row["ratio"] > 0 and row["machine"]["cores"] for row in rows)
    assert "| the float layer again |" in done.stdout and "### 8 units, batch 20, length 30" in done.stdout


def test_a_pattern_that_fits_nothing():
    done = run("--variants=w9*")
    assert done.returncode == 2 and "fits no variant" in done.stderr
