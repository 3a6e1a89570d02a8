"""The .zip for a colleague: its content, run.sh on a stub of a phone, and what comes back."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
import signal
import subprocess
import zipfile

import numpy as np
import pytest

from r2keras.export import DeviceResults
from r2keras.export.devices.android.kit import write_kit
from r2keras.export.devices.android.logs import read_logs
from r2keras.export.devices.android.plan import make_plan
from tests.export.devices.android.stub_adb import ARM64_PROGRAM

SETTINGS = {"threads": [1, 2], "kernels": ["xnnpack"], "num_runs": 3, "samples": 1}


@pytest.fixture
def unpacked(file, data, tmp_path):
    """The unpacked .zip, with the program beside run.sh."""
    with zipfile.ZipFile(io.BytesIO(write_kit([file], make_plan([file], data, **SETTINGS)))) as archive:
        archive.extractall(tmp_path / "colleague")
    folder = tmp_path / "colleague" / "r2keras-android"
    (folder / "benchmark_model").write_bytes(ARM64_PROGRAM)
    return folder


def run_script(folder, **environment):
    environment = os.environ | environment
    options = {"cwd": folder, "env": environment, "capture_output": True, "text": True, "check": False}
    # A shell that starts with interrupts ignored, as jobs in the background do, cannot trap them.
    return subprocess.run(["sh", "run.sh"], preexec_fn=heed_interrupts, **options)


def heed_interrupts():
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_equal_input_gives_equal_bytes(file, data):
    two = SETTINGS | {"samples": 2}
    first, second = (write_kit([file], make_plan([file], data, **two)) for _ in range(2))
    assert first == second
    with zipfile.ZipFile(io.BytesIO(first)) as archive:
        assert archive.testzip() is None
        names = [name.removeprefix("r2keras-android/") for name in archive.namelist()]
        golden = ["golden/0/golden.json", "golden/0/input_0.npy", "golden/0/output_0.npy"]
        phone = ["phone/input_0_0_0.bin", "phone/input_0_1_0.bin", "phone/model_0.tflite"]
        assert names == ["README.txt", *golden, "manifest.json", *phone, "run.sh"]
        assert archive.read("r2keras-android/phone/model_0.tflite") == file.read_bytes()
        row = np.frombuffer(archive.read("r2keras-android/phone/input_0_1_0.bin"), "<f4")
        np.testing.assert_array_equal(row, data["x"][1])
        assert archive.getinfo("r2keras-android/run.sh").external_attr >> 16 == 0o755


def test_the_script_is_posix_shell(unpacked):
    for shell in filter(shutil.which, ("dash", "sh")):
        subprocess.run([shell, "-n", "run.sh"], cwd=unpacked, check=True)


def test_what_the_script_brings_back_is_read(phones, unpacked, tmp_path, file):
    server = phones()
    ran = run_script(unpacked)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "Send back" in ran.stdout
    assert list(server.storage.iterdir()) == []
    results = read_logs(unpacked / "results")
    assert (results.name, [r.threads for r in results.results]) == ("Acme One 5", [1, 2])
    assert all(r.passed and r.file == file.name and r.runs == 3 for r in results.results)
    packed = shutil.make_archive(str(tmp_path / "sent"), "zip", unpacked, "results")
    assert read_logs(packed) == results
    assert read_logs(shutil.make_archive(str(tmp_path / "inner"), "zip", unpacked / "results")) == results
    assert DeviceResults.load(results.save(tmp_path / "results.json")) == results


def test_a_crash_does_not_stop_the_script(phones, unpacked):
    phones(FAKE_BENCHMARK="crash")
    assert run_script(unpacked).returncode == 0
    assert all("SIGSEGV" in result.error for result in read_logs(unpacked / "results").results)


def test_an_interrupted_script_keeps_what_is_finished(phones, unpacked):
    server = phones()
    script = (unpacked / "run.sh").read_text()
    later = "run 0_t2_xnnpack.memory.log"
    assert later in script
    (unpacked / "run.sh").write_text(script.replace(later, f"kill -INT $$; {later}"))
    assert run_script(unpacked).returncode == 130
    assert list(server.storage.iterdir()) == []
    first, second = read_logs(unpacked / "results").results
    assert first.passed and second.error == "benchmark_model was not run: the run was interrupted"


@pytest.mark.parametrize(
    ("devices", "words"),
    [
        ({}, "No phone is connected"),
        ({"A1": "unauthorized"}, "does not trust this computer yet"),
        ({"A1": "offline"}, "The phone is offline"),
        ({"A1": "recovery"}, "The phone cannot be used: A1 recovery"),
        ({"A1": "device", "B2": "device"}, "ANDROID_SERIAL=serial sh run.sh"),
    ],
)
def test_the_script_names_what_is_wrong_with_the_phone(phones, unpacked, devices, words):
    phones(devices)
    ran = run_script(unpacked)
    assert ran.returncode == 2 and words in ran.stderr
    assert not (unpacked / "results").exists()


def test_the_script_takes_the_named_phone(phones, unpacked):
    phones({"A1": "offline", "B2": "device"})
    assert run_script(unpacked, ANDROID_SERIAL="B2").returncode == 0


@pytest.mark.parametrize("content", [None, b"#!/bin/sh\n", b"\x7fELF\x02\x01\x01" + bytes(11) + b"\x3e\x00"])
def test_the_script_needs_the_program(phones, unpacked, content):
    server = phones()
    program = unpacked / "benchmark_model"
    program.unlink() if content is None else program.write_bytes(content)
    ran = run_script(unpacked)
    assert ran.returncode == 2
    assert ("is missing" if content is None else "is not a program for 64-bit ARM") in ran.stderr
    assert server.commands == []


def test_the_script_needs_adb(unpacked, tmp_path):
    folder = tmp_path / "few"
    folder.mkdir()
    for name in ("sh", "dirname"):
        (folder / name).symlink_to(shutil.which(name))
    ran = run_script(unpacked, PATH=str(folder))
    assert ran.returncode == 2 and "adb is not installed" in ran.stderr


def test_a_full_phone_stops_the_script(phones, unpacked):
    phones().full = True
    ran = run_script(unpacked)
    assert ran.returncode == 2 and "Is the phone full?" in ran.stderr


def change_manifest(folder, **change):
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def test_other_folders_are_refused(tmp_path, unpacked):
    with pytest.raises(FileNotFoundError, match=r"Expected the folder or \.zip of results that run\.sh wrote"):
        read_logs(tmp_path / "none")
    with pytest.raises(ValueError, match=r"which has no manifest\.json"):
        read_logs(tmp_path)
    with pytest.raises(ValueError, match=r"which has no log\. Run run\.sh again"):
        read_logs(unpacked)
    change_manifest(unpacked, version=2)
    with pytest.raises(ValueError, match="it is r2keras-android-plan of version 2, and this release reads"):
        read_logs(unpacked)
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ValueError, match=r"is not a readable \.zip"):
        read_logs(tmp_path / "a.zip")


def test_outputs_of_another_size_are_an_error(phones, unpacked):
    phones()
    run_script(unpacked)
    (unpacked / "results" / "logs" / "0_t1_xnnpack.check0.bin").write_bytes(bytes(5))
    first, second = read_logs(unpacked / "results").results
    assert first.error == "the outputs take 5 bytes, not 32" and second.passed


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"threads": [0]}, "argument `threads`"),
        ({"threads": [2, 2]}, "argument `threads`"),
        ({"threads": [1, 1025]}, "argument `threads`.*from 1 to 1024"),
        ({"kernels": ["gpu"]}, "argument `kernels`"),
        ({"num_runs": 0}, "argument `num_runs`"),
        ({"samples": 0}, "argument `samples`"),
    ],
)
def test_settings_out_of_range_are_refused(file, settings, words):
    with pytest.raises(ValueError, match=words):
        make_plan([file], None, **{**SETTINGS, **settings})


def test_data_that_do_not_fit_are_refused(file, data):
    with pytest.raises(ValueError, match=r"arrays named as the inputs of .*: x or x|Received: arrays named image"):
        make_plan([file], {"image": data["x"]}, **SETTINGS)
    with pytest.raises(ValueError, match="argument `x`"):
        make_plan([file], {"x": data["x"][:, 1:]}, **SETTINGS)
    with pytest.raises(ValueError, match="files of different names"):
        make_plan([file, file], None, **SETTINGS)


def test_a_fixed_batch_is_filled_with_copies_of_the_last_sample(file, data):
    plan = make_plan([file], data, **SETTINGS | {"samples": 3})
    double = dataclasses.replace(plan, files=(dataclasses.replace(plan.files[0], step=2),))
    last = np.frombuffer(double.inputs(0)["input_0_1_0.bin"], "<f4").reshape(2, -1)
    np.testing.assert_array_equal(last, np.stack([data["x"][2]] * 2))
    assert "--input_layer_shape=2,8 " in double.commands(double.runs()[0])["0_t1_xnnpack.check1.log"]
