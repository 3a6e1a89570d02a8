"""Files of one model side by side: bytes, time and memory of routes (float, integer) and forms (size, latency)."""

from __future__ import annotations

import dataclasses
import gzip
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r2keras._errors import invalid
from r2keras.report._format import to_text

if TYPE_CHECKING:
    from rich.table import Table


@dataclasses.dataclass(frozen=True)
class Route:
    """One file.

    Args:
        name: what the table calls it.
        file_bytes: the file on disk.
        gzip_bytes: the file after gzip.
        median_ms: median time of one run at batch size 1, in milliseconds.
        p90_ms: nine in ten runs were faster.
        peak_bytes: the most memory that a process took to load and run it, LiteRT's own (about a megabyte) in it; None
            where it was not measured.

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
class Routes:
    """Files side by side; `print` it, or take `to_dict()`.

    Args:
        rows: one a file, in the order given.

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
        from r2keras.report.tables import routes_table

        return routes_table(self)

    def __str__(self) -> str:
        return to_text(self)


def compare_routes(
    files: Mapping[str, str | os.PathLike],
    *,
    num_runs: int = 50,
    num_threads: int = 1,
    xnnpack: bool = True,
    memory: bool = True,
) -> Routes:
    """Measures files of one model: the exact route beside the integer route, or the forms of one record.

    Args:
        files: paths of `.tflite` files by the names that the table gives them.
        num_runs: runs that each time is the median of.
        num_threads: threads of the interpreter.
        xnnpack: whether the XNNPACK delegate may run operators, as on phones.
        memory: whether to measure the memory of each file, in a process of its own (half a second each; on Linux).

    Returns:
        The figures; `print` shows them as a table.

    Raises:
        ValueError: no files; a file is no `.tflite`; `num_runs` is below 1.
        FileNotFoundError: there is no such file.
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
    if not files:
        raise ValueError(invalid("files", "at least one .tflite file by its name in the table", files))
    from r2keras.export.memory import peak_memory
    from r2keras.export.runtime import LiteRTModel

    rows = []
    for name, path in files.items():
        latency = LiteRTModel(path, num_threads, xnnpack=xnnpack).latency(num_runs)
        data = Path(path).read_bytes()
        packed = len(gzip.compress(data, 6, mtime=0))
        peak = peak_memory(path, num_threads, xnnpack=xnnpack) if memory else None
        rows.append(Route(name, len(data), packed, latency.median_ms, latency.p90_ms, peak))
    return Routes(tuple(rows))
