"""Tables of `arm.py`."""

from __future__ import annotations

import collections
from collections.abc import Callable

import numpy as np

from benchmarks.arm_rows import BOTH, NEAR
from benchmarks.arm_system import CPUS, IN_32_BITS
from benchmarks.common import Row, machine_lines, markdown

Column = tuple[str, Callable[[Row], bool]]


def tables(rows: list[Row]) -> str:
    """Returns the tables: files by form, integer files, their operators, dynamic files, refusals, machines."""
    if not rows:
        return "No rows yet."
    integer, dynamic = ([row for row in rows if row["form"].startswith(word)] for word in ("integer", "dynamic"))
    parts = [
        "Files that are equal bit by bit, of all; the largest difference of the others, as a share of the range.",
        _table(rows, form_of, summary),
        "Integer files: outputs with another code; the largest difference in codes.",
        _table(integer, integer_line, codes),
        "Operators of integer files, where their inputs were equal: results with another code, of all; the largest.",
        operators(integer),
        f"Dynamic files: median; outputs that are further off than {NEAR:g} of the range; largest.",
        _table(dynamic, lambda row: f"{row['net']}, {row['weights'].partition(' ')[0]}", shares),
    ]
    refused = collections.Counter(
        f"{cpu}, {form_of(row)}, {row['weights'].partition(' ')[0]}: {text}"
        for row in rows
        for cpu, text in row.get("refused", {}).items()
        if row["kernels"] != "built_in"
    )
    lines = [f"- {reason} ({count} files)" for reason, count in refused.items()]
    parts += ["Refused, with XNNPACK:", "\n".join(lines)] if lines else []
    versions = sorted({f"{row['qemu']} ({row['cpu']})" for row in rows if row["qemu"]})
    return "\n\n".join([*parts, f"QEMU {', '.join(versions)}.", machine_lines(rows, lambda row: row["net"])])


def form_of(row: Row) -> str:
    """Returns the line of the first table that a row belongs to."""
    if row["weights"] == "float":
        return "float"
    kind = row["weights"].partition(" ")[0]
    if kind in ("palette", "alternating"):
        return kind if row["form"].startswith("exact") else f"{kind}, {row['form']}"
    return row["form"]


def integer_line(row: Row) -> str:
    """Returns the line of the table of integer files that a row belongs to."""
    return f"{row['weights'].partition(' ')[0]}{', memory' if 'memory' in row['form'] else ''}"


def summary(rows: list[Row]) -> str:
    """Returns how many files are equal, and the largest difference."""
    compared = [row for row in rows if "refused" not in row]
    if not rows:
        return ""
    equal = sum(row["equal"] == row["values"] for row in compared)
    largest = max((row["largest"] for row in compared), default=0.0)
    broken = sum(row["broken"] for row in compared)
    notes = [f"{equal}/{len(compared)}"] + ([f"{largest:.1e}"] if largest else [])
    notes += [f"{broken} not finite"] if broken else []
    notes += [f"{len(rows) - len(compared)} refused"] if len(compared) < len(rows) else []
    return ", ".join(notes)


def codes(rows: list[Row]) -> str:
    """Returns the share of outputs that have another code, and the largest difference in codes."""
    compared = [row for row in rows if row.get("codes") is not None]
    values, off = (sum(row[name] for row in compared) for name in ("values", "off"))
    return f"{100 * off / values:.1f} %; {max(row['codes'] for row in compared):.0f}" if values else ""


def shares(rows: list[Row]) -> str:
    """Returns the median, the share of outputs beyond float rounding, and the largest difference."""
    compared = [row for row in rows if "refused" not in row]
    values, near = (sum(row[name] for row in compared) for name in ("values", "near"))
    if not values:
        return ""
    median = float(np.median([row["median"] for row in compared]))
    return f"{median:.0e}; {100 * (values - near) / values:.1f} %; {max(row['largest'] for row in compared):.0e}"


def operators(rows: list[Row]) -> str:
    """Returns the table of the operators of integer files."""
    kinds = list(dict.fromkeys(kind for row in rows for kind in row.get("operators", {})))
    columns = _columns(rows)
    lines = []
    for kind in kinds:
        cells = []
        for _, belongs in columns:
            counts = [row["operators"][kind] for row in rows if belongs(row) and kind in row.get("operators", {})]
            values, off = (sum(count[i] for count in counts) for i in range(2))
            largest = max((count[2] for count in counts), default=0)
            cells.append(f"{100 * off / values:.2f} % of {values:,}; {largest}" if values else "")
        lines.append([kind, *cells])
    return markdown(["operator", *(name for name, _ in columns)], lines)


def _columns(rows: list[Row]) -> list[Column]:
    """Returns the columns: XNNPACK on each processor, the built-in kernels on all, and the two on x86."""
    cpus = list(dict.fromkeys(row["cpu"] for row in rows if row["kernels"] == "xnnpack"))
    cpus.sort(key=list(CPUS).index)
    columns: list[Column] = [
        (f"{cpu}, XNNPACK", lambda row, cpu=cpu: (row["cpu"], row["kernels"]) == (cpu, "xnnpack"))  # type: ignore[misc]
        for cpu in cpus
    ]
    columns.append(("64 bits, built-in", lambda row: row["kernels"] == "built_in" and row["cpu"] not in IN_32_BITS))
    columns.append(("x86: XNNPACK against built-in", lambda row: row["kernels"] == BOTH))
    return columns


def _table(rows: list[Row], line: Callable[[Row], str], cell: Callable[[list[Row]], str]) -> str:
    """Returns a table with the lines that `line` gives."""
    columns, lines = _columns(rows), []
    for name in dict.fromkeys(map(line, rows)):
        of_line = [row for row in rows if line(row) == name]
        lines.append([name, *(cell([row for row in of_line if belongs(row)]) for _, belongs in columns)])
    return markdown(["files", *(name for name, _ in columns)], lines)
