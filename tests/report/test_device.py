"""Latencies of a phone in result rows: taken by checksum, and never mixed with this machine's."""

import hashlib

import pytest

from r2keras import report
from r2keras.export import DeviceResult, DeviceResults

COMMON = {"regularizer": "none", "seed": 0, "float_accuracy": 0.9, "accuracy": 0.9, "file_accuracy": 0.9}
FIGURES = {"file_bytes": 1000, "ideal_bytes": 900, "latency_ms": 0.1, "max_over_std": 3.0}


@pytest.fixture
def rows(tmp_path):
    """Two rows with files."""
    found = []
    for bits in (32, 4):
        path = tmp_path / f"w{bits}.tflite"
        path.write_bytes(f"file of {bits}".encode())
        method = "float" if bits == 32 else "qat"
        found.append({**COMMON, **FIGURES, "method": method, "num_bits": bits, "path": str(path)})
    return found


def phone(*results):
    return DeviceResults("Pixel 7", "android", {}, tuple(results))


def result(content, ms, passed=True):
    checksum = hashlib.sha256(content.encode()).hexdigest()
    return DeviceResult("m.tflite", checksum, 10, ms, ms, 50, 1, passed, 0.0, 1e-5)


def test_the_fastest_run_of_each_file_counts(rows):
    results = phone(result("file of 32", 9.0), result("file of 32", 8.0), result("file of 4", 2.0))
    measured = report.on_device(rows, results)
    assert [row["latency_ms"] for row in measured] == [8.0, 2.0]
    assert rows[0]["latency_ms"] == 0.1
    measured[1]["file_bytes"] = 900
    text = report.recommend(measured, max_accuracy_drop=0.01, max_bytes=None).text
    assert "2.00 ms on Pixel 7, 4.0x faster than the float file" in text


def test_files_that_did_not_run_have_no_latency(rows):
    measured = report.on_device(rows, phone(result("file of 4", 2.0)))
    assert [row["latency_ms"] for row in measured] == [None, 2.0]


def test_the_page_names_the_device(rows, tmp_path):
    measured = report.on_device(rows, phone(result("file of 32", 8.0), result("file of 4", 2.0)))
    advice = report.recommend(measured, max_accuracy_drop=0.01, max_bytes=None)
    report.write_html(tmp_path / "r.html", measured, recommendation=advice)
    page = (tmp_path / "r.html").read_text("utf-8")
    assert "on Pixel 7" in page and "this CPU" not in page


def test_wrong_outputs_and_other_files_are_refused(rows):
    with pytest.raises(ValueError, match=r"wrong outputs of m\.tflite"):
        report.on_device(rows, phone(result("file of 4", 2.0, passed=False)))
    with pytest.raises(ValueError, match="other files"):
        report.on_device(rows, phone(result("another", 2.0)))
