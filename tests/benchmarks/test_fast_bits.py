"""The benchmark of packed files: its table, its baselines, and bad flags. No figure is judged."""

import json

import pytest

from benchmarks import fast_bits, fast_bits_files
from tests.scripts import run

ABOUT = {"cpu": "X", "cores": 2, "system": "Linux", "versions": {"numpy": "2"}, "date": "2026-01-01", "load": 0.1}


def test_table():
    row = {"net": "dense", "file": "W4 packed", "bytes": 343_760, "ms": 0.0161, "ratio": 0.25, "machine": ABOUT}
    row |= {"lower_quartile": 0.24, "upper_quartile": 0.26, "from_float": 0.15, "from_exact": 0.01}
    line = fast_bits.table([row]).splitlines()[2]
    assert line == "| dense | W4 packed | 343,760 | 0.016 | 0.25 | 0.24 to 0.26 | 0.1500 | 0.0100 |"


def test_every_net_has_a_baseline():
    assert {fast_bits_files.baseline(net) for net in fast_bits_files.NETS} == {"float", "W8A8"}


def test_an_unknown_net_is_named():
    code, _, error = run("benchmarks/fast_bits.py", "--nets=resnet9")
    assert code == 2 and error.count("\n") == 1 and "--nets=resnet9 is unknown" in error and "resnet8" in error


@pytest.mark.slow
def test_smoke(tmp_path):
    code, out, error = run("benchmarks/fast_bits.py", "--smoke", f"--out={tmp_path / 'rows.json'}")
    assert code == 0, error
    rows = {row["file"]: row for row in json.loads((tmp_path / "rows.json").read_text())}
    assert {"float", "W4 exact", "W4 packed", "W2 packed"} <= set(rows) and "| dense | W4 packed |" in out
    assert rows["W2 packed"]["bytes"] < rows["W4 packed"]["bytes"] < rows["float"]["bytes"] / 7
    assert rows["W4 packed"]["from_exact"] < 0.05
