"""r2keras-android: bundle, run and read, on a stub of a phone (see tests/export/devices/android/stub_adb.py)."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
import zipfile

import pytest

from r2keras.cli import android
from tests import scripts
from tests.export.devices.android import stub_adb

pytestmark = pytest.mark.skipif(shutil.which("adb") is None, reason="adb is not installed")
FEW = ("--threads=1", "--kernels=xnnpack", "--num_runs=3", "--samples=1")


@pytest.fixture
def phones(tmp_path, monkeypatch):
    with stub_adb.starting(tmp_path, monkeypatch) as start:
        yield start


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "program"
    path.write_bytes(stub_adb.ARM64_PROGRAM)
    return path


def call(*arguments):
    return android.main(["r2keras-android", *map(str, arguments)])


def settings(made, program, tmp_path):
    return (
        f"--files={made / 'small.tflite'}",
        f"--data={made / 'x.npz'}",
        f"--benchmark_model={program}",
        f"--results={tmp_path / 'results.json'}",
    )


def test_run_prints_a_table_and_keeps_the_results(made, phones, program, tmp_path, capsys):
    phones()
    assert call("run", *settings(made, program, tmp_path), *FEW) == 0
    out, err = capsys.readouterr()
    assert "Results on Acme One 5" in out and "passed" in out
    assert err == "small.tflite: 1 thread, XNNPACK\n"
    (result,) = json.loads((tmp_path / "results.json").read_text())["results"]
    assert (result["passed"], result["xnnpack"], result["runs"]) == (True, True, 3)
    assert call("run", *settings(made, program, tmp_path), *FEW) == 0
    assert capsys.readouterr().err == ""


def test_other_outputs_are_an_exit_code(made, phones, program, tmp_path, capsys, monkeypatch):
    phones(FAKE_BENCHMARK="wrong")
    monkeypatch.setenv("COLUMNS", "200")
    assert call("run", *settings(made, program, tmp_path), *FEW) == 1
    assert "differ by 1, allowed" in " ".join(capsys.readouterr().out.split())


def test_bundle_and_read(made, phones, program, tmp_path, capsys):
    phones()
    packed = tmp_path / "phone.zip"
    assert call("bundle", *settings(made, program, tmp_path)[:2], f"--output={packed}", *FEW) == 0
    assert f"{packed.stat().st_size:,} bytes, runs to do: 1." in capsys.readouterr().out
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(tmp_path)
    folder = tmp_path / "r2keras-android"
    shutil.copy(program, folder / "benchmark_model")
    subprocess.run(["sh", "run.sh"], cwd=folder, check=True, capture_output=True)
    assert call("read", f"--logs={folder / 'results'}", f"--results={tmp_path / 'results.json'}") == 0
    assert "Results on Acme One 5" in capsys.readouterr().out
    assert json.loads((tmp_path / "results.json").read_text())["device"]["kind"] == "android"


@pytest.mark.slow  # A process that imports TensorFlow.
def test_an_interrupted_run_keeps_what_is_finished_and_cleans_the_phone(made, phones, program, tmp_path):
    server = phones(FAKE_BENCHMARK="hang")
    few = ("--threads=1,2", "--kernels=builtin", "--num_runs=2", "--samples=1")
    process = scripts.start("tools/android.py", "run", *settings(made, program, tmp_path), *few)
    pid = server.storage / "r2keras" / "pid"
    deadline = time.monotonic() + 120
    while not (any("num_threads=2" in c for c in server.commands) and pid.is_file() and pid.read_text().strip()):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    hanging = int(pid.read_text())
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err.splitlines()[-1]) == (130, "Stopped.")
    assert list(server.storage.iterdir()) == []
    with pytest.raises(ProcessLookupError):
        for _ in range(100):
            os.kill(hanging, 0)
            time.sleep(0.05)
    (result,) = json.loads((tmp_path / "results.json").read_text())["results"]
    assert result["threads"] == 1 and result["passed"]
    phones()
    assert call("run", *settings(made, program, tmp_path), *few) == 0
    rows = json.loads((tmp_path / "results.json").read_text())["results"]
    assert rows[0] == result and rows[1]["threads"] == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "The first argument should be bundle, run or read. Received none"),
        (["play"], "Received: 'play'"),
        (["run"], "--files is missing"),
        (["run", "--files=a.tflite"], "--benchmark_model is missing"),
        (["run", "--files=a.tflite", "--benchmark_model=none"], "File not found: none. Download android_aarch64"),
        (["bundle", "--files=a.tflite"], "--output is missing"),
        (["bundle", "--files=a.tflite", "--output=a.tar"], "--output=a.tar should end in .zip"),
        (["bundle", "--files=a.tflite", "--output=a.zip"], "File not found: a.tflite"),
        (["bundle", "--files=a.tflite", "--output=a.zip", "--threads=x"], "--threads=x should be numbers"),
        (["bundle", "--files=a.tflite", "--output=a.zip", "--data=x.npy"], "x.npy"),
        (["read"], "--logs is missing"),
        (["read", "--logs=none"], "File not found: none"),
    ],
)
def test_mistake_is_one_sentence(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and words in err and len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_help_teaches(capsys):
    assert call("--help") == 0
    out = capsys.readouterr().out
    assert "r2keras-android bundle --files=" in out and "Exit code: 0;" in out
    assert call("run", "--help") == 0
