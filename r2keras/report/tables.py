"""Text tables: the results of a run, and what a summary says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from r2keras._errors import missing
from r2keras.report._format import DASH, bits, count, number, number_stat, percent, percent_stat, to_text
from r2keras.report.groups import Group, float_baseline, group

if TYPE_CHECKING:
    from rich.table import Table

    from r2keras.budget import Footprint
    from r2keras.report.routes import Route, Routes
    from r2keras.report.summary import Summary
    from r2keras.search.outcome import Outcome

__all__ = ["results_table", "summary_tables", "to_text"]

RESULT_COLUMNS = ("regularizer", "method", "bits", "n", "float %", "Keras %", "file %", "bytes", "ms", "max/std")
ROUTE_COLUMNS = ("file", "bytes", "gzip", "ms", "p90 ms", "peak KiB")


def results_table(rows: Iterable[Mapping[str, Any]]) -> Table:
    """Returns a rich table with one line per regularizer, method and bit width: mean ± spread over seeds.

    Accuracies are in percent; the spread is the sample standard deviation; `bytes` is the largest file of all seeds;
    `n` counts them.

    Args:
        rows: result rows of one dataset and one model.

    Returns:
        A table for `rich.print`, or for `to_text` where colour codes are not wanted.

    Raises:
        ValueError: no rows, or a bad row.
        TypeError: a value has the wrong type.
        ImportError: rich is not installed.

    Example:

    >>> row = dict(regularizer="linf", method="qat", num_bits=2, seed=0, float_accuracy=0.98, accuracy=0.97,
    ...            file_accuracy=0.97, file_bytes=27912, ideal_bytes=20000, latency_ms=0.2, max_over_std=2.5, path="a")
    >>> next(line.split() for line in to_text(results_table([row])).splitlines() if "qat" in line)
    ['linf', 'qat', '2', '1', '98.00', '97.00', '97.00', '27,912', '0.200', '2.50']
    """
    groups = group(rows)
    table = _table("", [(name, name not in ("regularizer", "method")) for name in RESULT_COLUMNS], foldable="%")
    previous = None
    for part in groups:
        if previous is not None and previous != part.regularizer:
            table.add_section()
        table.add_row(*map(_cell, result_cells(part)))
        previous = part.regularizer
    table.caption = _caption(groups)
    return table


def result_cells(part: Group) -> list[str]:
    """Returns the texts of one group, in the order of `RESULT_COLUMNS`."""
    accuracies = [percent_stat(part.stat(name)) for name in ("float_accuracy", "accuracy", "file_accuracy")]
    return [
        part.regularizer,
        part.method,
        bits(part.num_bits).split(" ")[0],
        str(len(part.rows)),
        *accuracies,
        count(part.file_bytes),
        number_stat(part.stat("latency_ms")),
        number_stat(part.stat("max_over_std")),
    ]


def _caption(groups: list[Group]) -> Any:
    """Returns what the columns mean and what losses are counted from."""
    baseline = float_baseline(groups)
    several = any(len(g.rows) > 1 for g in groups)
    spread = "mean \u00b1 sample standard deviation over n seeds" if several else "one seed"
    return _cell(f"{spread}\nfloat baseline {percent(baseline.accuracy.mean)}, regularizer {baseline.regularizer}")


def summary_tables(summary: Summary) -> Any:
    """Returns the summary as rich tables: bytes, ranges, kernels kept float, totals."""
    try:
        from rich.console import Group as Stack
    except ImportError as error:
        raise ImportError(missing("rich", "a text table")) from error
    parts = [_bytes_table(summary), _range_table(summary)] if summary.tensors else []
    if any(t.clusters for t in summary.tensors):
        parts.append(_palette_table(summary))
    if summary.kept_float:
        parts.append(_kept_table(summary))
    if summary.record.activations:
        parts.append(_activation_table(summary))
    if summary.record.notes:
        parts.append(_note_table(summary))
    return Stack(*parts, _totals(summary))


def routes_table(routes: Routes) -> Table:
    """Returns the files of one model side by side as a rich table."""
    table = _table("", [(name, name != "file") for name in ROUTE_COLUMNS])
    for row in routes.rows:
        table.add_row(*map(_cell, route_cells(row)))
    return table


def footprint_table(footprint: Footprint) -> Any:
    """Returns the bytes of a model by tensor as a rich table: kernels one by one, all other weights in one line."""
    columns = [("tensor", False), ("shape", False), ("bits", True), ("codes", True), ("scales", True)]
    table = _table(f"Bytes of {footprint.model_name}", [*columns, ("bytes", True), ("float", True)])
    for t in footprint.kernels:
        sizes = (t.code_bytes, t.scale_bytes, t.bytes, t.float_bytes)
        cells = [t.name, shape_text(t.shape), bits(t.num_bits).split(" ")[0], *map(count, sizes)]
        table.add_row(*map(_cell, cells))
    rest = [t for t in footprint.tensors if t not in footprint.kernels]
    if rest:
        total = count(sum(t.bytes for t in rest))
        table.add_row(*map(_cell, [f"{len(rest)} biases and statistics", "", "float", total, "0", total, total]))
    table.caption = _cell(footprint.text)
    return table


def search_table(outcome: Outcome) -> Table:
    """Returns the candidates of a search as a rich table, controls first, and the recommendation under it."""
    metric = outcome.search.metric
    columns = [("candidate", False), ("epochs", True), (metric, True), ("lost", True), ("bytes", True)]
    table = _table("", [*columns, ("", False)])
    for row in outcome.rows:
        lost = None if row["drop"] is None else f"{100 * row['drop']:.2f}{'%' if metric == 'perplexity' else ''}"
        remark = "front" if row["on_front"] else "" if row["state"] == "complete" else row["state"]
        remark = ": ".join(filter(None, [remark, row["reason"]]))
        cells = [row["label"], str(row["epochs"]), outcome.value_text(row[metric]), lost or DASH, count(row["bytes"])]
        table.add_row(*map(_cell, [*cells, remark]))
    table.caption = _cell(outcome.text)
    return table


def route_cells(row: Route) -> list[str]:
    """Returns the texts of one file, in the order of `ROUTE_COLUMNS`."""
    kilobytes = None if row.peak_bytes is None else row.peak_bytes / 1024
    sizes, times = (row.file_bytes, row.gzip_bytes), (row.median_ms, row.p90_ms)
    return [row.name, *map(count, sizes), *map(number, times), count(kilobytes)]


def _bytes_table(summary: Summary) -> Table:
    """Returns the table of bytes per tensor; the file's columns only where there is a file."""
    file = summary.file_bytes is not None
    columns = [("tensor", False), ("shape", False), ("bits", True), ("float", True), ("ideal", True)]
    columns += [("in file", True), ("stored as", False)] if file else []
    table = _table(f"Bytes of {summary.model_name}", columns)
    for t in summary.tensors:
        stored = [count(t.packed_bytes), stored_text(t)] if file else []
        cells = [t.name, shape_text(t.shape), str(t.num_bits), count(t.float_bytes), count(t.ideal_bytes), *stored]
        table.add_row(*map(_cell, cells))
    return table


def stored_text(tensor: Any) -> str:
    """Returns how the file stores a tensor: its note, or the bits of its container; nothing without a file."""
    return tensor.note or ("" if tensor.container_bits is None else f"{tensor.container_bits}-bit codes")


PALETTE_COLUMNS = ("tensor", "table", "used", "fullest", "entropy", "ideal", "by entropy", "in file", "gzip")


def _palette_table(summary: Summary) -> Table:
    """Returns the table of palettes: how full their tables are, and how small their indices could be."""
    shown = PALETTE_COLUMNS if summary.file_bytes is not None else PALETTE_COLUMNS[:-2]
    table = _table("Palettes", [(name, name not in ("tensor", "table")) for name in shown])
    for t in summary.tensors:
        if t.clusters:
            table.add_row(*map(_cell, [t.name, *palette_cells(t)][: len(shown)]))
    return table


def palette_cells(tensor: Any) -> list[str]:
    """Returns the texts of a palette, in the order of `PALETTE_COLUMNS` without the name."""
    found = tensor.clusters
    sizes = (tensor.ideal_bytes, found.entropy_bytes, tensor.packed_bytes, tensor.gzip_bytes)
    return [
        found.table,
        f"{found.used} of {len(found.counts)}",
        percent(found.largest),
        f"{found.entropy:.2f} of {tensor.num_bits} bits",
        *map(count, sizes),
    ]


def _range_table(summary: Summary) -> Table:
    """Returns the table of range figures before and after."""
    columns = [("tensor", False), ("max|w|", True), ("max|w|/std", True), ("kurtosis", True)]
    table = _table("Range, before \u2192 after", columns)
    for t in summary.tensors:
        table.add_row(*map(_cell, [t.name, *range_cells(t)]))
    return table


def range_cells(tensor: Any) -> list[str]:
    """Returns max|w|, max|w| / std and kurtosis, each before and after."""
    names = ("max_abs", "max_over_std", "kurtosis")
    return [f"{number(getattr(tensor.before, n))} \u2192 {number(getattr(tensor.after, n))}" for n in names]


def _kept_table(summary: Summary) -> Table:
    """Returns the table of kernels that stay float."""
    table = _table("Kept float", [("kernel", False), ("shape", False), ("bytes", True), ("why", False)])
    for kept in summary.kept_float:
        table.add_row(*map(_cell, [kept.name, shape_text(kept.shape), count(kept.float_bytes), kept.reason]))
    return table


def _activation_table(summary: Summary) -> Table:
    """Returns the table of quantized activations and the range that each grid covers."""
    table = _table("Quantized activations", [("after layer", False), ("bits", True), ("range", True), ("step", True)])
    for cells in activation_rows(summary.record):
        table.add_row(*map(_cell, cells))
    return table


def activation_rows(record: Any) -> list[list[str]]:
    """Returns per quantized activation the layer, bits, the range of its grid and the step."""
    rows = []
    for name, grid in record.activations.items():
        low, high = -(2 ** (grid.num_bits - 1)), 2 ** (grid.num_bits - 1) - 1
        ends = (number(grid.scale * (code - grid.zero_point)) for code in (low, high))
        rows.append([name, str(grid.num_bits), " to ".join(ends), number(grid.scale)])
    return rows


def _note_table(summary: Summary) -> Table:
    """Returns the table of remarks on single kernels."""
    table = _table("Remarks", [("kernel", False), ("remark", False)])
    for name, words in summary.record.notes.items():
        table.add_row(*map(_cell, [name, words]))
    return table


def _totals(summary: Summary) -> Any:
    """Returns the totals in two lines."""
    sizes = f"float {count(summary.float_bytes)} bytes"
    if summary.file_bytes is not None:
        sizes += f" \u2192 file {count(summary.file_bytes)} ({summary.ratio:.1f} times smaller"
        sizes += f", {count(summary.gzip_bytes)} after gzip)" if summary.gzip_bytes is not None else ")"
    return _cell(f"Total: {sizes}; ideal for the codes {count(summary.ideal_bytes)}.\n{summary.overhead}")


def shape_text(shape: tuple[int, ...] | None) -> str:
    """Returns a shape as `3x3x16x32`.

    >>> shape_text((3, 3, 16))
    '3x3x16'
    """
    return DASH if shape is None else "x".join(map(str, shape)) or "scalar"


def _table(title: str, columns: list[tuple[str, bool]], foldable: str = "") -> Table:
    """Returns an empty table; a column is (name, whether it holds numbers), numbers break where it has `foldable`."""
    try:
        from rich import box
        from rich.table import Table
    except ImportError as error:
        raise ImportError(missing("rich", "a text table")) from error
    look: dict[str, Any] = {"box": box.SIMPLE_HEAD, "padding": (0, 1, 0, 0), "pad_edge": False}
    title = _cell(title) if title else None
    table = Table(title=title, title_justify="left", caption_justify="left", **look)
    for name, right in columns:
        whole = right and not (foldable and foldable in name)
        fit: dict[str, Any] = {"no_wrap": True} if whole else {"overflow": "fold", "min_width": 7 if right else 9}
        table.add_column(name, justify="right" if right else "left", **fit)
    return table


def _cell(text: str) -> Any:
    """Returns text that rich does not read as markup."""
    from rich.text import Text

    return Text(text)
