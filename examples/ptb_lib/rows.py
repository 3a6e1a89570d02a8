"""The rows of finished runs: one JSON file, a row a line, written whole or not at all; and the table of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ptb_lib.stages import Stage, label
from r2keras._files import atomic_write_text

KEY = ("data", "method", "weight_bits", "activation_bits", "width", "units", "regularizer", "seed")
KEY += ("past", "epochs", "dropout", "commitment")
COLUMNS = (*KEY, "perplexity", "bytes", "counted")
FLOAT_BITS = 32

Row = dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """Reads the rows, oldest first; none if there is no file.

    Raises:
        ValueError: the file is damaged or a row lacks a column.
    """
    if not path.exists():
        return []
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        complete = isinstance(rows, list) and all(set(COLUMNS) <= set(row) for row in rows)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is no readable file of rows ({error}): choose another --results") from error
    if not complete:
        raise ValueError(f"{path} holds something else than rows of this example: choose another --results")
    return rows


def add_row(path: Path, row: Row) -> None:
    """Appends a row, in place of an older one of the same run."""
    rows = [old for old in read_rows(path) if any(old[name] != row[name] for name in KEY)]
    lines = ",\n".join(json.dumps(each, allow_nan=False) for each in [*rows, row])
    atomic_write_text(path, f"[\n{lines}\n]\n")


def find_row(rows: list[Row], columns: Row) -> Row | None:
    """Returns the row of a run that is finished already."""
    return next((row for row in rows if all(row.get(name) == value for name, value in columns.items())), None)


def front(rows: list[Row]) -> list[Row]:
    """Returns the rows that no other beats in perplexity and bytes, smallest first."""
    found: list[Row] = []
    for row in sorted(rows, key=lambda row: (row["bytes"], row["perplexity"])):
        if not found or row["perplexity"] < found[-1]["perplexity"]:
            found.append(row)
    return found


def table(rows: list[Row]) -> str:
    """Returns the rows as a Markdown table, float first, then by falling bits.

    Bytes stand beside how many times smaller they are than those of the float network at width 1; the change is that
    of the perplexity against the best float row of width 1 with the same text and seed, or "-" where there is none. A
    star marks epochs that fall short of a full run's; "before" is the perplexity that the training began with. Where a
    row has a file, its bytes stand there, and its perplexity and that of Keras over the words that both read.
    """
    order = sorted(rows, key=lambda r: (-r["weight_bits"], -r["activation_bits"], r["width"], r["epochs"], r["seed"]))
    head = ["method", "W / A", "width", "units", "R2", "dropout", "commitment", "seed", "epochs"]
    head += ["before", "perplexity", "against float", "bytes", "times smaller"]
    with_files = any("file_bytes" in row for row in rows)
    head += ["file bytes", "file / Keras"] * with_files
    lines = [head, ["---"] * len(head)]
    lines += [_cells(row, rows) + _file_cells(row) * with_files for row in order]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cells(row: Row, rows: list[Row]) -> list[str]:
    """Returns one row's entries."""
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


def _file_cells(row: Row) -> list[str]:
    """Returns one row's entries about its file."""
    if "file_bytes" not in row:
        return ["-", "-"]
    return [f"{row['file_bytes']:,}", f"{row['file_perplexity']:.3f} / {row['keras_perplexity']:.3f}"]


def _float_row(row: Row, rows: list[Row]) -> Row | None:
    """Returns the best float row at width 1 with the same data and seed."""
    same = {"data": row["data"], "seed": row["seed"], "method": "float", "activation_bits": FLOAT_BITS, "width": 1.0}
    found = [each for each in rows if all(each[name] == value for name, value in same.items())]
    return min(found, key=lambda each: each["perplexity"], default=None)
