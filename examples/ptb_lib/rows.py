"""The rows of finished runs, one JSON file with one row per line, and their table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ptb_lib.stages import Stage, label
from r2keras._util.files import atomic_write_text

KEY = ("data", "method", "weight_bits", "activation_bits", "width", "units", "regularizer", "seed")
KEY += ("past", "epochs", "dropout", "commitment")
COLUMNS = (*KEY, "perplexity", "bytes", "counted")
FLOAT_BITS = 32

RunRow = dict[str, Any]


def read_rows(path: Path) -> list[RunRow]:
    """Reads the rows, oldest first; an absent file has none.

    Raises:
        ValueError: the file is damaged or a row lacks a column.
    """
    if not path.exists():
        return []
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        complete = isinstance(rows, list) and all(set(COLUMNS) <= set(row) for row in rows)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is not a readable results file ({error}): choose another --results") from error
    if not complete:
        raise ValueError(f"{path} does not hold rows of this example: choose another --results")
    return rows


def add_row(path: Path, row: RunRow) -> None:
    """Appends a row, which replaces an older one of the same run, and writes the file whole or not at all."""
    rows = [old for old in read_rows(path) if any(old[name] != row[name] for name in KEY)]
    lines = ",\n".join(json.dumps(each, allow_nan=False) for each in [*rows, row])
    atomic_write_text(path, f"[\n{lines}\n]\n")


def find_row(rows: list[RunRow], columns: RunRow) -> RunRow | None:
    """Returns the row with these values, if there is one."""
    return next((row for row in rows if all(row.get(name) == value for name, value in columns.items())), None)


def front(rows: list[RunRow]) -> list[RunRow]:
    """Returns the Pareto front of perplexity and bytes, smallest first."""
    best: list[RunRow] = []
    for row in sorted(rows, key=lambda row: (row["bytes"], row["perplexity"])):
        if not best or row["perplexity"] < best[-1]["perplexity"]:
            best.append(row)
    return best


def table(rows: list[RunRow]) -> str:
    """Returns the rows as a Markdown table, float first, then by decreasing bits.

    The reference of "against float" (perplexity) and "times smaller" (bytes) is the best float row of width 1 with the
    same text and seed; without one these cells are "-". "before" is the perplexity at the start of the training. A star
    marks a run shorter than a full training. Rows with a file show its bytes, its perplexity, and that of Keras over
    the same words.
    """
    order = sorted(rows, key=lambda r: (-r["weight_bits"], -r["activation_bits"], r["width"], r["epochs"], r["seed"]))
    head = ["method", "W / A", "width", "units", "R2", "dropout", "commitment", "seed", "epochs"]
    head += ["before", "perplexity", "against float", "bytes", "times smaller"]
    with_files = any("file_bytes" in row for row in rows)
    head += ["file bytes", "file / Keras"] * with_files
    lines = [head, ["---"] * len(head)]
    lines += [_cells(row, rows) + _file_cells(row) * with_files for row in order]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cells(row: RunRow, rows: list[RunRow]) -> list[str]:
    """Returns the cells of one row."""
    past = label(tuple(Stage(**stage) for stage in row["past"]), row["units"])
    epochs = f"{past} + " * bool(past) + str(row["epochs"])
    epochs += "*" * bool(row.get("shortened"))
    before = "-" if row.get("before_training") is None else f"{row['before_training']:.1f}"
    float_row = _float_row(row, rows)
    change = "-" if float_row is None else f"{100 * (row['perplexity'] / float_row['perplexity'] - 1):+.1f} %"
    smaller = "-" if float_row is None else f"{float_row['bytes'] / row['bytes']:.1f}"
    bits = f"{row['weight_bits']} / {row['activation_bits']}"
    names = [row["method"], bits, f"{row['width']:g}", str(row["units"]), row["regularizer"], f"{row['dropout']:g}"]
    names += [f"{row['commitment']:g}", str(row["seed"]), epochs, before]
    return [*names, f"{row['perplexity']:.1f}", change, f"{row['bytes']:,}", smaller]


def _file_cells(row: RunRow) -> list[str]:
    """Returns the cells about the file of one row."""
    if "file_bytes" not in row:
        return ["-", "-"]
    return [f"{row['file_bytes']:,}", f"{row['file_perplexity']:.3f} / {row['keras_perplexity']:.3f}"]


def _float_row(row: RunRow, rows: list[RunRow]) -> RunRow | None:
    """Returns the best float row at width 1 with the same data and seed."""
    same = {"data": row["data"], "seed": row["seed"], "method": "float", "activation_bits": FLOAT_BITS, "width": 1.0}
    candidates = [each for each in rows if all(each[name] == value for name, value in same.items())]
    return min(candidates, key=lambda each: each["perplexity"], default=None)
