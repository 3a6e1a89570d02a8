"""The benchmark of the defaults of `calibrate`: rows kept, mean and spread shown; every error is one sentence."""

import json

import pytest

from benchmarks.calibration_defaults import table
from tests import scripts


def run(*flags):
    return scripts.run("benchmarks/calibration_defaults.py", *flags)


def test_mean_and_spread_over_the_seeds():
    machine = {"cpu": "x", "cores": 1, "system": "y", "versions": {}, "date": "2026-01-01", "load": 0}
    shared = {"net": "resnet8", "bits": 4, "way": "auto", "float": 0.925, "error": 0.01, "machine": machine}
    rows = [{**shared, "seed": n, "accuracy": a, "processor_seconds": 2.0} for n, a in enumerate((0.9, 0.91, 0.92))]
    assert "| ResNet-8 | W4A8 | auto | 92.5 ± 0.0 | 91.0 ± 1.0 | 0.010 ± 0.000 | 2 |" in table(rows)


@pytest.mark.slow
def test_a_row_is_measured_kept_and_shown(tmp_path):
    out = f"--out={tmp_path / 'rows.json'}"
    code, printed, error = run("--smoke", out)
    assert code == 0, error
    (row,) = json.loads((tmp_path / "rows.json").read_text())
    assert (row["net"], row["bits"], row["way"]) == ("digits", 4, "no steps") and 0 <= row["accuracy"] <= 1
    assert "| digits | W4A8 | no steps |" in printed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--nets=vgg", "--data_dir=x"], "--nets=vgg is unknown"),
        (["--ways=best", "--data_dir=x"], "--ways=best is unknown"),
        ([], "--data_dir is missing"),
    ],
)
def test_what_is_wrong_is_said(flags, words, tmp_path):
    code, _, error = run(f"--out={tmp_path / 'rows.json'}", *flags)
    assert code == 2 and words in error
