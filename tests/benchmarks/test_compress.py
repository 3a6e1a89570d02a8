"""The table of compress: means and half ranges over seeds, beside the smallest file by hand that is as accurate."""

from __future__ import annotations

import json

from benchmarks import compress

ROW = {"model": "dscnn", "max_drop": 0.01, "target": "cpu", "seed": 0, "bytes": 20_000, "float_bytes": 100_000}
ROW |= {
    "accuracy": 0.90,
    "float_accuracy": 0.91,
    "agreement": 0.95,
    "files": 6,
    "processor_seconds": 40.0,
    "gibibytes": 1.0,
}


def test_cells_are_means_beside_the_smallest_by_hand():
    rows = [ROW, {**ROW, "seed": 1, "bytes": 22_000, "accuracy": 0.92}]
    front = [
        {"model": "dscnn", "tool": "r2keras", "variant": name, "bytes": size, "accuracy": accuracy}
        for name, size, accuracy in (("W8", 40_000, 0.95), ("W4", 28_000, 0.91), ("W2", 9_000, 0.8))
    ]
    line = compress.table(rows, front).splitlines()[2]
    assert "| 21,000 ± 1,000 | 4.8 times | 0.0 ± 1.0 |" in line
    assert line.endswith("| 28,000 (W4) | 0.75 |")


def test_the_table_of_the_documents_is_that_of_the_results():
    rows, front = (json.loads(path.read_text()) for path in (compress.RESULTS, compress.FRONT))
    page = (compress.RESULTS.parents[2] / "docs" / "results" / "compress.md").read_text("utf-8")
    assert compress.table(rows, front) in page
