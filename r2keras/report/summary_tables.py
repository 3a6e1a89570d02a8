"""The tables of a summary: bytes, ranges, palettes, kernels kept in float, activations, notes and totals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from r2keras._util.errors import missing
from r2keras._util.tables import add_row, new_table, shape_text, text_cell
from r2keras._util.text import count, number, percent
from r2keras.record import CompressionRecord, RangeFigures
from r2keras.report.figures.occupancy import Clusters
from r2keras.specs.dynamic import DYNAMIC_BITS

if TYPE_CHECKING:
    from rich.console import Group as RenderableGroup
    from rich.table import Table
    from rich.text import Text

PALETTE_COLUMNS = ("tensor", "table", "used", "largest", "entropy", "ideal", "entropy bytes", "in file", "gzip")
# The last columns of PALETTE_COLUMNS, unknown until there is a file.
NUM_FILE_COLUMNS = 2


class _Tensor(Protocol):
    """A compressed tensor with its sizes, as `TensorSummary` describes it."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def num_bits(self) -> int: ...
    @property
    def float_bytes(self) -> int: ...
    @property
    def ideal_bytes(self) -> float: ...
    @property
    def before(self) -> RangeFigures: ...
    @property
    def after(self) -> RangeFigures: ...
    @property
    def container_bits(self) -> int | None: ...
    @property
    def packed_bytes(self) -> int | None: ...
    @property
    def note(self) -> str: ...
    @property
    def gzip_bytes(self) -> int | None: ...
    @property
    def clusters(self) -> Clusters | None: ...


class _FloatKernel(Protocol):
    """A kernel that stays in float, as `KeptFloat` describes it."""

    @property
    def name(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...] | None: ...
    @property
    def float_bytes(self) -> int | None: ...


class _Summary(Protocol):
    """The parts of a `Summary` that the tables need."""

    @property
    def model_name(self) -> str: ...
    @property
    def tensors(self) -> Sequence[_Tensor]: ...
    @property
    def kept_float(self) -> Sequence[_FloatKernel]: ...
    @property
    def record(self) -> CompressionRecord: ...
    @property
    def float_bytes(self) -> int: ...
    @property
    def ideal_bytes(self) -> float: ...
    @property
    def file_bytes(self) -> int | None: ...
    @property
    def gzip_bytes(self) -> int | None: ...
    @property
    def ratio(self) -> float | None: ...
    @property
    def overhead(self) -> str: ...


def summary_tables(summary: _Summary) -> RenderableGroup:
    """Returns all tables that have at least one row, and the totals."""
    try:
        from rich.console import Group as RenderableGroup
    except ImportError as error:
        raise ImportError(missing("rich", "A text table")) from error
    tables = []
    if summary.tensors:
        tables += [_bytes_table(summary), _range_table(summary)]
    if any(t.clusters for t in summary.tensors):
        tables.append(_palette_table(summary))
    if summary.kept_float:
        tables.append(_kept_table(summary))
    if activation_rows(summary.record):
        tables.append(_activation_table(summary.record))
    if summary.record.notes:
        tables.append(_note_table(summary.record))
    return RenderableGroup(*tables, _totals(summary))


def _bytes_table(summary: _Summary) -> Table:
    """Returns the bytes of each tensor, with the columns of the file where there is a file."""
    in_file = summary.file_bytes is not None
    columns = [("tensor", False), ("shape", False), ("bits", True), ("float", True), ("ideal", True)]
    if in_file:
        columns += [("in file", True), ("stored as", False)]
    table = new_table(f"Bytes of {summary.model_name}", columns)
    for t in summary.tensors:
        cells = [t.name, shape_text(t.shape), str(t.num_bits), count(t.float_bytes), count(t.ideal_bytes)]
        if in_file:
            cells += [count(t.packed_bytes), stored_text(t)]
        add_row(table, cells)
    return table


def stored_text(tensor: _Tensor) -> str:
    """Returns how the file stores a tensor: its note, or the bits of its container; empty without a file."""
    if tensor.note or tensor.container_bits is None:
        return tensor.note
    return f"{tensor.container_bits}-bit codes"


def _palette_table(summary: _Summary) -> Table:
    """Returns the occupancy of each palette and the bytes of its indices."""
    columns = PALETTE_COLUMNS if summary.file_bytes is not None else PALETTE_COLUMNS[:-NUM_FILE_COLUMNS]
    table = new_table("Palettes", [(name, name not in ("tensor", "table")) for name in columns])
    for t in summary.tensors:
        if t.clusters:
            add_row(table, [t.name, *palette_cells(t, t.clusters)][: len(columns)])
    return table


def palette_cells(tensor: _Tensor, clusters: Clusters) -> list[str]:
    """Returns the cells of a palette, in the order of `PALETTE_COLUMNS` without the name."""
    sizes = (tensor.ideal_bytes, clusters.entropy_bytes, tensor.packed_bytes, tensor.gzip_bytes)
    return [
        clusters.table,
        f"{clusters.used} of {len(clusters.counts)}",
        percent(clusters.largest),
        f"{clusters.entropy:.2f} of {tensor.num_bits} bits",
        *map(count, sizes),
    ]


def _range_table(summary: _Summary) -> Table:
    """Returns the range figures of each tensor before and after compression."""
    columns = [("tensor", False), ("max|w|", True), ("max|w|/std", True), ("kurtosis", True)]
    table = new_table("Range, before \u2192 after", columns)
    for t in summary.tensors:
        add_row(table, [t.name, *range_cells(t)])
    return table


def range_cells(tensor: _Tensor) -> list[str]:
    """Returns max|w|, max|w| / std and kurtosis, each before and after."""
    names = ("max_abs", "max_over_std", "kurtosis")
    return [f"{number(getattr(tensor.before, n))} \u2192 {number(getattr(tensor.after, n))}" for n in names]


def _kept_table(summary: _Summary) -> Table:
    """Returns the kernels that stay in float, each with its reason."""
    table = new_table("Kept in float", [("kernel", False), ("shape", False), ("bytes", True), ("reason", False)])
    for kernel in summary.kept_float:
        add_row(table, [kernel.name, shape_text(kernel.shape), count(kernel.float_bytes), kernel.reason])
    return table


def _activation_table(record: CompressionRecord) -> Table:
    """Returns the quantized activations with the range and step of each grid."""
    columns = [("after layer", False), ("bits", True), ("range", True), ("step", True)]
    table = new_table("Quantized activations", columns)
    for cells in activation_rows(record):
        add_row(table, cells)
    return table


def activation_rows(record: CompressionRecord) -> list[list[str]]:
    """Returns layer, bits, range and step of each quantized activation; rows rounded at run time have no step."""
    rows = []
    for name, grid in record.activations.items():
        low, high = -(2 ** (grid.num_bits - 1)), 2 ** (grid.num_bits - 1) - 1
        ends = (number(grid.scale * (code - grid.zero_point)) for code in (low, high))
        rows.append([name, str(grid.num_bits), " to ".join(ends), number(grid.scale)])
    return rows + [[f"rows before {name}", str(DYNAMIC_BITS), "of each row", ""] for name in record.dynamic_kernels]


def _note_table(record: CompressionRecord) -> Table:
    """Returns the notes on individual kernels."""
    table = new_table("Notes", [("kernel", False), ("note", False)])
    for name, note in record.notes.items():
        add_row(table, [name, note])
    return table


def _totals(summary: _Summary) -> Text:
    """Returns the totals in two lines."""
    sizes = f"float {count(summary.float_bytes)} bytes"
    if summary.file_bytes is not None:
        sizes += f" \u2192 file {count(summary.file_bytes)} ({summary.ratio:.1f} times smaller"
        if summary.gzip_bytes is not None:
            sizes += f", {count(summary.gzip_bytes)} after gzip"
        sizes += ")"
    return text_cell(f"Total: {sizes}; ideal size of the codes {count(summary.ideal_bytes)}.\n{summary.overhead}")
