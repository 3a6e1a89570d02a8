"""The plot of all rows: perplexity against bytes, with the Pareto front."""

from __future__ import annotations

import math
from pathlib import Path

from ptb_lib.rows import FLOAT_BITS, RunRow, front
from r2keras._util.files import replacing
from r2keras.report.figures.axes import byte_ticks
from r2keras.report.figures.svg import FAINT, GRID, INK, MARKERS, PLAIN, SERIES, new_figure, plain_style

SIZE = (9.2, 5.2)
# Rows with more than this many times the best perplexity are drawn at the edge, labeled with their perplexity.
WORST = 1.25


def write_front(rows: list[RunRow], path: Path) -> None:
    """Draws all rows: color by method, marker by width, a label at the best row of each kind, and the Pareto front.

    Rows far worse than the best lie at the lower edge, labeled with their perplexity.

    Args:
        rows: at least one.
        path: an `.svg` or `.png` file, written whole or not at all.
    """
    methods = list(dict.fromkeys(row["method"] for row in rows if row["weight_bits"] != FLOAT_BITS))
    widths = sorted({row["width"] for row in rows})
    edge = WORST * min(row["perplexity"] for row in rows)
    with plain_style():
        figure = new_figure(*SIZE)
        axes = figure.add_subplot()
        _draw_front(axes, [row | {"perplexity": min(row["perplexity"], edge)} for row in front(rows)])
        for row in rows:
            is_float = row["weight_bits"] == FLOAT_BITS
            color = PLAIN[INK if is_float else SERIES[methods.index(row["method"]) % len(SERIES)]]
            marker = MARKERS[widths.index(row["width"]) % len(MARKERS)]
            label = f"{'float' if is_float else row['method']}, \u00d7{row['width']:g}"
            point = row["bytes"], min(row["perplexity"], edge)
            axes.plot(*point, marker, color=color, markersize=6.5, markeredgewidth=0, zorder=4, label=label)
            if row["perplexity"] > edge:
                value = f"{row['perplexity']:.0f}"
                axes.annotate(value, point, (5, 4), textcoords="offset points", fontsize=7, color=PLAIN[FAINT])
        _label(axes, [row for row in rows if row["perplexity"] <= edge])
        _finish(axes, rows)
        handles, labels = axes.get_legend_handles_labels()
        handle_by_label = dict(zip(labels, handles, strict=True))
        look = {"frameon": False, "fontsize": 7, "labelcolor": PLAIN[FAINT]}
        axes.legend(handle_by_label.values(), handle_by_label.keys(), loc="upper left", bbox_to_anchor=(1, 1), **look)
        with replacing(path) as temporary:
            # Without the date, equal rows give equal files.
            figure.savefig(temporary, metadata={"Date": None} if path.suffix == ".svg" else None)


def _label(axes, rows: list[RunRow]) -> None:
    """Labels the best run of each kind, so not those of other seeds, epochs or settings."""
    named: list[tuple[int, float]] = []
    for name, (size, perplexity) in _best(rows).items():
        crowded = any(abs(math.log(size / other)) < 0.5 and abs(perplexity - ppl) < 1 for other, ppl in named)
        offset = (6, -9) if crowded else (5, 4)
        axes.annotate(name, (size, perplexity), offset, textcoords="offset points", fontsize=7, color=PLAIN[FAINT])
        named.append((size, perplexity))


def _best(rows: list[RunRow]) -> dict[str, tuple[int, float]]:
    """Returns the bytes and perplexity of the best run, by bits and width as text."""
    best: dict[str, tuple[int, float]] = {}
    for row in sorted(rows, key=lambda row: row["perplexity"]):
        name = f"W{row['weight_bits']}A{row['activation_bits']} \u00d7{row['width']:g}"
        best.setdefault(name, (row["bytes"], row["perplexity"]))
    return best


def _draw_front(axes, best: list[RunRow]) -> None:
    """Draws the Pareto front as steps."""
    points = [row["bytes"] for row in best], [row["perplexity"] for row in best]
    axes.plot(*points, color=PLAIN[FAINT], linewidth=1.2, linestyle=(0, (1, 2)), drawstyle="steps-post", zorder=2)


def _finish(axes, rows: list[RunRow]) -> None:
    """Sets scales and labels; better rows are higher up."""
    sizes = [row["bytes"] for row in rows]
    byte_ticks(axes, min(sizes) / 1.25, max(sizes) * 1.6, most=8)
    axes.set_xlabel("bytes of all weights (log scale)")
    axes.set_ylabel("validation perplexity (lower is better)")
    axes.invert_yaxis()
    axes.grid(True, axis="y", color=PLAIN[GRID])
