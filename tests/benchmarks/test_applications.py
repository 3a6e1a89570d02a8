"""The table of keras.applications: every result is shown, a fault is named and measured again."""

import numpy as np
import pytest

from benchmarks import applications
from benchmarks.common import Rows
from tests import scripts

ABOUT = {"cpu": "X", "cores": 2, "system": "Linux", "versions": {"numpy": "2"}, "date": "2026-01-01", "load": 0.1}
FILE = {
    "kernels": 28,
    "bytes": 1_712_144,
    "relative_difference": 9e-6,
    "steps": 22.0,
    "mean_steps": 4.25,
    "itself_steps": 8.5,
    "itself_agreement": 0.981,
    "codes_off": {
        "CONV_2D": {"operators": 2.0, "values": 900_000.0, "off": 3.0, "largest": 1.0},
        "MEAN": {"operators": 1.0, "values": 100_000.0, "off": 0.0, "largest": 0.0},
        "RESHAPE": {"operators": 1.0},
    },
    "agreement": 0.969,
    "operators": 32,
    "float_operators": 1,
    "error_to_float": 0.7,
    "processor_seconds": 3.0,
}


def row_of(job, **figures):
    return {"net": "MobileNet", "pixels": 32, "job": job, "machine": ABOUT, **figures}


def test_table_shows_every_result():
    rows = [
        row_of("regularize", loss=2.7),
        row_of("prepare", loss=2.8),
        row_of("exact", **FILE),
        row_of("integer", **FILE),
    ]
    cells = applications.table(rows).splitlines()[2].strip("| ").split(" | ")
    assert cells[:8] == ["MobileNet", "32", "28", "yes", "yes", "1.71", "9.0e-06", "1.71"]
    assert cells[8:] == ["4.2", "22.0", "96.9%", "8.5", "98.1%", "3.0", "1", "1 of 32", "0.700"]


def test_table_names_a_fault():
    text = applications.table([row_of("exact", fault="KeyError: 'conv'")])
    assert "| fault | fault |" in text and "- MobileNet, exact: KeyError: 'conv'" in text


def test_finished_rows_are_kept_and_faults_run_again(tmp_path, monkeypatch):
    store = Rows(tmp_path / "rows.json", ("net", "job"))
    store.add([row_of("regularize", loss=2.7), row_of("exact", fault="stopped")])
    calls = []

    def measured(net, size, job):
        calls.append(job)
        return FILE

    monkeypatch.setattr(applications, "measure_in_fresh_process", measured)
    applications.run({"MobileNet": 32}, ["regularize", "exact", "integer"], store, again=False)
    assert calls == ["exact", "integer"]
    assert not any("fault" in row for row in Rows(tmp_path / "rows.json", ("net", "job")).rows)


def test_images_differ_and_are_pixels():
    first, second = applications.images(2, 8, seed=0)
    assert first.shape == (8, 8, 3) and first.min() >= 0 and first.max() <= 255
    assert np.abs(first - second).mean() > 5


@pytest.mark.slow
def test_smoke(tmp_path):
    code, table, error = scripts.run("benchmarks/applications.py", "--smoke", f"--out={tmp_path / 'rows.json'}")
    assert code == 0, error
    assert "| MobileNet | 32 | 28 | yes | yes |" in table


def test_unknown_network(tmp_path):
    code, _, error = scripts.run("benchmarks/applications.py", "--nets=AlexNet", f"--out={tmp_path / 'rows.json'}")
    assert code == 2 and "--nets=AlexNet is unknown" in error
