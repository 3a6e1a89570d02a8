"""The cost of one differentiable palette as a function of weights, bits and updates, for `dkm.py --scaling`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.common import Row, Rows, machine
from benchmarks.dkm_step import UPDATES, WAYS, apart
from r2keras.report.figures.svg import FAINT, GRID, PLAIN, SERIES, new_figure, plain_style, write_plain

KEYS = ("size", "num_bits", "dim", "updates", "way")
DIMS = (1, 4)
BASE = {"size": 2**18, "num_bits": 4, "updates": UPDATES}
# The values that each panel varies; the others stay at BASE.
PANELS = {
    "size": (2**14, 2**16, 2**18, 2**20, 2**22),
    "num_bits": (1, 2, 4, 6, 8),
    "updates": (1, 3, 5, 10),
}
LABELS = {"size": "weights", "num_bits": "bits of an index", "updates": "updates of the centroids"}
FIGURES = {"step_s": "seconds per step", "extra_mb": "extra memory, MiB"}
# The naive formula is left out if its maps would take more memory.
NAIVE_MIB = 2500
SECONDS = 1.0
SIZE = (9.0, 5.2)


def points() -> list[Row]:
    """Returns the points to measure, each once."""
    unique: dict[tuple, Row] = {}
    for panel, values in PANELS.items():
        for value in values:
            for dim in DIMS:
                for way in WAYS:
                    point = {**BASE, panel: value, "dim": dim, "way": way}
                    if _has_line(panel, way, dim) and (way != "naive" or _naive_mib(point) <= NAIVE_MIB):
                        unique[tuple(point[name] for name in KEYS)] = point
    return list(unique.values())


def run(rows: Rows, minutes: float | None = None, measure: Any = apart) -> bool:
    """Measures the points that have no row yet, each in a fresh process.

    Args:
        rows: the finished rows, by `KEYS`; each new row is written at once.
        minutes: no row is started after this time; None sets no limit.
        measure: measures a point.

    Returns:
        Whether all points are finished.
    """
    about, begin = machine(), time.monotonic()
    finished = {tuple(row[name] for name in KEYS) for row in rows.rows}
    all_points = points()
    for number, point in enumerate(all_points, 1):
        if tuple(point[name] for name in KEYS) in finished:
            continue
        if minutes is not None and time.monotonic() - begin > 60 * minutes:
            return False
        print(f"{number} of {len(all_points)}: {point}", file=sys.stderr, flush=True)
        rows.add([{**point, **measure({**point, "search": False, "seconds": SECONDS}), "machine": about}])
    return True


def write_plot(rows: list[Row], path: Path) -> None:
    """Draws time and memory against weights, bits and updates: r2keras solid, the naive formula dashed.

    Args:
        rows: at least one.
        path: an `.svg` or `.png` file, written whole or not at all.
    """
    with plain_style():
        figure = new_figure(*SIZE)
        panels = figure.subplots(len(FIGURES), len(PANELS), sharex="col", sharey="row")
        for line, figure_name in zip(panels, FIGURES, strict=True):
            for axes, panel in zip(line, PANELS, strict=True):
                _draw(axes, rows, panel, figure_name)
            line[0].set_ylabel(FIGURES[figure_name])
        for axes, panel in zip(panels[-1], PANELS, strict=True):
            axes.set_xlabel(LABELS[panel])
        handles, labels = panels[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left", ncols=len(labels), frameon=False)
        write_plain(figure, path, title="Time and extra memory of one palette per training step")


def series(rows: list[Row], panel: str, way: str, dim: int) -> list[Row]:
    """Returns the rows of one line of a panel, from left to right: those that differ from `BASE` only in its value."""
    others = [name for name in BASE if name != panel]
    own = [row for row in rows if (row["way"], row["dim"]) == (way, dim)]
    return sorted((row for row in own if all(row[name] == BASE[name] for name in others)), key=lambda row: row[panel])


def _draw(axes: Any, rows: list[Row], panel: str, figure_name: str) -> None:
    """Draws the lines and the axes of one panel."""
    for color, dim in zip(SERIES, DIMS, strict=False):
        for way, dashes in zip(WAYS, ("-", (0, (4, 2))), strict=True):
            own = series(rows, panel, way, dim)
            if not _has_line(panel, way, dim):
                continue
            values = [row[panel] for row in own], [max(row[figure_name], 1e-4) for row in own]
            name = f"{way}, {'scalars' if dim == 1 else f'vectors of {dim}'}"
            axes.plot(*values, linestyle=dashes, color=PLAIN[color], marker="o", markersize=3.5, label=name)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    if panel == "size":
        axes.set_xscale("log", base=2)
        axes.set_xticks(PANELS[panel], [f"2^{value.bit_length() - 1}" for value in PANELS[panel]])
    else:
        axes.set_xticks(PANELS[panel], [str(value) for value in PANELS[panel]])
    axes.minorticks_off()
    axes.grid(True, axis="y", color=PLAIN[GRID])
    axes.tick_params(colors=PLAIN[FAINT])


def _has_line(panel: str, way: str, dim: int) -> bool:
    """Whether a panel has a line; to save time, the naive formula on vectors is in the panel of weights only."""
    return way != "naive" or dim == 1 or panel == "size"


def _naive_mib(point: Row) -> float:
    """Returns the approximate memory of the naive formula: three maps of weights by centroids per assignment."""
    return 12 * point["size"] * 2 ** point["num_bits"] * (point["updates"] + 1) / 2**20
