"""The plot of the runs: perplexity against bytes, mean and spread over seeds, with the Pareto front."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np

from ptb_lib.rows import FLOAT_BITS, KEY, RunRow, front
from r2keras.report.figures.axes import byte_ticks
from r2keras.report.figures.labels import along_steps, place_labels
from r2keras.report.figures.svg import FAINT, GRID, INK, MARKERS, PLAIN, SERIES, new_figure, plain_style, write_plain

SIZE = (9.2, 5.2)
# What distinguishes the points of the plot; other settings are those of the best training.
KIND = ("method", "weight_bits", "activation_bits", "width", "regularizer")
# The axis shows log(perplexity - best + RESOLUTION): nearly linear within this distance of the best.
RESOLUTION = 4.0
TICKS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 100, 200, 500, 1000)


def write_front(rows: list[RunRow], path: Path) -> None:
    """Draws one point per kind of run: color by method, marker by width, a label, and the Pareto front of the means.

    Of each kind the training with the lowest mean is drawn, with its spread over seeds. The axis of the perplexity is
    stretched toward the best, so that rows far off keep their positions.

    Args:
        rows: at least one.
        path: an `.svg` or `.png` file, written whole or not at all.
    """
    kinds = best_kinds(rows)
    methods = list(dict.fromkeys(row["method"] for row in kinds if row["weight_bits"] != FLOAT_BITS))
    widths = sorted({row["width"] for row in kinds})
    with plain_style():
        figure = new_figure(*SIZE)
        axes = figure.add_subplot()
        _set_axes(axes, kinds)
        for row in kinds:
            is_float = row["weight_bits"] == FLOAT_BITS
            color = PLAIN[INK if is_float else SERIES[methods.index(row["method"]) % len(SERIES)]]
            marker = MARKERS[widths.index(row["width"]) % len(MARKERS)]
            label = f"{'float' if is_float else row['method']}, \u00d7{row['width']:g}"
            ends = row["perplexity"] - row["spread"], row["perplexity"] + row["spread"]
            axes.plot([row["bytes"]] * 2, ends, color=color, linewidth=2.2, alpha=0.5, zorder=3)
            look = {"color": color, "markersize": 6.5, "markeredgewidth": 0, "zorder": 4, "label": label}
            axes.plot(row["bytes"], row["perplexity"], marker, linestyle="none", **look)
        _draw_front(axes, front(kinds))
        handles, labels = axes.get_legend_handles_labels()
        handle_by_label = dict(zip(labels, handles, strict=True))
        look = {"frameon": False, "fontsize": 8, "labelcolor": PLAIN[FAINT]}
        axes.legend(handle_by_label.values(), handle_by_label.keys(), loc="upper left", bbox_to_anchor=(1, 1), **look)
        _label(axes, kinds)
        write_plain(figure, path, title="Validation perplexity against bytes of all weights")


def best_kinds(rows: list[RunRow]) -> list[dict[str, Any]]:
    """Returns one row per kind: its best training, with the mean, spread and number of the seeds.

    The spread is the sample standard deviation, 0 for one seed.
    """
    settings = [name for name in KEY if name != "seed"]
    runs: dict[str, list[RunRow]] = {}
    for row in rows:
        runs.setdefault(str([row[name] for name in settings]), []).append(row)
    best: dict[tuple, dict[str, Any]] = {}
    for same in runs.values():
        values = [row["perplexity"] for row in same]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        mean = same[0] | {"perplexity": statistics.fmean(values), "spread": spread, "seeds": len(values)}
        kind = tuple(mean[name] for name in KIND)
        if kind not in best or mean["perplexity"] < best[kind]["perplexity"]:
            best[kind] = mean
    return list(best.values())


def _set_axes(axes, kinds: list[dict[str, Any]]) -> None:
    """Sets scales and labels; better rows are higher up."""
    sizes = [row["bytes"] for row in kinds]
    byte_ticks(axes, min(sizes) / 1.6, max(sizes) * 1.6, most=8)
    best = min(row["perplexity"] - row["spread"] for row in kinds)
    worst = max(row["perplexity"] + row["spread"] for row in kinds)
    zero = best - RESOLUTION
    axes.set_yscale("function", functions=(lambda p: np.log(np.maximum(p - zero, 1.0)), lambda y: np.exp(y) + zero))
    ticks = [math.floor(best) + step for step in TICKS if math.floor(best) + step <= worst + step / 10]
    axes.set_yticks(ticks, [f"{tick}" for tick in ticks])
    axes.set_ylim(worst + 0.1 * (worst - best) + 1, best - 1)
    axes.set_xlabel("bytes of all weights (log scale)")
    axes.set_ylabel("validation perplexity (lower is better)")
    axes.grid(True, axis="y", color=PLAIN[GRID])


def _label(axes, kinds: list[dict[str, Any]]) -> None:
    """Labels the points with bits and width, those of the front first."""
    best = front(kinds)
    ordered = [*best, *(row for row in kinds if row not in best)]
    points = [(row["bytes"], row["perplexity"]) for row in ordered]
    names = [f"W{row['weight_bits']}A{row['activation_bits']} \u00d7{row['width']:g}" for row in ordered]
    obstacles = [*points, *along_steps(points[: len(best)])]
    place_labels(axes, [(p, [name]) for p, name in zip(points, names, strict=True)], obstacles, color=PLAIN[FAINT])


def _draw_front(axes, best: list[RunRow]) -> None:
    """Draws the Pareto front as steps."""
    points = [row["bytes"] for row in best], [row["perplexity"] for row in best]
    axes.plot(*points, color=PLAIN[FAINT], linewidth=1.2, linestyle=(0, (1, 2)), drawstyle="steps-post", zorder=2)
