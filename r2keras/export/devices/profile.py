"""Latency, bytes and form of weights of each operator of a file."""

from __future__ import annotations

import dataclasses
import os
import random
from typing import TYPE_CHECKING, Any

import numpy as np

from r2keras._util.display import Tabular
from r2keras._util.errors import check_int, check_threads, invalid_part
from r2keras._util.native_log import quiet
from r2keras._util.progress import progress_bar
from r2keras._util.tables import add_row, new_table, text_cell
from r2keras._util.text import count, percent
from r2keras.export.devices.single_operators import Part, content_of, parts_of
from r2keras.export.runtime.delegation import delegated
from r2keras.export.runtime.litert_model import LiteRTModel
from r2keras.export.runtime.sessions import LiteRTSession
from r2keras.export.tflite.interpreter import existing, open_interpreter, parse

if TYPE_CHECKING:
    from rich.table import Table

# Rows of the printed table; `rows` holds all.
MOST_ROWS = 30


@dataclasses.dataclass(frozen=True)
class ProfileRow:
    """One operator of a file, with the operators that compute its weights from constants.

    Args:
        kind: its name in the schema, such as `"CONV_2D"`.
        weight: the name of its largest constant; "" without one.
        form: how it reads its weights: `"packed"` (few-bit or 8-bit codes as they are stored), `"decoded"` (at every
            call), `"decoded once"` (at the first call, into a variable), `"float"`, two of them in a loop, or "".
        runs_on: `"XNNPACK"` or `"LiteRT"` (its built-in kernels).
        num_bytes: bytes of its constants.
        median_ms: the median of its runs in milliseconds; None for an operator on a state, which does not run alone.

    Example:

    >>> ProfileRow("FULLY_CONNECTED", "head/kernel", "packed", "XNNPACK", 320, 0.002).form
    'packed'
    """

    kind: str
    weight: str
    form: str
    runs_on: str
    num_bytes: int
    median_ms: float | None


@dataclasses.dataclass(frozen=True)
class Profile(Tabular):
    """Latency of each operator of a file; `print` shows the slowest as a table.

    Args:
        path: the file.
        rows: one per operator that depends on the inputs, in the order in which they run.
        total_ms: the median of runs of the whole file.
        num_threads: threads of the interpreter.
        xnnpack: whether XNNPACK ran operators.

    Example:

    >>> row = ProfileRow("FULLY_CONNECTED", "head/kernel", "packed", "XNNPACK", 320, 0.002)
    >>> Profile("m.tflite", (row,), 0.003, 1, True).sum_ms
    0.002
    """

    path: str
    rows: tuple[ProfileRow, ...]
    total_ms: float
    num_threads: int
    xnnpack: bool

    @property
    def sum_ms(self) -> float:
        """Sum of the rows' milliseconds. It differs from `total_ms` where calls or copies take their share."""
        return sum(row.median_ms or 0.0 for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Returns all figures as plain JSON."""
        return {**dataclasses.asdict(self), "sum_ms": self.sum_ms}

    def __rich__(self) -> Table:
        kernels = "XNNPACK" if self.xnnpack else "built-in kernels"
        threads = f"{self.num_threads} thread{'s' * (self.num_threads > 1)}"
        columns = [("operator", False), ("weights", False), ("form", False), ("runs on", False)]
        title = f"{self.path}: operators, {threads}, {kernels}"
        table = new_table(title, [*columns, *((name, True) for name in ("bytes", "ms", "share"))], foldable="weights")
        slowest = sorted(self.rows, key=lambda row: -(row.median_ms or 0.0))
        for row in slowest[:MOST_ROWS]:
            ms = "" if row.median_ms is None else f"{row.median_ms:.4f}"
            share = "" if row.median_ms is None else percent(row.median_ms / self.sum_ms)
            add_row(table, [row.kind, row.weight, row.form, row.runs_on, count(row.num_bytes), ms, share])
        rest = slowest[MOST_ROWS:]
        if rest:
            others = sum(row.median_ms or 0.0 for row in rest)
            figures = [count(sum(row.num_bytes for row in rest)), f"{others:.4f}", percent(others / self.sum_ms)]
            add_row(table, [f"{len(rest)} faster ones", "", "", "", *figures])
        table.caption = text_cell(f"One by one {self.sum_ms:.4f} ms; the whole file {self.total_ms:.4f} ms.")
        return table


def profile(
    path: str | os.PathLike,
    *,
    rounds: int = 15,
    runs: int = 5,
    num_threads: int = 1,
    xnnpack: bool = True,
    progress: bool = False,
) -> Profile:
    """Times every operator of a file on this machine, each as a file of its own.

    Operators that only depend on constants, such as those that decode weights, belong to the operator that reads their
    results; LiteRT runs them at every call. A loop is one operator. The inputs are those that the operator gets when
    the whole file runs on random inputs at batch size 1.

    Args:
        path: a `.tflite` file for LiteRT, of any tool.
        rounds: number of rounds, in each of which every operator runs, in a new random order.
        runs: runs of each operator per round.
        num_threads: threads of the interpreter, 1 to 1024.
        xnnpack: whether XNNPACK may run operators, as on phones.
        progress: whether to show a progress bar.

    Returns:
        Each operator's milliseconds, the bytes of its constants, and whether it reads few-bit weights as they are.

    Raises:
        FileNotFoundError: the file does not exist.
        ImportError: ai-edge-litert is not installed.
        ValueError: a number out of range; the file is not a `.tflite` that LiteRT runs, or has open sizes beside the
            batch.

    Example:

    >>> import tempfile
    >>> import keras
    >>> from r2keras.export import to_litert
    >>> file = os.path.join(tempfile.mkdtemp(), "model.tflite")
    >>> _ = to_litert(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="head")]), file)
    >>> [(row.kind, row.form, row.num_bytes) for row in profile(file, rounds=2, runs=1).rows]
    [('FULLY_CONNECTED', 'float', 32)]
    """
    rounds, runs = check_int("rounds", rounds, 1, None), check_int("runs", runs, 1, None)
    num_threads = check_threads(num_threads)
    path = existing(path)
    model = LiteRTModel(path, num_threads, xnnpack=xnnpack)
    total = float(np.median(model.times(max(25, runs))))
    content = path.read_bytes()
    parts = parts_of(parse(content, str(path)))
    if not parts:
        raise ValueError(invalid_part("path", "a file with an operator that reads its inputs", f"{path}, with none"))
    values = _values(content, str(path), {index for part in parts if not part.has_state for index in part.inputs})
    timed = [_Timed(part, content, values, num_threads, xnnpack) for part in parts]
    order = [part for part in timed if part.session is not None]
    shuffle = random.Random(0).shuffle
    with progress_bar(progress, rounds, "Timing") as update:
        for number in range(rounds):
            shuffle(order)
            for part in order:
                part.run(runs)
            update(number + 1, "Timing")
    return Profile(str(path), tuple(part.row() for part in timed), total, num_threads, xnnpack)


class _Timed:
    """One part of a file, opened on LiteRT.

    Args:
        part: the part.
        content: bytes of the whole file.
        values: what its inputs hold, by tensor.
        num_threads: threads of the interpreter.
        xnnpack: whether XNNPACK may run operators.

    Attributes:
        session: None if the part cannot run alone.
    """

    def __init__(self, part: Part, content: bytes, values: dict[int, np.ndarray], num_threads: int, xnnpack: bool):
        self.part = part
        self.times: list[float] = []
        self.session: LiteRTSession | None = None
        self._runs_on = "LiteRT"
        if part.has_state:
            return
        own = content_of(part, parse(content))
        self._arrays = [values[index] for index in part.inputs]
        with quiet():
            self.session = LiteRTSession(own, num_threads, xnnpack)
            if xnnpack and part.position in delegated(own, part.kind):
                self._runs_on = "XNNPACK"

    def run(self, runs: int) -> None:
        """Times some runs."""
        assert self.session is not None  # Only parts that run alone are timed.
        self.times += self.session.times(self._arrays, runs)

    def row(self) -> ProfileRow:
        """Returns the row of the table."""
        part, median = self.part, float(np.median(self.times)) if self.times else None
        return ProfileRow(part.kind, part.weight, part.form, self._runs_on, part.num_bytes, median)


def _values(content: bytes, name: str, wanted: set[int]) -> dict[int, np.ndarray]:
    """Returns what tensors hold after a run of the whole file on random inputs."""
    interpreter = open_interpreter(content, name, keep_all=True)
    rng = np.random.default_rng(0)
    with quiet():
        interpreter.allocate_tensors()
        for detail in interpreter.get_input_details():
            is_float = np.issubdtype(detail["dtype"], np.floating)
            values = rng.standard_normal(detail["shape"]) if is_float else np.zeros(detail["shape"])
            interpreter.set_tensor(detail["index"], values.astype(detail["dtype"]))
        interpreter.invoke()
    return {index: interpreter.get_tensor(index).copy() for index in wanted}
