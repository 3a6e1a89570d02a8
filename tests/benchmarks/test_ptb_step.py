"""The benchmark of the Penn Treebank example's step: a small run. No figure is judged."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_small_run():
    command = [sys.executable, str(ROOT / "benchmarks" / "ptb_step.py")]
    command += ["--words=60", "--units=4", "--rounds=1", "--repeats=1", "--processor_time"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    lines = done.stdout.splitlines()
    assert lines[0] == "| step | ms of the processor | words a second |" and len(lines) == 9
    assert lines[2].startswith("| Keras, ") and "cores" in lines[-1]
