"""The front: perplexity against bytes."""

from __future__ import annotations

import math
from pathlib import Path

from ptb_lib.rows import FLOAT_BITS, Row, front
from r2keras._files import replacing
from r2keras.report.axes import byte_ticks
from r2keras.report.svg import FAINT, GRID, INK, MARKERS, PLAIN, SERIES, new_figure, plain_style

SIZE = (9.2, 5.2)
WORST = 1.25  # Networks of more than so many times the best perplexity are drawn at the edge, with their figure.


def write_front(rows: list[Row], path: Path) -> None:
    """Draws all rows: colour by method, marker by width, bits beside the best point of each kind, the front as stairs.

    Rows far worse than the best lie at the lower edge, their perplexity beside them.

    Args:
        rows: at least one.
        path: an `.svg` or `.png`, written whole or not at all.
    """
    methods = list(dict.fromkeys(row["method"] for row in rows if row["weight_bits"] != FLOAT_BITS))
    widths = sorted({row["width"] for row in rows})
    edge = WORST * min(row["perplexity"] for row in rows)
    with plain_style():
        figure = new_figure(*SIZE)
        axes = figure.add_subplot()
        _draw_stairs(axes, [row | {"perplexity": min(row["perplexity"], edge)} for row in front(rows)])
        for row in rows:
            floats = row["weight_bits"] == FLOAT_BITS
            color = PLAIN[INK if floats else SERIES[methods.index(row["method"]) % len(SERIES)]]
            marker = MARKERS[widths.index(row["width"]) % len(MARKERS)]
            label = f"{'float' if floats else row['method']}, \u00d7{row['width']:g}"
            place = row["bytes"], min(row["perplexity"], edge)
            axes.plot(*place, marker, color=color, markersize=6.5, markeredgewidth=0, zorder=4, label=label)
            if row["perplexity"] > edge:
                value = f"{row['perplexity']:.0f}"
                axes.annotate(value, place, (5, 4), textcoords="offset points", fontsize=7, color=PLAIN[FAINT])
        _label(axes, [row for row in rows if row["perplexity"] <= edge])
        _finish(axes, rows)
        found = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        look = {"frameon": False, "fontsize": 7, "labelcolor": PLAIN[FAINT]}
        axes.legend(found.values(), found.keys(), loc="upper left", bbox_to_anchor=(1, 1), **look)
        with replacing(path) as temporary:
            # Without the date the same rows give the same file.
            figure.savefig(temporary, metadata={"Date": None} if path.suffix == ".svg" else None)


def _label(axes, rows: list[Row]) -> None:
    """Names the best run of each kind; runs of other seeds, epochs or settings lie under it."""
    named: list[tuple[int, float]] = []
    for name, (size, perplexity) in _best(rows).items():
        crowded = any(abs(math.log(size / other)) < 0.5 and abs(perplexity - ppl) < 1 for other, ppl in named)
        offset = (6, -9) if crowded else (5, 4)
        axes.annotate(name, (size, perplexity), offset, textcoords="offset points", fontsize=7, color=PLAIN[FAINT])
        named.append((size, perplexity))


def _best(rows: list[Row]) -> dict[str, tuple[int, float]]:
    """Returns bits and width of each kind of network, with bytes and perplexity of its best run."""
    found: dict[str, tuple[int, float]] = {}
    for row in sorted(rows, key=lambda row: row["perplexity"]):
        name = f"W{row['weight_bits']}A{row['activation_bits']} \u00d7{row['width']:g}"
        found.setdefault(name, (row["bytes"], row["perplexity"]))
    return found


def _draw_stairs(axes, best: list[Row]) -> None:
    places = [row["bytes"] for row in best], [row["perplexity"] for row in best]
    axes.plot(*places, color=PLAIN[FAINT], linewidth=1.2, linestyle=(0, (1, 2)), drawstyle="steps-post", zorder=2)


def _finish(axes, rows: list[Row]) -> None:
    """Sets scales and labels; better is up."""
    sizes = [row["bytes"] for row in rows]
    byte_ticks(axes, min(sizes) / 1.25, max(sizes) * 1.6, most=8)
    axes.set_xlabel("bytes of all weights (log scale)")
    axes.set_ylabel("validation perplexity (less is better)")
    axes.invert_yaxis()
    axes.grid(True, axis="y", color=PLAIN[GRID])
