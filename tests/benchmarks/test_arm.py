"""The comparison of ARM with x86: its plan, its commands, its comparison of outputs and its tables; no emulator."""

from __future__ import annotations

import json
import os
import re
import sys

import numpy as np
import pytest

from benchmarks import arm, arm_files, arm_operators, arm_rows, arm_runner, arm_system, arm_table
from benchmarks.arm_files import FORMS, NETS, File

MACHINE = {"cpu": "x", "cores": 2, "system": "Linux", "versions": {}, "date": "2026-01-02", "load": 1.0}
SYSTEM = arm_system.System("arm64", "qemu-aarch64", ("python3",), ("manylinux_2_27_aarch64",), ("numpy==2.0.0",))


def test_files_have_names_of_their_own_and_every_net_and_form_takes_part():
    files = arm_files.files()
    names = [file.name for file in files]
    assert len(set(names)) == len(names) and all(re.fullmatch(r"[\w-]+", name) for name in names)
    assert {file.net for file in files} == set(NETS)
    assert {file.form for file in files} == set(FORMS)
    for net in NETS:
        exact = {file.weights for file in files if (file.net, file.form) == (net, "exact")}
        assert exact >= {"float", "W8", "W4", "W3", "W2", "W1"}


def test_finished_rows_are_not_planned_again():
    plan = arm.planned(["dense-W4-*"], ["cortex-a53", "i8mm"], [])
    names = [file.name for file in plan]
    assert "dense-W4-dynamic" in names and all(name.startswith("dense-W4-") for name in names)
    rows = [{"file": "dense-W4-dynamic", "cpu": "i8mm"}, {"file": "dense-W4-exact", "cpu": "i8mm"}]
    rows.append({"file": "dense-W4-exact", "cpu": "cortex-a53"})
    missing = {file.name: cpus for file, cpus in arm.planned(["dense-W4-*"], ["cortex-a53", "i8mm"], rows).items()}
    assert missing["dense-W4-dynamic"] == ["cortex-a53"] and "dense-W4-exact" not in missing
    assert missing["dense-W4-integer"] == ["cortex-a53", "i8mm"]


def test_outputs_are_compared_bit_by_bit_and_as_shares_of_the_range():
    expected = np.array([[0.0, 1.0], [-3.0, 0.5]], np.float32)
    same = arm_rows.compare([expected], [expected.copy()], [None])
    assert (same["values"], same["equal"], same["near"], same["largest"], same["codes"]) == (4, 4, 4, 0.0, None)
    found = np.array([[-0.0, 1.0], [-3.0, 0.9]], np.float32)
    row = arm_rows.compare([expected], [found], [0.2])
    assert (row["equal"], row["near"], row["broken"], row["off"]) == (2, 3, 0, 1)
    assert row["largest"] == pytest.approx(0.1, rel=1e-2) and row["codes"] == pytest.approx(2, rel=1e-2)
    assert row["median"] == 0.0


def test_codes_of_integer_outputs_are_compared_without_overflow():
    row = arm_rows.compare([np.array([-128, 0], np.int8)], [np.array([127, 0], np.int8)], [0.5])
    assert (row["codes"], row["off"], row["equal"], row["largest"]) == (255, 1, 1, 1.99)


def test_numbers_that_become_nan_are_broken():
    row = arm_rows.compare([np.array([1.0, 2.0, 5.0])], [np.array([1.0, np.nan, 5.0])], [None])
    assert (row["broken"], row["largest"], row["equal"]) == (1, 0.0, 2)


def test_outputs_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="Expected equal ones"):
        arm_rows.compare([np.zeros(3, np.float32)], [np.zeros(4, np.float32)], [None])


def test_apt_touches_its_own_folder_alone(tmp_path):
    command = arm_system.apt_command(SYSTEM, tmp_path, "update")
    assert command[0] == "apt-get" and command[-1] == "update" and "APT::Architecture=arm64" in command
    places = [part.partition("=")[2] for part in command if part.startswith("Dir::")]
    assert len(places) == 3 and all(place.startswith(f"{tmp_path}{os.sep}") for place in places)


def test_pip_fetches_wheels_for_the_python_that_the_folder_holds(tmp_path):
    (tmp_path / "system/usr/bin").mkdir(parents=True)
    (tmp_path / "system/usr/bin/python3").symlink_to("python3.13")
    command = arm_system.pip_command(SYSTEM, tmp_path)
    assert "--python-version=3.13" in command and "--only-binary=:all:" in command and command[-1] == "numpy==2.0.0"
    assert command[command.index("--platform") + 1] == "manylinux_2_27_aarch64"
    assert command[command.index("--target") + 1] == str(tmp_path / "site")


def test_the_emulator_gets_the_processor_and_its_description(tmp_path):
    command = arm_system.run_command(SYSTEM, tmp_path, "i8mm")
    assert command[:3] == ["qemu-aarch64", "-cpu", "max,sme=off"]
    assert command[-1] == str(tmp_path / "system/usr/bin/python3") and f"PYTHONPATH={tmp_path / 'site'}" in command
    arm_system.describe_processor(tmp_path, "cortex-a76")
    assert "CPU part\t: 0xd0b\n" in (tmp_path / "system/proc/cpuinfo").read_text()
    arm_system.describe_processor(tmp_path, "cortex-a53")
    assert "CPU part\t: 0xd03\n" in (tmp_path / "system/proc/cpuinfo").read_text()


def test_missing_programs_are_named_with_the_command_that_installs_them():
    with pytest.raises(RuntimeError, match=r"^qemu-aarch64 not found.*apt-get install qemu-user$"):
        arm_system.require(SYSTEM, lambda name: None if name.startswith("qemu") else name)
    with pytest.raises(RuntimeError, match=r"apt-get install qemu-user dpkg$"):
        arm_system.require(SYSTEM, lambda name: name if name == "apt-get" else None)
    arm_system.require(SYSTEM, lambda name: name)


@pytest.mark.parametrize(("version", "is_refused"), [("7.2.22", True), ("10.0.13", False)])
def test_sme_needs_a_newer_emulator(tmp_path, version, is_refused):
    qemu = tmp_path / "qemu-aarch64"
    qemu.write_text(f"#!/bin/sh\necho 'qemu-aarch64 version {version} (Debian)'\n")
    qemu.chmod(0o755)
    system = arm_system.system_of("sme", str(tmp_path))
    assert arm_system.checked_version(system, "i8mm") == version
    if is_refused:
        with pytest.raises(RuntimeError, match=r"is version 7\.2\.22; expected 10 or newer"):
            arm_system.checked_version(system, "sme")
    else:
        assert arm_system.checked_version(system, "sme") == version


def test_the_32_bit_processor_gets_the_older_runtime(tmp_path):
    system = arm_system.system_of("cortex-a7", None)
    assert (system.architecture, system.qemu) == ("armhf", "qemu-arm") and system.wheels == ("tflite-runtime==2.14.0",)
    command = arm_system.run_command(system, tmp_path, "cortex-a7")
    (libraries,) = [part for part in command if part.startswith("LD_LIBRARY_PATH=")]
    assert command[command.index(libraries) - 1] == "-E" and str(tmp_path / "system") in libraries
    assert "LD_LIBRARY_PATH" not in command and "LD_PRELOAD" in command


def test_a_folder_with_other_files_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(arm_system.shutil, "which", lambda name: name)
    monkeypatch.setattr(arm_system, "require", lambda system: None)
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(RuntimeError, match="holds other files"):
        arm_system.prepare(SYSTEM, tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "kept"


def test_a_failed_download_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(arm_system, "require", lambda system: None)
    failing = [sys.executable, "-c", "import sys; sys.exit('no route to host')"]
    monkeypatch.setattr(arm_system, "apt_command", lambda *words: failing)
    with pytest.raises(RuntimeError, match=r"no route to host.*check the network"):
        arm_system.prepare(SYSTEM, tmp_path / "new")
    assert not (tmp_path / "new" / arm_system.STAMP).exists()


def test_a_crash_costs_one_file(tmp_path):
    fake = tmp_path / "fake.py"
    lines = ["import json, os, sys", "for name in sys.argv[4:]:", "    if name == 'bad':"]
    lines += ["        print('gone', file=sys.stderr, flush=True)", "        os._exit(3)"]
    lines += ["    print(json.dumps({'name': name, 'refused': {}}), flush=True)"]
    fake.write_text("\n".join(lines))
    command = [sys.executable, str(fake)]
    found = list(arm.run_each(command, tmp_path, tmp_path / "out", ["a", "bad", "b", "c"]))
    assert [line["name"] for line in found] == ["a", "bad", "b", "c"]
    assert [bool(line["refused"]) for line in found] == [False, True, False, False]
    assert found[1]["refused"]["xnnpack"] == "exit status 3: gone"
    fake.write_text("")
    with pytest.raises(RuntimeError, match="ended before a"):
        list(arm.run_each(command, tmp_path, tmp_path / "out", ["a"]))


def test_a_file_runs_and_equals_itself(tmp_path):
    file = File("dense", "W4", "integer, int8 io")
    arm_files.write(file, tmp_path / f"{file.name}.tflite")
    (line,) = arm.run_each([sys.executable], tmp_path, tmp_path / arm_rows.X86, [file.name])
    assert line["refused"] == {} and line["delegated"]["xnnpack"] > 0 and line["delegated"]["built_in"] == 0
    (tmp_path / "again").mkdir()
    arm_runner.main(tmp_path, tmp_path / "again", [file.name])
    for row in arm_rows.rows(file, "again", line, line, tmp_path):
        assert row["equal"] == row["values"] == 12 * (arm_runner.SINGLE + arm_files.SAMPLES)
        assert (row["codes"], row["off"], row["largest"]) == (0, 0, 0)
        (counts,) = row["operators"].values()
        assert counts == [16 * (48 + 12), 0, 0] and list(row["operators"]) == ["FULLY_CONNECTED"]
    on_x86 = arm_rows.row_on_x86(file, line, tmp_path)
    assert on_x86["kernels"] == arm_rows.BOTH and on_x86["codes"] <= 1
    path = tmp_path / f"{file.name}.tflite"
    first, last = arm_rows.outputs(tmp_path / arm_rows.X86 / f"{file.name}.npz", "every_built_in")
    # Where the first operator differs, the second has no equal inputs to be compared on.
    assert arm_operators.compare(path, [first, last], [first, last ^ 1])["FULLY_CONNECTED"][1:] == [last.size, 1]
    assert arm_operators.compare(path, [first, last], [first ^ 1, last])["FULLY_CONNECTED"][0] == first.size
    told = line | {"refused": {"xnnpack": "no such operator"}}
    first, second = arm_rows.rows(file, "again", told, line, tmp_path)
    assert first["refused"] == {"again": "no such operator"} and "refused" not in second


def row(name, cpu, kernels, *, equal=10, largest=0.0, **columns):
    net, weights, form = name
    both = {"file": "-".join(name), "net": net, "weights": weights, "form": form, "cpu": cpu, "kernels": kernels}
    counts = {"values": 10, "equal": equal, "near": 10 if largest < 1e-5 else 9, "broken": 0}
    defaults = {"codes": None, "off": None, "median": 0.0, "largest": largest, "qemu": "10.0"}
    return {**both, **counts, **defaults, **columns}


OPERATORS = {"CONV_2D": [1000, 20, 1], "PAD": [8, 0, 0]}
ROWS = [
    row(("dense", "W4", "exact"), "cortex-a53", "xnnpack"),
    row(("dense", "W2", "exact"), "cortex-a53", "xnnpack", equal=7, largest=2e-7),
    row(("dense", "float", "exact"), "cortex-a53", "xnnpack"),
    row(("conv", "W4", "integer"), "cortex-a53", "xnnpack", codes=0.0, off=0),
    row(
        ("conv", "W4", "integer"),
        "cortex-a53",
        "built_in",
        equal=8,
        largest=4e-3,
        codes=1.0,
        off=2,
        operators=OPERATORS,
    ),
    row(("lstm", "W4", "dynamic step"), "cortex-a53", "xnnpack", equal=5, largest=3e-3, median=2e-8),
    row(("conv", "palette 4", "exact, memory"), "cortex-a53", "xnnpack", refused={"cortex-a53": "exit status 139"}),
    row(("dense", "W4", "exact"), "cortex-a7", "xnnpack", refused={"cortex-a7": "No operator 'A'. Is the file newer?"}),
    row(
        ("dense", "W4", "exact"), "cortex-a7", "built_in", refused={"cortex-a7": "No operator 'A'. Is the file newer?"}
    ),
    row(("dense", "W4", "exact"), "x86", arm_rows.BOTH, qemu="", machine=MACHINE),
]


def test_tables_count_equal_files_codes_and_refusals():
    text = arm_table.tables(json.loads(json.dumps(ROWS)))
    lines = [[cell.strip() for cell in line[2:-1].split("|")] for line in text.splitlines() if line.startswith("| ")]
    assert lines[0][1:-1] == ["cortex-a53, XNNPACK", "64 bits, built-in", "cortex-a7, built-in"]
    cells = {line[0]: line[1:] for line in lines[2:7]}
    assert list(cells) == ["exact", "float", "integer", "dynamic step", "palette"]
    assert cells["exact"] == ["1/2, 2.0e-07", "", "0/0, 1 refused", "1/1"]
    assert cells["integer"] == ["1/1", "0/1, 4.0e-03", "", ""]
    assert cells["palette"][0] == "0/0, 1 refused"
    assert ["W4", "0.0 %; 0", "20.0 %; 1", ""] in lines
    assert ["CONV_2D", "", "2.00 % of 1,000; 1", ""] in lines
    assert ["dynamic step, W4", "2e-08; 10.0 %; 3e-03", "", ""] in lines
    assert "- cortex-a53: exit status 139 (1 files)" in text and "- cortex-a7: No operator 'A' (1 files)" in text
    assert "Equal on ARM and x86: PAD." in text and "QEMU 10.0." in text and "2026-01-02" in text
    assert arm_table.tables([]) == "No rows yet."
    few = arm_table.tables([entry for entry in ROWS if entry["form"] == "exact"])
    assert "Integer files" not in few and "Dynamic files" not in few and few.startswith("Files that are equal")
