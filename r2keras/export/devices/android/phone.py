"""Running files on a connected phone, one configuration at a time."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from r2keras.export.devices.android.adb import Adb
from r2keras.export.devices.android.binary import check_binary
from r2keras.export.devices.android.logs import device_name, parse_device, result_of
from r2keras.export.devices.android.plan import (
    CLEAN_COMMAND,
    DEVICE_COMMAND,
    PROGRAM,
    REMOTE,
    Plan,
    Run,
    sent,
)
from r2keras.export.devices.results import DeviceResult, DeviceResults

ARM64 = "arm64-v8a"


def run_on_phone(
    paths: Sequence[str | os.PathLike],
    plan: Plan,
    benchmark_model: str | os.PathLike,
    results: str | os.PathLike,
    *,
    serial: str | None = None,
    fresh: bool = False,
    report: Callable[[str], object] = lambda text: None,
) -> DeviceResults:
    """Runs files on a phone and returns the results, which are saved after each run.

    Args:
        paths: the files of `plan`.
        plan: what to run.
        benchmark_model: LiteRT's program for 64-bit ARM.
        results: the JSON file of results. Runs that it holds are not repeated, unless they failed, were not checked
            with these inputs and expected outputs, or were timed fewer times.
        serial: the phone's serial number; None takes the only one.
        fresh: whether to forget the results of earlier runs.
        report: called with a line of text before each run.

    Raises:
        FileNotFoundError: the program does not exist.
        ValueError: the program is not one for 64-bit ARM; `results` is damaged or of another phone.
        RuntimeError: the phone cannot be used, is full, or was unplugged.
    """
    program = check_binary(benchmark_model)
    results = Path(results)
    earlier = DeviceResults.load(results) if results.exists() and not fresh else None
    adb = Adb(serial)
    details = _details(adb)
    name = device_name(details)
    if earlier and (earlier.kind, earlier.name) != ("android", name):
        raise ValueError(
            f"{results} has the results of {earlier.name}, and {name} is connected. Choose another --results, or start "
            "over with --fresh."
        )
    found = DeviceResults(name, "android", {**details, "serial": adb.serial}, earlier.results if earlier else ())
    earlier_of = {_key(result): result for result in found.results}
    runs = [run for run in plan.runs() if not _is_done(plan, run, earlier_of.get(_run_key(plan, run)))]
    if not runs:
        return found
    try:
        _send(adb, paths, plan, program)
        for run in runs:
            report(_label(plan, run))
            found = _with(found, _run(adb, plan, run))
            found.save(results)
    except BaseException:
        # The phone may be gone; the first error tells what happened.
        with contextlib.suppress(RuntimeError):
            adb.shell(CLEAN_COMMAND)
        raise
    adb.shell(CLEAN_COMMAND)
    return found


def _details(adb: Adb) -> dict[str, str]:
    """Returns facts on the phone; raises ValueError for one that is not 64-bit ARM."""
    details = parse_device(adb.shell(DEVICE_COMMAND))
    if details.get("abi") != ARM64:
        raise ValueError(
            f"The phone {adb.serial} runs {details.get('abi', 'an unknown ABI')}. Expected {ARM64}, for which "
            "android_aarch64_benchmark_model is built"
        )
    return details


def _send(adb: Adb, paths: Sequence[str | os.PathLike], plan: Plan, program: Path) -> None:
    """Sends the program, the files and their inputs."""
    adb.shell(f"{CLEAN_COMMAND}; mkdir -p {REMOTE}/logs")
    with tempfile.TemporaryDirectory() as folder:
        for name, content in (*sent(paths, plan), (PROGRAM, program.read_bytes())):
            (Path(folder) / name).write_bytes(content)
        adb.push(sorted(Path(folder).iterdir()), REMOTE)
    adb.shell(f"chmod 755 {REMOTE}/{PROGRAM}")


def _run(adb: Adb, plan: Plan, run: Run) -> DeviceResult:
    """Returns the result of one run."""
    with tempfile.TemporaryDirectory() as folder:
        for command in plan.commands(run).values():
            adb.shell(command)
        adb.pull(f"{REMOTE}/logs", Path(folder))
        adb.shell(f"rm -f {REMOTE}/logs/*")
        return result_of(plan, run, Path(folder) / "logs")


def _label(plan: Plan, run: Run) -> str:
    """Returns one line on a run."""
    kernels = "XNNPACK" if run.xnnpack else "built-in kernels"
    return f"{plan.files[run.number].name}: {run.threads} thread{'s' * (run.threads > 1)}, {kernels}"


def _with(results: DeviceResults, result: DeviceResult) -> DeviceResults:
    """Returns results with one more, in place of an earlier one of the same run."""
    kept = [other for other in results.results if _key(other) != _key(result)]
    return dataclasses.replace(results, results=(*kept, result))


def _is_done(plan: Plan, run: Run, result: DeviceResult | None) -> bool:
    """Whether a result of the same run has all that is asked for: an error-free run, timed as often, checked."""
    if result is None or result.error is not None:
        return False
    # benchmark_model stops early where runs are slow; another run would not time more of them.
    asked = result.extra.get("asked_runs")
    if (asked if isinstance(asked, int) else result.runs) < plan.num_runs:
        return False
    digest = plan.files[run.number].digest
    return digest is None or (result.passed is not None and result.extra.get("golden") == digest)


def _key(result: DeviceResult) -> tuple[object, ...]:
    """Returns what makes a result one of the same run."""
    return result.file, result.sha256, result.threads, result.extra.get("xnnpack")


def _run_key(plan: Plan, run: Run) -> tuple[object, ...]:
    """Returns the key of the result that a run will have."""
    file = plan.files[run.number]
    return file.name, file.sha256, run.threads, run.xnnpack
