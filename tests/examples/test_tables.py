"""The tables of docs/results have the figures of the rows that are kept as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"


def cells(page):
    """Returns the rows of all tables of a page as lists of texts."""
    lines = (ROOT / "docs" / "results" / f"{page}.md").read_text(encoding="utf-8").splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]


@pytest.mark.parametrize("path", sorted(RESULTS.glob("search_*.json")), ids=lambda path: path.stem)
def test_searches(path):
    found = json.loads(path.read_text())
    metric, table = found["settings"]["metric"], cells("search")
    for row in found["rows"]:
        value = row[metric]
        text = "-" if value is None else f"{100 * value:.2f} %" if metric == "accuracy" else f"{value:.1f}"
        named = [line for line in table if line[0] == row["label"] and line[3] == f"{row['bytes']:,}"]
        assert [line[1] for line in named] == [text], row["label"]
        assert named[0][4].startswith("front") == row["on_front"]


def test_integer_files():
    table = [line for line in cells("mlperf_tiny") if len(line) == 11]
    rows = json.loads((RESULTS / "mlperf_integer.json").read_text())
    for row in rows:
        name = f"W{row['num_bits']}A8" + ", AdaRound" * bool(row["steps"])
        name += ", depthwise and first W8" if row["eight_bits"] else ""
        (line,) = (line for line in table if line[:2] == [f"`{row['model']}`", name])
        sizes = {route["name"]: f"{route['file_bytes']:,}" for route in row["routes"]}
        assert line[2:5] == [f"{100 * row[k]:.1f}" for k in ("float_accuracy", "accuracy", "integer_accuracy")]
        assert float(line[5]) == pytest.approx(100 * row["integer_agreement"], abs=0.05) and line[6] == sizes["integer"]
        if row["num_bits"] < 8:
            assert line[7] == f"{100 * row['wide_accuracy']:.1f}" and line[9] == sizes["integer, 8-bit codes"]
            assert float(line[8]) == pytest.approx(100 * row["wide_agreement"], abs=0.05)
    assert len(rows) == len([line for line in table if line[1].startswith("W")]) == 11
