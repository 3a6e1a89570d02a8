"""Comparison of several files of one model: bytes, latency and memory."""

from __future__ import annotations

import dataclasses
import gzip
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r2keras._util.display import Tabular
from r2keras._util.errors import check_named_files, check_threads
from r2keras._util.tables import add_row, new_table
from r2keras._util.text import count, number

if TYPE_CHECKING:
    from rich.table import Table

ROUTE_COLUMNS = ("file", "bytes", "gzip", "ms", "p90 ms", "peak KiB")


@dataclasses.dataclass(frozen=True)
class Route:
    """The figures of one file.

    Args:
        name: its name in the table.
        file_bytes: size of the file on disk.
        gzip_bytes: size of the file after gzip.
        median_ms: median latency at batch size 1, in milliseconds.
        p90_ms: 90th percentile of the latency, in milliseconds.
        peak_bytes: peak memory of a process that loads and runs the file, including about a megabyte of LiteRT itself;
            None if it was not measured.

    Example:

    >>> Route("exact", 47344, 39452, 0.5, 0.6).file_bytes
    47344
    """

    name: str
    file_bytes: int
    gzip_bytes: int
    median_ms: float
    p90_ms: float
    peak_bytes: int | None = None


@dataclasses.dataclass(frozen=True)
class Routes(Tabular):
    """Figures of several files; `print` shows them as a table.

    Args:
        rows: one entry per file, in the order given.

    Example:

    >>> print(Routes((Route("exact", 47344, 39452, 0.5, 0.6), Route("integer", 52000, 41000, 0.25, 0.3, 2**20))))
    <BLANKLINE>
     file        bytes    gzip     ms  p90 ms  peak KiB
     ──────────────────────────────────────────────────
     exact      47,344  39,452  0.500   0.600         –
     integer    52,000  41,000  0.250   0.300     1,024
    """

    rows: tuple[Route, ...]

    def to_dict(self) -> dict[str, Any]:
        """Returns all figures as plain JSON."""
        return {"rows": [dataclasses.asdict(row) for row in self.rows]}

    def __rich__(self) -> Table:
        return routes_table(self)


def compare_routes(
    files: Mapping[str, str | os.PathLike],
    *,
    num_runs: int = 50,
    num_threads: int = 1,
    xnnpack: bool = True,
    memory: bool = True,
    isolated: bool = False,
) -> Routes:
    """Measures several files of one model, such as the exact and the integer route, or all forms of one record.

    Args:
        files: paths of `.tflite` files by their names in the table.
        num_runs: number of runs that latencies are measured over.
        num_threads: threads of the interpreter, 1 to 1024.
        xnnpack: whether the XNNPACK delegate may run operators, as on phones.
        memory: whether to measure peak memory. Each file is run in its own process, which takes half a second; Linux
            only.
        isolated: whether latency is measured in a process of its own as well, for files of unknown origin.

    Returns:
        The figures; `print` shows them as a table.

    Raises:
        TypeError: `files` is not a dict.
        ValueError: no files; a file is not a `.tflite` file; `num_runs` is below 1, or `num_threads` out of range.
        FileNotFoundError: a file does not exist.
        ImportError: ai-edge-litert is not installed.

    Example:

    >>> import tempfile
    >>> import keras
    >>> from r2keras.export import to_litert
    >>> path = os.path.join(tempfile.mkdtemp(), "float.tflite")
    >>> _ = to_litert(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]), path)
    >>> [row.name for row in compare_routes({"float": path}, num_runs=3).rows]
    ['float']
    """
    check_named_files(files)
    num_threads = check_threads(num_threads)
    from r2keras.export.runtime.litert_model import LiteRTModel
    from r2keras.export.runtime.peak_memory import peak_memory

    rows = []
    for name, path in files.items():
        latency = LiteRTModel(path, num_threads, xnnpack=xnnpack, isolated=isolated).latency(num_runs)
        data = Path(path).read_bytes()
        gzip_bytes = len(gzip.compress(data, 6, mtime=0))
        peak = peak_memory(path, num_threads, xnnpack=xnnpack) if memory else None
        rows.append(Route(name, len(data), gzip_bytes, latency.median_ms, latency.p90_ms, peak))
    return Routes(tuple(rows))


def routes_table(routes: Routes) -> Table:
    """Returns a rich table with one line per file."""
    table = new_table("", [(name, name != "file") for name in ROUTE_COLUMNS])
    for row in routes.rows:
        add_row(table, route_cells(row))
    return table


def route_cells(row: Route) -> list[str]:
    """Returns the cells of one file, in the order of `ROUTE_COLUMNS`."""
    peak_kib = None if row.peak_bytes is None else row.peak_bytes / 1024
    return [
        row.name,
        count(row.file_bytes),
        count(row.gzip_bytes),
        number(row.median_ms),
        number(row.p90_ms),
        count(peak_kib),
    ]
