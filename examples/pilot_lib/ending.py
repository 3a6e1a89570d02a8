"""The end of a pilot run: the table, the recommendation and report.html."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from absl import flags
from rich.console import Console

from pilot_lib.settings import Settings, defaults_of
from pilot_lib.store import Store
from r2keras import CompressionRecord
from r2keras import report as reports
from r2keras.export import DeviceResults
from r2keras.workloads.data import Dataset

PACKAGES = ("keras", "tensorflow", "ai-edge-litert", "numpy")


def report(settings: Settings, store: Store, data: Dataset, console: Console) -> None:
    """Prints all rows of the folder and the recommendation; writes report.html."""
    rows = store.results.rows
    if not rows:
        console.print("No row is finished yet.")
        return
    on_phone = device_results(settings)
    if on_phone is not None:
        rows = reports.on_device(rows, on_phone)
    advice = reports.recommend(rows, max_accuracy_drop=settings.max_drop, max_bytes=settings.max_bytes)
    page = store.folder / "report.html"
    reports.write_html(
        page,
        rows,
        recommendation=advice,
        records=_summaries(rows, advice),
        settings=_provenance(settings, rows, data),
        default_settings=_split_fixed(settings)[0],
        commands=list(_commands(settings, store, advice.row, data)),
        title=f"{settings.dataset}, {Path(settings.model).name}: accuracy at low bit widths",
    )
    console.print(reports.results_table(rows))
    console.print(advice.text, markup=False, highlight=False)
    console.print(f"Rows: {store.results.path}. Report: {page}.", markup=False, highlight=False)


def device_results(settings: Settings) -> DeviceResults | None:
    """Returns the results of a phone that the settings name; None if they name none."""
    return DeviceResults.load(settings.device_results) if settings.device_results else None


def _commands(settings: Settings, store: Store, row: dict[str, Any] | None, data: Dataset) -> Iterator[tuple[str, str]]:
    """Yields what to do next with the recommended file: purpose and command line."""
    if row is None:
        return
    file = Path(row["path"])
    is_float = row["method"] == "float"
    model = store.model_path(row["regularizer"], row["seed"]) if is_float else file.with_suffix(".keras")
    if not model.is_file():  # Rows of earlier versions have no Keras model.
        return
    samples = store.write_samples(data.x_test, data.y_test)
    yield (
        "Check the file against its Keras model on test images",
        shlex.join(["r2keras-verify", f"--model={model}", f"--file={file}", f"--data={samples}"]),
    )
    source = [f"--model={model}", *([] if is_float else [f"--record={file.with_suffix('.npz')}"])]
    yield from _deployments(settings, source, file, samples)


def _deployments(settings: Settings, source: list[str], file: Path, samples: Path) -> Iterator[tuple[str, str]]:
    """Yields the commands that bring a file to its target."""
    convert = ["r2keras-convert", *source]

    def output(name: str, suffix: str = ".tflite") -> str:
        return f"{file.with_name(f'{file.stem}_{name}')}{suffix}"

    if settings.target == "ethos-u":
        flags_of_npu = ["--target=ethos-u", f"--accelerator={settings.accelerator}", f"--output={output('npu')}"]
        compiled = f"--npu_output={output('vela')}"
        yield "Compile it for the NPU", shlex.join([*convert, *flags_of_npu, compiled])
        return
    if settings.target == "mcu":
        arrays = ["--target=mcu", "--format=c_array", f"--output={output('c', '')}"]
        yield "Write C sources for a microcontroller", shlex.join([*convert, *arrays])
        return
    web, page = output("web"), output("page", "")
    yield "Write the form for browsers", shlex.join([*convert, "--target=browser", f"--output={web}"])
    yield (
        "Write a page that runs it on any phone or laptop",
        shlex.join(["r2keras-page", f"--files={web}", f"--data={samples}", f"--output={page}"]),
    )
    phone = output("cpu")
    yield "Write the form for phones", shlex.join([*convert, "--target=cpu", f"--output={phone}"])
    zipped = ["bundle", f"--files={phone}", f"--data={samples}", f"--output={output('phone', '.zip')}"]
    yield "Pack it for a colleague with an Android phone", shlex.join(["r2keras-android", *zipped])
    arrays = ["--target=mcu", "--format=c_array", f"--output={output('c', '')}"]
    yield "Write C sources for a microcontroller", shlex.join([*convert, *arrays])


def _split_fixed(settings: Settings) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the settings that have their default, and the others."""
    by_dataset, fixed = defaults_of(settings.dataset), settings.fixed()
    default = {name: by_dataset.get(name, flags.FLAGS[name].default) for name in fixed}
    same = {name: value for name, value in fixed.items() if value == default[name]}
    return same, {name: value for name, value in fixed.items() if name not in same}


def _summaries(rows: list[dict[str, Any]], advice: reports.Recommendation) -> dict[str, reports.Summary]:
    """Summarizes the recommended file, and the files that differ from it only in the regularizer."""
    chosen = advice.row or advice.nearest.typical_row
    kind = [chosen[key] for key in ("method", "num_bits", "seed")]
    same_kind = [row for row in rows if [row[key] for key in ("method", "num_bits", "seed")] == kind]
    summaries = {}
    for row in sorted(same_kind, key=lambda row: row is not chosen and row["path"] != chosen["path"]):
        record = Path(row["path"]).with_suffix(".npz")
        if record.is_file():
            summaries[Path(row["path"]).stem] = reports.summarize(CompressionRecord.load(record), row["path"])
    return summaries


def _provenance(settings: Settings, rows: list[dict[str, Any]], data: Dataset) -> dict[str, Any]:
    """Returns what is needed to reproduce the figures."""
    versions = [f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in PACKAGES)]
    return {
        "command": " ".join(["python", *sys.argv]),
        "seeds": sorted({row["seed"] for row in rows}),
        "images": f"{data.source}: {len(data.y_train)} for training, {len(data.y_validation)} for the choice, "
        f"{len(data.y_test)} for testing",
        **_split_fixed(settings)[1],
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "versions": ", ".join(versions),
    }
