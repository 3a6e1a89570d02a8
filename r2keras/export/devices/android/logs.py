"""Results from the logs of a phone."""

from __future__ import annotations

import dataclasses
import os
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from r2keras._util.errors import invalid_part
from r2keras.export.devices.android.log import BenchmarkLog, parse_log
from r2keras.export.devices.android.plan import MANIFEST, Plan, PlannedFile, Run, output_name
from r2keras.export.devices.golden import GoldenTensor
from r2keras.export.devices.results import DeviceResult, DeviceResults

EXPECTED = "the folder or .zip of results that run.sh wrote"
# Of an archive from elsewhere: more than any log and output takes.
LARGEST = 2**32
LONGEST_LOG = 2**22


def read_logs(path: str | os.PathLike) -> DeviceResults:
    """Returns the results that `run.sh` of a bundle brought back.

    Args:
        path: the folder `results`, or `results.zip`.

    Returns:
        One result per file and configuration that was begun; a run that was interrupted has an error.

    Raises:
        FileNotFoundError: the folder or archive does not exist.
        ValueError: it is damaged, holds something else, or no run.
    """
    path = Path(path)
    if path.is_file():
        with tempfile.TemporaryDirectory() as folder:
            _extract(path, Path(folder))
            return _read_folder(Path(folder), path)
    if not path.is_dir():
        raise FileNotFoundError(f"File not found: {path}. Expected {EXPECTED}.")
    return _read_folder(path, path)


def result_of(plan: Plan, run: Run, logs: Path) -> DeviceResult:
    """Returns the result of one run from its logs and outputs.

    Args:
        plan: what was to run.
        run: the run.
        logs: the folder with the logs.
    """
    file = plan.files[run.number]
    named = {name: _log(logs / name) for name in plan.commands(run)}
    time, memory, *checks = named.values()
    unknown = {flag for log in named.values() for flag in log.unknown_flags}
    error = next((log.error for log in named.values() if log.error), None)
    if error is None and "use_xnnpack" in unknown:
        error = "this benchmark_model has no --use_xnnpack; use android_aarch64_benchmark_model"
    if error is None and not time.runs:
        error = "benchmark_model printed no times"
    extra = {**_figures(time), "peak_memory_bytes": memory.peak_memory_bytes, "xnnpack": run.xnnpack}
    extra["asked_runs"] = plan.num_runs
    base = DeviceResult(
        file.name, file.sha256, file.size, time.median_ms, None, time.runs, run.threads, error=error, extra=extra
    )
    if error or not checks:
        return base
    return _checked(base, file, run, logs, "output_filepath" in unknown)


def _checked(result: DeviceResult, file: PlannedFile, run: Run, logs: Path, unknown: bool) -> DeviceResult:
    """Returns a result with the comparison of outputs, or a note that the program cannot write them."""
    assert file.golden is not None
    paths = [logs / output_name(run, chunk) for chunk in range(file.num_chunks)]
    if unknown or not all(path.is_file() for path in paths):
        note = "not checked: this benchmark_model has no --output_filepath"
        return dataclasses.replace(result, extra={**result.extra, "outputs": note})
    try:
        outputs = _outputs(file, file.golden.outputs, paths)
        differences = file.golden.differences(outputs)
    except ValueError as error:
        return dataclasses.replace(result, error=str(error))
    tolerances = [tensor.tolerance for tensor in file.golden.outputs]
    worst = max(zip(differences, tolerances, strict=True), key=_share)
    note = f"checked: {file.golden.num_samples} samples"
    return dataclasses.replace(
        result,
        passed=file.golden.passed(outputs),
        max_difference=worst[0] if np.isfinite(worst[0]) else None,
        tolerance=worst[1],
        extra={**result.extra, "outputs": note, "golden": file.digest},
    )


def _share(pair: tuple[float, float]) -> float:
    """Returns a difference in shares of its tolerance; infinite if the outputs are not finite."""
    difference, tolerance = pair
    if not np.isfinite(difference):
        return np.inf
    return difference / tolerance if tolerance else np.inf if difference else 0.0


def _outputs(file: PlannedFile, tensors: tuple[GoldenTensor, ...], paths: list[Path]) -> list[np.ndarray]:
    """Returns the outputs of all samples; each file has those of one run, one output after the other."""
    parts: list[list[np.ndarray]] = [[] for _ in tensors]
    shapes = [(file.step, *tensor.values.shape[1:]) for tensor in tensors]
    types = [tensor.values.dtype.newbyteorder("<") for tensor in tensors]
    sizes = [int(np.prod(shape)) * dtype.itemsize for shape, dtype in zip(shapes, types, strict=True)]
    for path in paths:
        data = path.read_bytes()
        if len(data) != sum(sizes):
            raise ValueError(f"the outputs take {len(data):,} bytes, not {sum(sizes):,}")
        for index, (shape, dtype) in enumerate(zip(shapes, types, strict=True)):
            start = sum(sizes[:index])
            parts[index].append(np.frombuffer(data[start : start + sizes[index]], dtype).reshape(shape))
    count = len(tensors[0].values)
    return [np.concatenate(part)[:count] for part in parts]


def _figures(log: BenchmarkLog) -> dict[str, float | int | None]:
    """Returns the figures of time, memory and delegation that results have beside the common ones."""
    left_out = ("runs", "median_ms", "peak_memory_bytes", "unknown_flags", "error")
    return {name: value for name, value in dataclasses.asdict(log).items() if name not in left_out}


def _log(path: Path) -> BenchmarkLog:
    """Returns a log; one that was not begun has an error."""
    if not path.is_file():
        return BenchmarkLog(error="benchmark_model was not run: the run was interrupted")
    with open(path, "rb") as file:
        return parse_log(file.read(LONGEST_LOG).decode("utf-8", "replace"))


def _read_folder(folder: Path, path: Path) -> DeviceResults:
    """Returns the results in a folder; `path` is what the caller named."""
    if not (folder / MANIFEST).is_file():
        raise ValueError(invalid_part("logs", EXPECTED, f"{path}, which has no {MANIFEST}"))
    plan = Plan.load(folder)
    runs = [run for run in plan.runs() if any((folder / "logs" / name).is_file() for name in plan.commands(run))]
    if not runs:
        raise ValueError(invalid_part("logs", EXPECTED, f"{path}, which has no log", "Run run.sh again"))
    device = folder / "device.txt"
    details = parse_device(device.read_text("utf-8", "replace") if device.is_file() else "")
    return DeviceResults(
        device_name(details), "android", details, tuple(result_of(plan, r, folder / "logs") for r in runs)
    )


def parse_device(text: str) -> dict[str, str]:
    r"""Returns the facts on a phone that its properties say.

    >>> parse_device("model=Pixel 7\nsoc=\n")
    {'model': 'Pixel 7'}
    """
    pairs = (line.strip().partition("=") for line in text.splitlines())
    return {name: value for name, _, value in pairs if name and value}


def device_name(details: dict[str, str]) -> str:
    """Returns the phone's name.

    >>> device_name({"manufacturer": "Google", "model": "Pixel 7"}), device_name({})
    ('Google Pixel 7', 'an Android phone')
    """
    names = [details[key] for key in ("manufacturer", "model") if details.get(key)]
    return " ".join(names) or "an Android phone"


def _extract(path: Path, folder: Path) -> None:
    """Unpacks results; a folder `results` around them is left out."""
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(item.file_size for item in archive.infolist()) > LARGEST:
                raise zipfile.BadZipFile("it is too large")
            for item in archive.infolist():
                parts = Path(item.filename).parts
                parts = parts[1:] if parts[:1] == ("results",) else parts
                if item.is_dir() or not parts or ".." in parts or Path(*parts).is_absolute():
                    continue
                target = folder.joinpath(*parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(item))
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise ValueError(invalid_part("logs", EXPECTED, f"{path}, which is not a readable .zip: {error}")) from error
