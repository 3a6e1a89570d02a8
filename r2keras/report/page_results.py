"""The tables of results and runs for the HTML page: cells with values to sort by, links, no constant columns."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from r2keras._util.text import DASH, count, number, percent
from r2keras.report.groups import Group, float_baseline, float_latency, pareto
from r2keras.report.names import regularizer_name
from r2keras.report.recommendation import Recommendation
from r2keras.report.results import COLUMNS
from r2keras.report.stats import Stat, number_stat, percent_stat

# Columns of a narrow screen; others are hidden there.
NARROW_COLUMNS = ("setting", "accuracy %", "bytes")
# Columns that remain if all their cells are equal.
KEPT_COLUMNS = (*NARROW_COLUMNS, "file", "path", "seed")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Args:
        text: what it shows.
        value: what the column is sorted by: a number, or the text itself; empty sorts last.
        href: target of a link; None for plain text.
        title: hover text.
    """

    text: str
    value: float | str
    href: str | None = None
    title: str = ""


def link(path: str | None, page: Path) -> str | None:
    """Returns the URL of a file relative to the page, or None if it does not exist."""
    if path is None or not Path(path).is_file():
        return None
    try:
        relative = os.path.relpath(path, page.parent)
    except ValueError:  # On another drive.
        return None
    return quote(Path(relative).as_posix())


def results_context(groups: list[Group], recommendation: Recommendation | None, page: Path) -> dict[str, Any]:
    """Returns the table of groups: the recommended one, the Pareto front from small to large, then the others."""
    front = {part.key for part in pareto(groups)}
    chosen = recommendation.chosen.key if recommendation and recommendation.chosen else None

    def order(part: Group) -> tuple[bool, bool, bool, int]:
        return part.key != chosen, part.key not in front, part.file_bytes is None, part.file_bytes or 0

    ordered = sorted(groups, key=order)
    baseline = float_baseline(groups)
    cells_of = _columns(groups, page)
    rows = [[cell(part) for cell in cells_of.values()] for part in ordered]
    names, rows, constant = _without_constant(list(cells_of), rows)
    lines = [
        {
            "cells": row,
            "chosen": part.key == chosen,
            "front": part.key in front,
            "first": part.key not in front and before is not None and before.key in front,
        }
        for row, part, before in zip(rows, ordered, [None, *ordered], strict=False)
    ]
    return {
        "columns": names,
        "narrow": NARROW_COLUMNS,
        "left": ("setting", "file"),
        "lines": lines,
        "constant": constant,
        "baseline": f"{percent(baseline.accuracy.mean)} ({regularizer_name(baseline.regularizer)})",
    }


def _columns(groups: list[Group], page: Path) -> dict[str, Callable[[Group], Cell]]:
    """Returns for each column the function that makes its cell."""
    float_ms = float_latency(groups, float_baseline(groups).regularizer)
    columns: dict[str, Callable[[Group], Cell]] = {
        "setting": lambda g: _text_cell(g.label),
        "accuracy %": lambda g: _stat_cell(g.score, percent_stat),
        "bytes": lambda g: Cell(count(g.file_bytes), "" if g.file_bytes is None else g.file_bytes),
        "ms": lambda g: _stat_cell(g.stat("latency_ms"), number_stat),
        "time / float": lambda g: _ratio_cell(g, float_ms),
        "validation %": lambda g: _stat_cell(g.stat("validation_accuracy"), percent_stat),
        "in Keras %": lambda g: _stat_cell(g.stat("accuracy"), percent_stat),
        "max|w|/std": lambda g: _stat_cell(g.stat("max_over_std"), number_stat),
        "seeds": lambda g: Cell(str(len(g.rows)), len(g.rows)),
        "file": lambda g: _file_cell(g, page),
    }
    if all(percent_stat(g.stat("accuracy")) == percent_stat(g.score) for g in groups):
        del columns["in Keras %"]
    if not any(g.stat("validation_accuracy") for g in groups):
        del columns["validation %"]
    if all(link(g.typical_row["path"], page) is None for g in groups):
        del columns["file"]
    return columns


def _text_cell(text: str) -> Cell:
    """Returns a cell that is sorted by its text."""
    return Cell(text, text)


def _stat_cell(stat: Stat | None, text: Callable[[Stat | None], str]) -> Cell:
    """Returns a cell that is sorted by the mean."""
    return Cell(text(stat), "" if stat is None else stat.mean)


def _ratio_cell(part: Group, float_ms: float | None) -> Cell:
    """Returns the latency relative to the float file."""
    stat = part.stat("latency_ms")
    if stat is None or not float_ms:
        return Cell(DASH, "")
    return Cell(f"{stat.mean / float_ms:.2f}x", stat.mean / float_ms)


def _file_cell(part: Group, page: Path) -> Cell:
    """Returns the link to the file of the typical seed."""
    row = part.typical_row
    href = link(row["path"], page)
    if href is None:
        return Cell(DASH, "")
    name = Path(row["path"]).name
    return Cell(f"seed {row['seed']}", row["seed"], href, name)


def runs_context(groups: list[Group], page: Path) -> dict[str, Any]:
    """Returns the table of individual runs, with all columns of the rows that differ anywhere."""
    rows = [row for g in groups for row in g.rows]
    extra = [name for name in dict.fromkeys(key for row in rows for key in row) if name not in COLUMNS]
    names = [*COLUMNS, *extra]
    cells = [[_run_cell(name, row.get(name), page) for name in names] for row in rows]
    names, cells, constant = _without_constant(names, cells)
    return {"columns": names, "lines": cells, "left": ("regularizer", "method", "path"), "constant": constant}


def _without_constant(names: list[str], rows: list[list[Cell]]) -> tuple[list[str], list[list[Cell]], str]:
    """Returns names and rows without the columns that are the same everywhere, and those columns as text."""
    if len(rows) < 2:
        return names, rows, ""
    columns = list(zip(*rows, strict=True))
    same = [len({cell.text for cell in column}) == 1 for column in columns]
    hidden = [equal and name not in KEPT_COLUMNS for equal, name in zip(same, names, strict=True)]
    told = [
        f"{name} {column[0].text}" for name, column, gone in zip(names, columns, hidden, strict=True) if gone
    ]  # fmt: skip
    shown = [[cell for cell, gone in zip(row, hidden, strict=True) if not gone] for row in rows]
    return [name for name, gone in zip(names, hidden, strict=True) if not gone], shown, ", ".join(told)


def _run_cell(name: str, value: Any, page: Path) -> Cell:
    """Returns one value of one run."""
    if value is None:
        return Cell(DASH, "")
    if name == "path":
        return Cell(str(value), str(value), link(str(value), page))
    if isinstance(value, (int, float)):
        return Cell(_number_text(name, value), value)
    return _text_cell(str(value))


def _number_text(name: str, value: float) -> str:
    """Returns a number of a run as text, by the name of its column."""
    if name.endswith("accuracy"):
        return percent(value)
    if name.endswith("_bytes"):
        return count(value)
    return number(value) if isinstance(value, float) else str(value)
