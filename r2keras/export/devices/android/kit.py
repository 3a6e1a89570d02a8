"""A .zip that a colleague runs on a phone with `adb` alone."""

from __future__ import annotations

import io
import os
import shlex
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from r2keras.export.devices.android.plan import CLEAN_COMMAND, DEVICE_COMMAND, MANIFEST, PROGRAM, REMOTE, Plan, sent

# The earliest date that a .zip can hold: contents alone decide its bytes.
DATE = (1980, 1, 1, 0, 0, 0)
FOLDER = "r2keras-android"
SCRIPT = r"""#!/bin/sh
# Runs the files of this folder on the connected phone and brings the logs back: sh run.sh
set -u
cd "$(dirname "$0")" || exit 2
export MSYS_NO_PATHCONV=1  # Git Bash on Windows would rewrite the phone's paths.
fail() { echo "$1" >&2; exit 2; }

command -v adb >/dev/null 2>&1 || fail "adb is not installed. Get Android's platform tools: \
https://developer.android.com/tools/releases/platform-tools"
[ -f @PROGRAM@ ] || fail "benchmark_model is missing. Put android_aarch64_benchmark_model beside this script, under \
the name benchmark_model."
case "$(od -An -tx1 -N20 @PROGRAM@ | tr -d ' \n')" in
  7f454c4602*b700) ;;
  *) fail "benchmark_model is not a program for 64-bit ARM. Download android_aarch64_benchmark_model." ;;
esac
phones=$(adb devices | awk '$1 != "List" && $1 != "*" && NF > 1 {print $1, $2}')
[ -z "${ANDROID_SERIAL:-}" ] || phones=$(echo "$phones" | awk -v s="$ANDROID_SERIAL" '$1 == s')
[ -n "$phones" ] || fail "No phone is connected. Plug one in, with USB debugging on in its developer options."
[ "$(echo "$phones" | wc -l)" -eq 1 ] || fail "Several phones are connected. Choose one: \
ANDROID_SERIAL=serial sh run.sh
$phones"
case "$phones" in
  *" device") ;;
  *unauthorized*) fail "The phone does not trust this computer yet. Unlock it and accept its question." ;;
  *offline*) fail "The phone is offline. Unplug it and plug it in again." ;;
  *) fail "The phone cannot be used: $phones" ;;
esac

rm -rf results results.zip
mkdir results
cp -R @MANIFEST@ golden results/ 2>/dev/null || cp @MANIFEST@ results/
adb shell '@DEVICE@' </dev/null >results/device.txt || fail "The phone did not answer."
grep -q '^abi=arm64-v8a' results/device.txt || fail "The phone is not 64-bit ARM (arm64-v8a)."

finish() {
  adb pull @REMOTE@/logs results/ >/dev/null 2>&1 || echo "The logs could not be brought back." >&2
  adb shell '@CLEAN@' </dev/null
  if command -v zip >/dev/null 2>&1; then zip -qr results.zip results; fi
  if [ -f results.zip ]; then echo "Send back results.zip"; else echo "Send back the folder results"; fi
}
adb shell '@CLEAN@; mkdir -p @REMOTE@/logs' </dev/null || fail "The phone did not answer."
trap finish EXIT
trap 'exit 130' INT TERM
adb push phone/* @PROGRAM@ @REMOTE@/ >/dev/null || fail "The files could not be sent. Is the phone full?"
adb shell 'chmod 755 @REMOTE@/@PROGRAM@' </dev/null
run() { echo "$1"; adb shell "$2" </dev/null || fail "The phone was lost. Plug it in and start again."; }
@RUNS@
"""
README = """Files for an Android phone
==========================

1. Install adb (Android's platform tools) and connect a phone with USB debugging on.
2. Put android_aarch64_benchmark_model into this folder, under the name benchmark_model.
   Download: https://developers.google.com/edge/litert/models/measurement
3. sh run.sh        (Windows: in Git Bash or WSL)
4. Send back results.zip, or the folder results.

It runs {runs} configurations, {minutes} or so. The phone keeps no file.
For true figures: battery above half, no charger that heats, screen on, no other app.
"""
SECONDS_PER_RUN = 5


def write_kit(paths: Sequence[str | os.PathLike], plan: Plan) -> bytes:
    """Returns the bytes of the .zip; equal files and data give equal bytes.

    Args:
        paths: the files of `plan`.
        plan: what to run.
    """
    contents = dict(sorted(_contents(paths, plan).items()))
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in contents.items():
            item = zipfile.ZipInfo(f"{FOLDER}/{name}", DATE)
            item.compress_type = zipfile.ZIP_DEFLATED
            item.external_attr = (0o755 if name == "run.sh" else 0o644) << 16
            item.create_system = 3  # Unix, on every machine.
            archive.writestr(item, content)
    return stream.getvalue()


def _contents(paths: Sequence[str | os.PathLike], plan: Plan) -> dict[str, bytes]:
    """Returns the files of the .zip by name."""
    with tempfile.TemporaryDirectory() as folder:
        plan.save(Path(folder))
        saved = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in Path(folder).rglob("*")
            if path.is_file() and path.suffix != ".bin"  # The phone gets its inputs one by one.
        }
    minutes = max(1, round(len(plan.runs()) * SECONDS_PER_RUN / 60))
    readme = README.format(runs=len(plan.runs()), minutes=f"{minutes} minute{'s' * (minutes > 1)}")
    phone = {f"phone/{name}": content for name, content in sent(paths, plan)}
    return {**saved, **phone, "run.sh": script(plan).encode(), "README.txt": readme.encode()}


def script(plan: Plan) -> str:
    """Returns `run.sh`."""
    commands = [pair for run in plan.runs() for pair in plan.commands(run).items()]
    runs = "\n".join(f"run {shlex.quote(name)} {shlex.quote(command)}" for name, command in commands)
    values = {
        "PROGRAM": PROGRAM,
        "MANIFEST": MANIFEST,
        "DEVICE": DEVICE_COMMAND,
        "CLEAN": CLEAN_COMMAND,
        "REMOTE": REMOTE,
        "RUNS": runs,
    }
    text = SCRIPT
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text
