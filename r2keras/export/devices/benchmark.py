"""Latency of several files in turns on this machine, as ratios with their spread."""

from __future__ import annotations

import dataclasses
import os
import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from r2keras._util.display import Tabular
from r2keras._util.errors import check_int, check_named_files, check_threads
from r2keras._util.progress import progress_bar
from r2keras._util.tables import add_row, new_table
from r2keras._util.text import count
from r2keras.export.runtime.litert_model import LiteRTModel

if TYPE_CHECKING:
    from rich.table import Table


@dataclasses.dataclass(frozen=True)
class BenchmarkRow:
    """One file of a benchmark.

    Args:
        name: its name in the table.
        file_bytes: its size.
        median_ms: the median over all runs, in milliseconds.
        p90_ms: the 90th percentile over all runs.
        ratios: time as a share of the first file's: lower quartile, median and upper quartile over the rounds.

    Example:

    >>> BenchmarkRow("w4.tflite", 1000, 0.2, 0.25, (0.48, 0.5, 0.55)).ratios[1]
    0.5
    """

    name: str
    file_bytes: int
    median_ms: float
    p90_ms: float
    ratios: tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Benchmark(Tabular):
    """Latencies of several files; `print` shows a table.

    Args:
        rows: one per file, in the order in which they were given.
        num_threads: threads of the interpreter.
        xnnpack: whether XNNPACK ran operators.
        rounds: number of rounds, in each of which every file ran.

    Example:

    >>> Benchmark((), 1, True, 25).rounds
    25
    """

    rows: tuple[BenchmarkRow, ...]
    num_threads: int
    xnnpack: bool
    rounds: int

    def to_dict(self) -> dict[str, Any]:
        """Returns all figures as plain JSON."""
        return dataclasses.asdict(self)

    def __rich__(self) -> Table:
        kernels = "XNNPACK" if self.xnnpack else "built-in kernels"
        title = f"{self.rounds} rounds, {self.num_threads} thread{'s' * (self.num_threads > 1)}, {kernels}"
        columns = [("file", False), *((name, True) for name in ("bytes", "median ms", "p90 ms", "times the first"))]
        table = new_table(title, [*columns, ("quartiles", True)])
        for row in self.rows:
            low, middle, high = row.ratios
            figures = [count(row.file_bytes), f"{row.median_ms:.3f}", f"{row.p90_ms:.3f}", f"{middle:.2f}"]
            add_row(table, [row.name, *figures, f"{low:.2f} to {high:.2f}"])
        return table


def benchmark(
    files: Mapping[str, str | os.PathLike],
    *,
    rounds: int = 25,
    runs: int = 20,
    num_threads: int = 1,
    xnnpack: bool = True,
    isolated: bool = False,
    progress: bool = False,
) -> Benchmark:
    """Times files in turns, so that a slowdown of the machine affects all of them.

    In each round every file runs `runs` times at batch size 1 on random inputs, in a new random order. The ratio of a
    round is the median time of a file, divided by that of the first file in the same round.

    Args:
        files: paths by their names in the table; the others are compared with the first.
        rounds: number of rounds.
        runs: runs of each file per round.
        num_threads: threads of the interpreter, 1 to 1024.
        xnnpack: whether XNNPACK may run operators, as on phones.
        isolated: whether each file runs in a process of its own, for files of unknown origin.
        progress: whether to show a progress bar.

    Returns:
        Times and ratios.

    Raises:
        FileNotFoundError: a file does not exist.
        ImportError: ai-edge-litert is not installed.
        TypeError: `files` is not a dict.
        ValueError: no files; a number out of range; a file is not a `.tflite`, or has open sizes beside the batch.

    Example:

    >>> import tempfile
    >>> import keras
    >>> from r2keras.export import to_litert
    >>> path = os.path.join(tempfile.mkdtemp(), "model.tflite")
    >>> _ = to_litert(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]), path)
    >>> result = benchmark({"a": path, "b": path}, rounds=3, runs=2)
    >>> [row.name for row in result.rows], result.rows[0].ratios
    (['a', 'b'], (1.0, 1.0, 1.0))
    """
    check_named_files(files)
    num_threads = check_threads(num_threads)
    rounds, runs = check_int("rounds", rounds, 1, None), check_int("runs", runs, 1, None)
    models = {name: LiteRTModel(path, num_threads, xnnpack=xnnpack, isolated=isolated) for name, path in files.items()}
    times: dict[str, list[list[float]]] = {name: [] for name in models}
    order, shuffle = list(models), random.Random(0).shuffle
    with progress_bar(progress, rounds, "Timing") as update:
        for number in range(rounds):
            shuffle(order)
            for name in order:
                times[name].append(models[name].times(runs))
            update(number + 1, "Timing")
    reference = np.median(times[next(iter(models))], axis=1)
    rows = [_row(name, model, np.asarray(times[name]), reference) for name, model in models.items()]
    return Benchmark(tuple(rows), num_threads, xnnpack, rounds)


def _row(name: str, model: LiteRTModel, times: np.ndarray, reference: np.ndarray) -> BenchmarkRow:
    """Returns the row of one file, from times by round and run."""
    low, middle, high = np.quantile(np.median(times, axis=1) / reference, (0.25, 0.5, 0.75))
    median, p90 = np.quantile(times, (0.5, 0.9))
    ratios = float(low), float(middle), float(high)
    return BenchmarkRow(name, model.path.stat().st_size, float(median), float(p90), ratios)
