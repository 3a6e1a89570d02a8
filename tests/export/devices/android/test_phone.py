"""Files on a phone: a real adb client, a stub of its server, a stand-in for benchmark_model (see the two stubs)."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys

import pytest

from r2keras._util.text import to_text
from r2keras.export import DeviceResults
from r2keras.export.devices.android.adb import Adb
from r2keras.export.devices.android.binary import check_binary
from r2keras.export.devices.android.phone import run_on_phone
from r2keras.export.devices.android.plan import make_plan
from r2keras.export.devices.android.table import phone_table


def plan_of(file, data, **settings):
    return make_plan([file], data, **{"threads": [1], "kernels": ["xnnpack"], "num_runs": 3, "samples": 1, **settings})


@pytest.fixture
def start(file, program, data, tmp_path):
    """Returns a function that runs the file on the phone; the results go to results.json."""

    def run(given=data, settings=None, **options):
        plan = plan_of(file, given, **(settings or {}))
        return run_on_phone([file], plan, program, tmp_path / "results.json", **options)

    return run


def test_files_run_and_outputs_agree(phones, start, tmp_path):
    server = phones()
    results = start(settings={"kernels": ["xnnpack", "builtin"], "samples": 2})
    assert DeviceResults.load(tmp_path / "results.json") == results
    assert (results.name, results.details["serial"], results.details["sdk"]) == ("Acme One 5", "A1", "35")
    assert {(r.threads, r.extra["xnnpack"]) for r in results.results} == {(1, True), (1, False)}
    for result in results.results:
        assert result.passed and result.error is None and result.max_difference <= result.tolerance
        assert result.runs == 3 and result.median_ms is not None and result.extra["init_ms"] > 0
        assert result.extra["peak_memory_bytes"] == 12.5 * 2**20
        assert result.extra["outputs"] == "checked: 2 samples"
    first, second = results.results
    assert (first.extra["delegated_operators"], second.extra["delegated_operators"]) == (2, None)
    assert list(server.storage.iterdir()) == []
    table = to_text(phone_table(results))
    assert "Results on Acme One 5" in table and "2 of 3" in table and "passed, 0" in table


def test_the_program_arrives_as_it_is(phones, start, program, monkeypatch):
    server = phones()
    arrived = []
    give = server._give

    def look(stream, path):
        arrived.append((server.storage / "r2keras" / "pushed").read_bytes())
        give(stream, path)

    monkeypatch.setattr(server, "_give", look)
    start()
    assert arrived and set(arrived) == {program.read_bytes()}


def test_other_outputs_fail(phones, start):
    phones(FAKE_BENCHMARK="wrong")
    (result,) = start().results
    assert result.passed is False and result.max_difference == pytest.approx(1, abs=1e-5) and result.error is None


def test_outputs_that_are_not_finite_fail(phones, start):
    phones(FAKE_BENCHMARK="nan")
    results = start()
    assert (results.results[0].passed, results.results[0].max_difference) == (False, None)
    assert "not finite" in " ".join(str(results).split())


@pytest.mark.parametrize("given", ["old", "no data"])
def test_outputs_that_cannot_be_checked(phones, start, data, given):
    phones(FAKE_BENCHMARK="old" if given == "old" else "")
    (result,) = start(data if given == "old" else None).results
    assert result.passed is None and result.error is None and result.runs == 3
    assert result.extra.get("outputs", "").startswith("not checked: this benchmark_model has no") == (given == "old")


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("crash", "was ended by signal 11 (SIGSEGV): "),
        ("refuse", "ended with exit code 1: INFO: Loaded model model_0.tflite / ERROR: Didn't find op for builtin"),
        ("compiled", "this benchmark_model has no --use_xnnpack; use android_aarch64_benchmark_model"),
    ],
)
def test_a_program_that_fails_has_a_row_with_its_last_lines(phones, start, mode, words):
    phones(FAKE_BENCHMARK=mode)
    (result,) = start().results
    assert words in result.error


def test_a_run_that_is_finished_is_not_repeated(phones, start, tmp_path):
    server = phones()
    start()
    before = json.loads((tmp_path / "results.json").read_text())
    server.commands.clear()
    again = start(settings={"threads": [1, 2]})
    assert [r.threads for r in again.results] == [1, 2]
    assert json.loads((tmp_path / "results.json").read_text())["results"][0] == before["results"][0]
    assert not any("num_threads=1" in command for command in server.commands)
    server.commands.clear()
    start()
    assert len(server.commands) == 1  # The phone's properties.
    start(fresh=True)
    assert any("num_threads=1" in command for command in server.commands)


@pytest.mark.parametrize("other", ["unchecked", "samples", "inputs", "tolerance"])
def test_a_run_is_repeated_until_these_outputs_are_checked(phones, start, data, other, monkeypatch):
    first = {"x": data["x"] + 1} if other == "inputs" else None if other == "unchecked" else data
    phones()
    with monkeypatch.context() as patched:
        if other == "tolerance":
            patched.setattr("r2keras.export.devices.golden.FLOAT_TOLERANCE", 100.0)
        (before,) = start(first).results
    assert before.passed is (None if other == "unchecked" else True)
    phones(FAKE_BENCHMARK="wrong")
    (result,) = start(settings={"samples": 2 if other == "samples" else 1}).results
    assert result.passed is False


def test_a_checked_run_serves_without_data(phones, start):
    server = phones()
    start()
    server.commands.clear()
    assert start(None).results[0].passed
    assert len(server.commands) == 1  # The phone's properties.


def test_more_timed_runs_are_run(phones, start):
    server = phones()
    start()
    assert start(settings={"num_runs": 7}).results[0].runs == 7
    server.commands.clear()
    assert start(settings={"num_runs": 5}).results[0].runs == 7
    assert len(server.commands) == 1


def test_a_slow_run_that_ended_early_is_not_repeated(phones, start, tmp_path):
    server = phones()
    start()
    path = tmp_path / "results.json"
    path.write_text(path.read_text().replace('"runs": 3', '"runs": 2'))
    server.commands.clear()
    start()
    assert len(server.commands) == 1


def test_a_failed_run_is_repeated(phones, start):
    phones(FAKE_BENCHMARK="refuse")
    assert start().results[0].error
    phones()
    (result,) = start().results
    assert result.passed and result.error is None


def test_a_changed_file_runs_again(phones, start, file):
    phones()
    start()
    file.write_bytes(file.read_bytes() + bytes(16))
    assert len(start().results) == 2


def test_results_of_another_phone_or_version_are_kept(phones, start, tmp_path):
    phones()
    path = tmp_path / "results.json"
    DeviceResults("Other 1", "android", {}, ()).save(path)
    with pytest.raises(ValueError, match=r"has the results of Other 1, and Acme One 5 is connected"):
        start()
    path.write_text(path.read_text().replace('"version": 1', '"version": 9'))
    with pytest.raises(ValueError, match="its version is 9, and this release reads 1"):
        start()


@pytest.mark.parametrize("devices", [{}, {"A1": "device", "B2": "device"}])
def test_one_phone_is_needed(phones, devices):
    phones(devices)
    words = r"Several phones are connected: A1, B2\. Choose one with --serial\." if devices else "No phone is connected"
    with pytest.raises(RuntimeError, match=words):
        Adb()


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("unauthorized", "A1 does not trust this computer yet: unlock it"),
        ("offline", "A1 is offline: unplug it"),
        ("no permissions", "A1 may not be opened by this user"),
        ("recovery", "A1 is in the state recovery"),
    ],
)
def test_a_phone_that_cannot_be_used(phones, state, words):
    phones({"A1": state})
    with pytest.raises(RuntimeError, match=words):
        Adb()


def test_a_phone_is_chosen_by_its_serial_number(phones):
    phones({"A1": "offline", "B2": "device"})
    assert Adb("B2").shell("echo hello; echo error >&2") == "hello\n"
    with pytest.raises(RuntimeError, match=r"No phone with the serial number C3 is connected\. Connected: A1, B2"):
        Adb("C3")


def test_a_phone_that_is_unplugged(phones):
    server = phones()
    adb = Adb()
    server.devices.clear()
    with pytest.raises(RuntimeError, match="adb failed: the phone was unplugged"):
        adb.shell("true")


def test_a_command_that_fails_says_so(phones):
    phones()
    with pytest.raises(RuntimeError, match="adb failed: no such thing"):
        Adb().shell("echo no such thing >&2; exit 3")


def test_a_full_phone(phones, start, tmp_path):
    phones().full = True
    with pytest.raises(RuntimeError, match="the phone has no space left: free some in its storage"):
        start()
    assert not (tmp_path / "results.json").exists()


def test_a_phone_of_another_processor(phones, start):
    server = phones(STUB_ABI="armeabi-v7a")
    with pytest.raises(ValueError, match=r"The phone A1 runs armeabi-v7a\. Expected arm64-v8a"):
        start()
    assert list(server.storage.iterdir()) == []


def test_adb_is_not_installed(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RuntimeError, match=r"the program `adb`, which is not installed\. Install Android's"):
        Adb()


def test_a_real_server_without_a_phone(monkeypatch, tmp_path):
    """Debian's own adb server, started and ended here; it finds the phones of this machine, if there are any."""
    if shutil.which("adb") is None:
        pytest.skip("adb is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", port)
    monkeypatch.setenv("HOME", str(tmp_path))
    try:
        listed = subprocess.run(["adb", "devices"], capture_output=True, text=True, check=True).stdout.split()
        if listed[-1] != "attached":
            pytest.skip("a phone is connected")
        with pytest.raises(RuntimeError, match="No phone is connected"):
            Adb()
    finally:
        subprocess.run(["adb", "kill-server"], check=True)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"#!/bin/sh\n", "which is a script"),
        (b"PK\x03\x04" + bytes(20), "which is an archive or an .apk"),
        (b"hello", "which is not an ELF program"),
        (b"\x7fELF\x02\x01\x01" + bytes(11) + b"\x3e\x00", "which is a program for x86-64"),
        (b"\x7fELF\x01\x01\x01" + bytes(11) + b"\x28\x00", "which is a program for 32-bit ARM"),
    ],
)
def test_another_program_is_refused_before_anything_is_sent(phones, start, program, content, words):
    server = phones()
    program.write_bytes(content)
    with pytest.raises(ValueError, match=words) as caught:
        start()
    assert "argument `benchmark_model`. Expected LiteRT's android_aarch64_benchmark_model" in str(caught.value)
    assert server.commands == []


def test_this_machine_s_python_is_another_program(program):
    assert check_binary(program) == program
    if os.uname().machine == "x86_64":
        with pytest.raises(ValueError, match="which is a program for x86-64"):
            check_binary(os.path.realpath(sys.executable))
