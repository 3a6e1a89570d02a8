"""The pilot for a target: settings that follow from it, and rows with the target's bytes and milliseconds."""

import json

import pytest

from tests import scripts


def run(*flags):
    return scripts.run_warm(
        "examples/pilot.py", "--smoke", "--regularizers=none", "--bits=4", "--methods=ptq_mse", *flags
    )


def rows_of(folder):
    return {row["method"]: row for row in json.loads((folder / "results.json").read_text())}


@pytest.mark.parametrize(
    "flags, expected",
    [
        (["--target=phone"], "--target=phone is unknown"),
        (["--target=ethos-u", "--accelerator=u55"], "--accelerator=u55 is unknown"),
        (["--target=ethos-u", "--activation_bits=4"], "--target=ethos-u, which takes 8"),
        (["--target=mcu", "--activation_bits=8", "--methods=dkm"], "with --target=ethos-u only"),
    ],
)
def test_flags_that_contradict_each_other(flags, expected, tmp_path):
    code, out, error = run(*flags, f"--out={tmp_path / 'out'}")
    assert (code, out) == (2, "") and expected in error
    assert not (tmp_path / "out").exists()


def test_results_of_a_phone_are_read_before_the_work(tmp_path):
    code, out, error = run("--device_results=none.json", f"--out={tmp_path / 'out'}")
    assert (code, out) == (1, "") and "'none.json', which does not exist" in error
    assert not (tmp_path / "out").exists()


def test_a_microcontroller(tmp_path):
    code, _, error = run("--target=mcu", f"--out={tmp_path / 'out'}")
    assert code == 0, error
    row = rows_of(tmp_path / "out")["ptq_mse"]
    assert row["latency_ms"] is None and row["arena_bytes"] > row["file_bytes"]
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "--target=mcu --format=c_array" in page


@pytest.mark.slow
def test_an_npu(tmp_path):
    pytest.importorskip("ethosu", reason="ethos-u-vela is not installed")
    code, out, error = run("--target=ethos-u", f"--out={tmp_path / 'out'}")
    assert code == 0, error
    rows = rows_of(tmp_path / "out")
    assert rows["float"]["latency_ms"] is None
    assert rows["ptq_mse"]["device"] == "ethos-u55-128 (Vela's estimate)"
    assert rows["ptq_mse"]["latency_ms"] > 0
    assert "ms on ethos-u55-128" in " ".join(out.split())
