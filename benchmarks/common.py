"""Shared by the benchmarks: interleaved timing, quartiles, the description of the machine, and rows in a JSON file."""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Row = dict[str, Any]
PACKAGES = ("tensorflow", "keras", "tf-keras", "tensorflow-model-optimization", "ai-edge-litert", "numpy")


def interleave(
    steps: dict[str, Callable[[], object]],
    rounds: int,
    repeats: int,
    tick: Callable[[], object] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Times several callables interleaved, so that a slowdown of the machine affects all of them.

    Each round runs every callable `repeats` times, in a new random order each time.

    Args:
        steps: the callables by name; each has run before, so that no compilation is timed.
        rounds: number of rounds.
        repeats: calls of each callable per round.
        tick: called after each round.
        clock: returns seconds: wall time, or processor time (`time.process_time`).

    Returns:
        One figure per round for each name: the median seconds of its calls in that round.
    """
    order, shuffle = list(steps), random.Random(0).shuffle
    figures: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(repeats):
            shuffle(order)
            for name in order:
                start = clock()
                steps[name]()
                seconds[name].append(clock() - start)
        for name in steps:
            figures[name].append(statistics.median(seconds[name]))
        tick()
    return figures


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Returns the lower quartile, the median and the upper quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def machine() -> Row:
    """Returns what the figures depend on: processor, cores, system, versions, date, and the load before the run."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": {name: _version(name) for name in PACKAGES},
        "date": datetime.date.today().isoformat(),
        "load": round(os.getloadavg()[0], 2),
    }


@functools.cache
def revision() -> str | None:
    """Returns the Git revision of the sources, with "-dirty" if there are changes; None outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    if shutil.which("git") is None:
        return None
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout.strip() or None


def machine_line(about: Row) -> str:
    """Returns the description of a machine on one line."""
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items() if version)
    computer = f"{about['cpu']}, {about['cores']} cores, {about['system']}"
    return f"{about['date']}: {computer}; {versions}; load {about['load']} before the run."


def machine_lines(rows: list[Row], name: Callable[[Row], str]) -> str:
    """Returns the machine of all rows on one line or, if they differ, one line per machine with the names of its rows.

    Args:
        rows: rows with a column `machine`.
        name: returns the name of a row.
    """
    names_by_line: dict[str, dict[str, None]] = {}
    for row in rows:
        names_by_line.setdefault(machine_line(row["machine"]), {})[name(row)] = None
    if len(names_by_line) == 1:
        return next(iter(names_by_line))
    return "\n\n".join(f"{'; '.join(names)}: {line}" for line, names in names_by_line.items())


class Rows:
    """Rows in a JSON file, one per line, written after every `add`.

    Args:
        path: the file; its rows are read if it exists.
        keys: the columns that identify a row; a new row replaces the one with the same values in them.

    Raises:
        ValueError: the file is not a list of rows.
    """

    def __init__(self, path: str | os.PathLike, keys: tuple[str, ...]):
        self.path = Path(path)
        self._keys = keys
        self.rows = _read(self.path) if self.path.exists() else []

    def add(self, new: list[Row]) -> None:
        """Adds rows and writes the file whole or not at all."""
        from r2keras._util.files import atomic_write_text

        fresh = [self._key(row) for row in new]
        rows = [row for row in self.rows if self._key(row) not in fresh] + new
        text = ",\n".join(json.dumps(row, allow_nan=False) for row in rows)
        atomic_write_text(self.path, f"[\n{text}\n]\n")
        self.rows = rows

    def _key(self, row: Row) -> tuple:
        return tuple(row[name] for name in self._keys)


def markdown(header: list[str], cells: list[list[str]]) -> str:
    """Returns a Markdown table."""
    lines = [header, ["---"] * len(header), *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _read(path: Path) -> list[Row]:
    """Reads the rows of a file."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise ValueError("not a list of rows")
    except ValueError as error:
        raise ValueError(
            f"{path} is not a readable results file ({error}). Restore it or choose another --out."
        ) from error
    return rows


# What products of 8-bit integers depend on, by the names in /proc/cpuinfo.
INSTRUCTIONS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "asimddp", "i8mm")


def _cpu() -> str:
    """Returns the processor's name and instruction sets."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))), [])
    found = ", ".join(name for name in INSTRUCTIONS if name in flags)
    return f"{names[0] if names else platform.machine()}{f' ({found})' if found else ''}"


def _version(name: str) -> str | None:
    """Returns the version of an installed package."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
