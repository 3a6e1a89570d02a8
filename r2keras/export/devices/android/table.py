"""Results of a phone as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from r2keras._util import text
from r2keras._util.tables import add_row, new_table
from r2keras.export.devices.results import DeviceResult, DeviceResults, verdict

if TYPE_CHECKING:
    from rich.table import Table

BYTES_PER_MB = 2**20


def phone_table(results: DeviceResults) -> Table:
    """Returns a table with one line per file and configuration."""
    figures = ("threads", "init ms", "median ms", "mean ms", "p95 ms", "peak MB", "delegated")
    columns = [("file", False), ("kernels", False), *((name, True) for name in figures), ("outputs", False)]
    table = new_table(f"Results on {results.name}", columns)
    for result in results.results:
        add_row(table, _cells(result))
    return table


def _cells(result: DeviceResult) -> list[str]:
    """Returns the texts of one line."""
    extra = result.extra
    peak = extra.get("peak_memory_bytes")
    times = (extra.get("init_ms"), result.median_ms, extra.get("mean_ms"), extra.get("p95_ms"))
    memory = text.number(peak / BYTES_PER_MB if peak is not None else None)
    kernels = "XNNPACK" if extra.get("xnnpack") else "built-in"
    note = str(extra.get("outputs", ""))
    outputs = note if note.startswith("not checked: ") else verdict(result)
    return [result.file, kernels, str(result.threads), *map(text.number, times), memory, _delegated(extra), outputs]


def _delegated(extra: dict[str, object]) -> str:
    """Returns how many operators the delegate took.

    >>> _delegated({"delegated_operators": 3, "operators": 5}), _delegated({"delegate_kernels": 2})
    ('3 of 5', '2 parts')
    """
    if extra.get("delegated_operators") is not None:
        total = f" of {extra['operators']}" if extra.get("operators") is not None else ""
        return f"{extra['delegated_operators']}{total}"
    kernels = extra.get("delegate_kernels")
    return text.DASH if kernels is None else f"{kernels} part{'s' * (kernels != 1)}"
