"""The benchmark of calibration: one row per job, kept and shown; every error is one sentence."""

import json

import pytest

from tests import scripts


def run(*flags):
    return scripts.run("benchmarks/calibration.py", *flags)


@pytest.mark.slow
def test_a_job_is_measured_kept_and_shown(tmp_path):
    out = f"--out={tmp_path / 'rows.json'}"
    code, _, error = run("--smoke", out)
    assert code == 0, error
    (row,) = json.loads((tmp_path / "rows.json").read_text())
    assert row["job"] == "digits" and row["images"] == 64
    assert row["seconds"] > 0 and row["processor_seconds"] > 0 and row["gib"] > 0.1
    code, table, _ = run("--table", out)
    assert code == 0 and f"| digits | 64 | {row['seconds']:.1f} |" in table
    assert json.loads((tmp_path / "rows.json").read_text()) == [row]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--jobs=ResNet-9", "--data_dir=x"], 2, "--jobs=ResNet-9 is unknown"),
        ([], 2, "--data_dir is missing"),
        (["--jobs=ResNet-8 W8A8", "--data_dir=nowhere"], 1, "nowhere"),
    ],
    ids=["a job that does not exist", "no folder", "a folder that is not there"],
)
def test_what_is_wrong_is_said(flags, code, words, tmp_path):
    found, _, error = run(f"--out={tmp_path / 'rows.json'}", *flags)
    assert found == code and words in error, error
    assert not (tmp_path / "rows.json").exists()
