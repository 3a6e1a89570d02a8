"""The table of integer coverage: shares of operators, decisions of both tools, the ratio of the times, faults."""

import numpy as np
import pytest

from benchmarks import integer_coverage
from benchmarks.common import Rows
from benchmarks.integer_coverage import Case
from r2keras.workloads import nets
from tests import scripts

ABOUT = {"cpu": "X", "cores": 2, "system": "Linux", "versions": {"numpy": "2"}, "date": "2026-01-01", "load": 0.1}
ROW = {
    "net": "MobileNet",
    "pixels": 64,
    "samples": 64,
    "test": 256,
    "seconds": {"calibrate": [6.0, 9.0], "file": [3.0, 4.0], "TFLite": [10.0, 12.0]},
    "r2keras": {
        "operators": {"CONV_2D": [14, 0], "SOFTMAX": [0, 1]},
        "bytes": 3_351_456,
        "agreement": 0.5,
        "error": 0.25,
    },
    "TFLite": {"operators": {"CONV_2D": [14, 0]}, "bytes": 3_530_944, "agreement": 0.375, "error": 0.3},
    "only_own": 40,
    "only_TFLite": 8,
    "machine": ABOUT,
}


def cells(text, line):
    return text.splitlines()[line].strip("| ").split(" | ")


def test_tables_show_both_tools():
    text = integer_coverage.table([ROW])
    assert cells(text, 2)[:8] == ["MobileNet", "64", "14 of 15", "14 of 14", "50.0%", "37.5%", "40", "8"]
    assert cells(text, 2)[8:] == ["0.250", "0.300", "3.35", "3.53"]
    assert cells(text, 6) == ["MobileNet", "64", "6.0", "3.0", "10.0", "0.60", "0.90"]


def test_an_autoencoder_decides_nothing_and_faults_are_named():
    tools = {tool: ROW[tool] | {"agreement": None} for tool in integer_coverage.TOOLS}
    silent = {name: value for name, value in ROW.items() if not name.startswith("only")} | {"pixels": 0} | tools
    text = integer_coverage.table([silent, {"net": "Xception", "pixels": 71, "fault": "stopped", "machine": ABOUT}])
    assert cells(text, 2)[1:8] == ["-", "14 of 15", "14 of 14", "-", "-", "-", "-"]
    assert "- Xception: stopped" in text


def test_finished_rows_are_kept_and_faults_run_again(tmp_path, monkeypatch):
    store = Rows(tmp_path / "rows.json", ("net",))
    store.add([ROW, {"net": "Xception", "fault": "stopped"}])
    calls = []

    def measured(net, pixels, data_dir):
        calls.append((net, pixels, data_dir))
        return {}

    monkeypatch.setattr(integer_coverage, "_in_fresh_process", measured)
    integer_coverage.run({"MobileNet": 64, "Xception": 71}, store, "folder", again=False)
    assert calls == [("Xception", 71, "folder")]


def test_own_file_of_a_small_net(tmp_path):
    data = np.random.default_rng(0).normal(size=(32, 8, 8, 1)).astype("float32")
    case = Case(nets.build("cnn", (8, 8, 1), 10), data[:16], data[16:])
    seconds = integer_coverage._write_own(case, tmp_path / "own.tflite")
    assert list(seconds) == ["calibrate", "file"] and min(seconds["file"]) > 0
    found = integer_coverage._compared(case, tmp_path / "own.tflite")
    assert all(floats == 0 < integers for integers, floats in found["operators"].values())
    assert found["agreement"] == found["equal"].mean() and 0 < found["error"] < 0.5


def test_unknown_network(tmp_path):
    code, _, error = scripts.run("benchmarks/integer_coverage.py", "--nets=AlexNet", f"--out={tmp_path / 'rows.json'}")
    assert code == 2 and "--nets=AlexNet is unknown" in error


@pytest.mark.slow
def test_smoke(tmp_path):
    code, table, error = scripts.run("benchmarks/integer_coverage.py", "--smoke", f"--out={tmp_path / 'rows.json'}")
    assert code == 0, error
    assert "| MobileNet | 32 | 33 of 33 | 33 of 33 |" in table
