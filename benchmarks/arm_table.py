"""Tables of `arm.py`."""

from __future__ import annotations

import collections
import re
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
    ]
    if integer:
        parts += [
            "Integer files: outputs with another code; the largest difference in codes.",
            _table(integer, integer_line, codes),
            "Operators of integer files, where their inputs were equal: results with another code; the largest.",
            operators(integer),
        ]
    if dynamic:
        parts += [
            f"Dynamic files: median; outputs that are further off than {NEAR:g} of the range; largest.",
            _table(dynamic, lambda row: f"{row['form']}, {row['weights'].partition(' ')[0]}", shares),
        ]
    parts += refusals(rows)
    run_here = [row for row in rows if "machine" in row]
    versions = sorted({row["qemu"] for row in rows if row["qemu"]})
    return "\n\n".join([*parts, f"QEMU {', '.join(versions)}.", machine_lines(run_here, lambda row: row["net"])])


def refusals(rows: list[Row]) -> list[str]:
    """Returns what processors refuse, with the number of files; nothing if they refuse none."""
    files: dict[tuple[str, str], set[str]] = collections.defaultdict(set)
    for row in rows:
        for cpu, text in row.get("refused", {}).items():
            # What follows the first sentence is advice, or the number of a node.
            files[cpu, re.split(r"\.(?=\s|Node)", text)[0]].add(row["file"])
    lines = [f"- {cpu}: {reason} ({len(names)} files)" for (cpu, reason), names in files.items()]
    return ["Refused:", "\n".join(lines)] if lines else []


def form_of(row: Row) -> str:
    """Returns the line of the first table that a row belongs to."""
    if row["weights"] == "float":
        return "float"
    kind = row["weights"].partition(" ")[0]
    return kind if kind in ("palette", "alternating") and row["form"].startswith("exact") else row["form"]


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
    """Returns the table of the operators of integer files that differ on ARM, then the names of the others."""
    rows = [row for row in rows if row.get("operators")]
    counts: dict[str, list[list[int]]] = collections.defaultdict(list)
    columns = _columns(rows)
    for kind in dict.fromkeys(kind for row in rows for kind in row["operators"]):
        for _, belongs in columns:
            some = [row["operators"][kind] for row in rows if belongs(row) and kind in row["operators"]]
            largest = max((count[2] for count in some), default=0)
            counts[kind].append([sum(count[0] for count in some), sum(count[1] for count in some), largest])
    differing = [kind for kind in counts if any(off for _, off, _ in counts[kind][:-1])]
    lines = [
        [kind, *(f"{100 * off / n:.2f} % of {n:,}; {largest}" if n else "" for n, off, largest in counts[kind])]
        for kind in differing
    ]
    equal = ", ".join(kind for kind in counts if kind not in differing)
    return (
        f"{markdown(['operator', *(name for name, _ in columns)], lines)}\n\nEqual on ARM and x86: {equal or 'none'}."
    )


def _columns(rows: list[Row]) -> list[Column]:
    """Returns the columns: XNNPACK on each 64-bit processor, the built-in kernels there, 32 bits, the two on x86."""

    def xnnpack(cpu: str) -> Column:
        return f"{cpu}, XNNPACK", lambda row: (row["cpu"], row["kernels"]) == (cpu, "xnnpack")

    present = {row["cpu"] for row in rows}
    columns = [xnnpack(cpu) for cpu in CPUS if cpu in present and cpu not in IN_32_BITS]
    columns.append(("64 bits, built-in", lambda row: row["kernels"] == "built_in" and row["cpu"] not in IN_32_BITS))
    if present.intersection(IN_32_BITS):
        name = f"{', '.join(IN_32_BITS)}, built-in"
        columns.append((name, lambda row: row["kernels"] == "built_in" and row["cpu"] in IN_32_BITS))
    return [*columns, ("x86: XNNPACK against built-in", lambda row: row["kernels"] == BOTH)]


def _table(rows: list[Row], line: Callable[[Row], str], cell: Callable[[list[Row]], str]) -> str:
    """Returns a table with the lines that `line` gives."""
    columns, lines = _columns(rows), []
    for name in dict.fromkeys(map(line, rows)):
        of_line = [row for row in rows if line(row) == name]
        lines.append([name, *(cell([row for row in of_line if belongs(row)]) for _, belongs in columns)])
    return markdown(["files", *(name for name, _ in columns)], lines)
